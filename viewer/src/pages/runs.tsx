/** The list of runs. */
import { useRef, useState } from 'preact/hooks'
import type { RunSummary } from '../api'
import { State } from '../parts/chips'
import { Notice } from '../parts/text'
import { ago, count, counted, line, model, money, seconds, short, when } from '../format'
import { go, href } from '../route'
import type { Source } from '../source'
import { useKeys, useLoaded } from '../use'

const PAGE = 100
const STATES = ['answered', 'live', 'failed', 'cut off', 'stopped', 'max_turns', 'max_time', 'max_tokens', 'max_cost', 'max_calls', 'max_errors']

export function Runs({ source }: { source: Source }) {
  const [search, setSearch] = useState('')
  const [chosen, setChosen] = useState({ model: '', state: '' })
  const [offset, setOffset] = useState(0)
  const [at, setAt] = useState(0)
  const [marked, setMarked] = useState<string[]>([])
  const field = useRef<HTMLInputElement>(null)
  const filter = { search, ...chosen, offset, limit: PAGE }
  const { value, error, loading } = useLoaded(() => source.runs(filter), [search, chosen, offset])
  const runs = value?.runs ?? []
  const current = runs[Math.min(at, runs.length - 1)]

  const mark = (id: string) => setMarked(marked.includes(id) ? marked.filter((each) => each !== id) : [...marked.slice(-1), id])
  useKeys({
    '/': () => field.current?.focus(),
    Escape: () => (document.activeElement as HTMLElement | null)?.blur(),
    j: () => setAt(Math.min(at + 1, runs.length - 1)),
    k: () => setAt(Math.max(at - 1, 0)),
    ArrowDown: () => setAt(Math.min(at + 1, runs.length - 1)),
    ArrowUp: () => setAt(Math.max(at - 1, 0)),
    Enter: () => current && go('run', current.id),
    x: () => current && mark(current.id),
    c: () => marked.length === 2 && go('compare', ...marked),
  })
  const narrow = (change: Partial<typeof chosen>) => {
    setChosen({ ...chosen, ...change })
    setOffset(0)
  }

  return (
    <section class="page">
      <div class="bar">
        <h1>Runs</h1>
        <input
          ref={field} type="search" placeholder="Search questions  ( / )" aria-label="Search questions" value={search}
          onInput={(event) => { setSearch(event.currentTarget.value); setOffset(0); setAt(0) }}
        />
        <select aria-label="State" value={chosen.state} onChange={(event) => narrow({ state: event.currentTarget.value })}>
          <option value="">Any state</option>
          {STATES.map((state) => <option value={state} key={state}>{state.replace('_', ' ')}</option>)}
        </select>
        <select aria-label="Model" value={chosen.model} onChange={(event) => narrow({ model: event.currentTarget.value })}>
          <option value="">Any model</option>
          {value?.models.map((name) => <option value={name} key={name}>{model(name)}</option>)}
        </select>
        <span class="grow" />
        {marked.length > 0 && (
          <button disabled={marked.length < 2} onClick={() => go('compare', ...marked)}>
            {marked.length < 2 ? 'Mark one more to compare' : 'Compare two'}
          </button>
        )}
        <span class="faint" aria-live="polite">{value ? counted(value.total, 'run') : ''}</span>
      </div>
      {error ? (
        <Notice kind="error" title="The runs cannot be read">{error.message}</Notice>
      ) : loading && !value ? (
        <Notice kind="loading" title="Reading the store" />
      ) : runs.length === 0 ? (
        <Notice kind="empty" title={search || chosen.model || chosen.state ? 'No run matches' : 'Nothing is recorded yet'}>
          {search || chosen.model || chosen.state ? 'Fewer words, or another state.' : <code>recursor ask "What is this about?" book.txt</code>}
        </Notice>
      ) : (
        <table class="list">
          <thead>
            <tr>
              <th aria-label="Marked" /><th>Question</th><th>State</th><th>Model</th><th class="num">Turns</th><th class="num">Calls</th>
              <th class="num">Tokens</th><th class="num">Cost</th><th class="num">Time</th><th>Started</th>
            </tr>
          </thead>
          <tbody>
            {runs.map((run, index) => (
              <Line key={run.id} run={run} current={index === at} marked={marked.includes(run.id)} mark={() => mark(run.id)} />
            ))}
          </tbody>
        </table>
      )}
      {value && value.total > PAGE && (
        <div class="bar pager">
          <button disabled={offset === 0} onClick={() => setOffset(offset - PAGE)}>Newer</button>
          <span class="faint">{count(offset + 1)} to {count(Math.min(offset + PAGE, value.total))} of {count(value.total)}</span>
          <button disabled={offset + PAGE >= value.total} onClick={() => setOffset(offset + PAGE)}>Older</button>
        </div>
      )}
      {value && <p class="faint foot">{value.store}</p>}
    </section>
  )
}

function Line({ run, current, marked, mark }: { run: RunSummary; current: boolean; marked: boolean; mark: () => void }) {
  return (
    <tr class={current ? 'current' : ''} onClick={(event) => (event.target as HTMLElement).tagName !== 'INPUT' && go('run', run.id)}>
      <td><input type="checkbox" checked={marked} onChange={mark} aria-label="Mark to compare" /></td>
      <td class="question"><a href={href('run', run.id)}>{line(run.question) || '(no question)'}</a></td>
      <td><State state={run.state} /></td>
      <td>{model(run.model)}</td>
      <td class="num">{run.turns ?? '–'}</td>
      <td class="num">{run.calls === null ? '–' : short(run.calls)}</td>
      <td class="num">{run.tokens === null ? '–' : short(run.tokens)}</td>
      <td class="num">{run.ended === null ? '–' : money(run.cost)}</td>
      <td class="num">{seconds(run.duration)}</td>
      <td class="faint" title={when(run.started)}>{ago(run.started)}</td>
    </tr>
  )
}
