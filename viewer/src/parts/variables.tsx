/** What a cell did to the variables of the REPL. */
import type { Variable } from '../api'
import { clean, count, counted } from '../format'

const MARKS = { new: '+', changed: '~', gone: '−' }

export function Variables({ variables, more }: { variables: Variable[]; more: number }) {
  return (
    <details class="variables" open={variables.length <= 6}>
      <summary>{counted(variables.length + more, 'variable')} changed</summary>
      <table>
        <tbody>
          {variables.map((variable) => (
            <tr key={variable.name} class={variable.change}>
              <td class="mark" title={variable.change} aria-label={variable.change}>{MARKS[variable.change]}</td>
              <th scope="row">{clean(variable.name)}</th>
              <td>{clean(variable.type)}</td>
              <td class="faint">{clean(variable.size)}</td>
              <td class="preview">{clean(variable.preview)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {more > 0 && <p class="faint more">and {count(more)} others</p>}
    </details>
  )
}
