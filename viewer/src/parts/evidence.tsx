/** Where the answer came from, as far as that is beyond doubt: replies, outputs and passages in which it stands. */
import type { Coverage, Evidence as Given, EvidenceItem, Found } from '../api'
import { clean, count, counted, line } from '../format'
import { href } from '../route'
import type { Source } from '../source'
import { useLoaded } from '../use'
import { Fold } from './detail'
import { Notice } from './text'

const MOST = 20
const PLACES: Record<Found['in'], string> = {
  context: 'in the context', reply: 'in the reply to a sub-call', child: 'in the answer of a child', output: 'in what code printed', variable: 'in a variable', tool: 'in what a tool returned', code: 'in code that the root LM wrote',
}

export function Evidence({ source, root }: { source: Source; root: string }) {
  const { value, error } = useLoaded(() => source.evidence(root), [root])
  const covered = useLoaded(() => source.coverage(root), [root])
  if (error) return <Notice kind="empty" title="It is not known where it came from">{error.message}</Notice>
  if (!value) return <Notice kind="loading" title="Looking for the answer in all that was read and said" />
  const known = value.items.filter((item) => item.parts.length > 0)
  return (
    <section class="evidence">
      <h3>Evidence <span class="faint">where it stands verbatim; what code computed stands nowhere</span></h3>
      {value.unknown && <p class="note">Of the context nothing can be said: {clean(value.unknown)}</p>}
      {known.length === 0 && <p class="faint">No part of the answer stands in anything that was read, said or printed: where it came from is not known.</p>}
      {known.map((item) => <Item key={item.path} item={item} root={root} reads={value.reads} covered={covered.value} />)}
      {value.items.length > known.length && <p class="faint">{counted(value.items.length - known.length, 'value')} of the answer: unknown.</p>}
      {value.total > value.items.length && <p class="faint">{count(value.total - value.items.length)} more values were not looked at.</p>}
    </section>
  )
}

interface ItemProps {
  item: EvidenceItem
  root: string
  reads: Given['reads']
  covered: Coverage | undefined
}

function Item({ item, root, reads, covered }: ItemProps) {
  return (
    <div class="evidence-item">
      {item.path !== '$' && <code>{clean(item.path)}</code>}
      {item.parts.slice(0, MOST).map((part, index) => (
        <div class="evidence-part" key={index}>
          <blockquote>{line(part.text, 300)}</blockquote>
          <ul>
            {part.found.slice(0, MOST).map((found, at) => (
              <li key={at}><Place found={found} root={root} covered={covered} /><Read found={found} root={root} reads={reads} covered={covered} /></li>
            ))}
          </ul>
          {part.found.length > MOST && <p class="faint">and at {count(part.found.length - MOST)} more places</p>}
        </div>
      ))}
      {item.parts.length > MOST && <p class="faint">and {counted(item.parts.length - MOST, 'more part')}</p>}
    </div>
  )
}

function Place({ found, root, covered }: { found: Found; root: string; covered: Coverage | undefined }) {
  const said = PLACES[found.in]
  switch (found.in) {
    case 'context': return <Span name={found.where} start={found.start} end={found.end} root={root} covered={covered} before={`${said}: `} />
    case 'reply': return <a href={href('run', root, 'trace', 'call', found.where)}>{said}</a>
    case 'child': return <a href={href('run', root, 'trace', 'child', found.where)}>{said}</a>
    case 'tool': return <span>{said}</span>
    default: return <a href={href('run', root, 'trace', 'turn', root, found.where.split('.')[0])}>{said}, turn {found.where.replace('.', ', cell ')}</a>
  }
}

/** What the prompt of the call held, whose reply a part stands in. */
function Read({ found, root, reads, covered }: { found: Found; root: string; reads: Given['reads']; covered: Coverage | undefined }) {
  const spans = found.in === 'reply' ? (reads[found.where] ?? []) : []
  if (spans.length === 0) return null
  return (
    <Fold title={`which read ${counted(spans.length, 'passage')} of the context`}>
      <ul>{spans.slice(0, MOST).map((span, at) => <li key={at}><Span name={span.document} start={span.start} end={span.end} root={root} covered={covered} before="" /></li>)}</ul>
    </Fold>
  )
}

function Span({ name, start, end, root, covered, before }: { name: string; start: number; end: number; root: string; covered: Coverage | undefined; before: string }) {
  const number = covered?.documents.findIndex((document) => document.name === name) ?? -1
  const said = `${before}${clean(name)}, characters ${count(start)} to ${count(end)}`
  return number < 0 ? <span>{said}</span> : <a href={href('run', root, 'coverage', number, start)}>{said}</a>
}
