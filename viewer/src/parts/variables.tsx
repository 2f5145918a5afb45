/** What a cell did to the variables of the REPL. */
import type { Variable } from '../api'
import { clean, counted } from '../format'

const MARKS = { new: '+', changed: '~', gone: '−' }

export function Variables({ variables }: { variables: Variable[] }) {
  return (
    <details class="variables" open={variables.length <= 6}>
      <summary>{counted(variables.length, 'variable')} changed</summary>
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
    </details>
  )
}
