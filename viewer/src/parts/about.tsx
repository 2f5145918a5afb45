/** What a run was asked, where it ran, and what it cost. */
import type { Run } from '../api'
import { clean, count, counted, money, own, share, when } from '../format'
import { Text } from './text'

export function About({ run }: { run: Run }) {
  return (
    <div class="detail-body wide">
      <section>
        <h3>Usage and cost</h3>
        <Shares run={run} />
      </section>
      <section>
        <h3>Given</h3>
        {run.contexts.length === 0 && <p class="faint">Nothing but the question.</p>}
        {run.contexts.map((context) => (
          <div class="given" key={context.name}>
            <p><code>{clean(context.name)}</code> {clean(context.type)}, {clean(context.size)}{context.source && <> from <code>{clean(context.source)}</code></>}</p>
            <Text text={context.preview} kind="mono" first={1200} />
            {context.digest && <p class="faint digest">{context.digest}</p>}
          </div>
        ))}
      </section>
      {run.isolation && (
        <section>
          <h3>Isolation in force</h3>
          <dl class="facts tall">
            {(['sandbox', 'files', 'network', 'processes', 'environment', 'kernel', 'memory'] as const).map((name) => (
              <div key={name}><dt>{name}</dt><dd>{clean(run.isolation![name])}</dd></div>
            ))}
            <div><dt>by</dt><dd>{run.isolation.mechanisms.map(clean).join(', ')}</dd></div>
          </dl>
        </section>
      )}
      <section>
        <h3>Asked</h3>
        <dl class="facts tall">
          <div><dt>run</dt><dd><code>{run.id}</code></dd></div>
          <div><dt>started</dt><dd>{when(run.started)}</dd></div>
          <div><dt>strategy</dt><dd>{run.strategy}: {clean(run.reason)}</dd></div>
          {run.replayed > 0 && <div><dt>resumed</dt><dd>{counted(run.replayed, 'call')} had been recorded{run.diverged_at ? `; it went another way at turn ${run.diverged_at}` : ''}</dd></div>}
        </dl>
        {Object.keys(run.limits).length > 0 && <p class="limits">Limits: {Object.entries(run.limits).map(([name, value]) => `${name.replace('max_', '').replaceAll('_', ' ')} ${name === 'max_cost' ? money(value) : count(value)}`).join(', ')}</p>}
        <Text text={JSON.stringify(run.settings, null, 2)} kind="mono" />
      </section>
      {run.events.length > 0 && (
        <section>
          <h3>Noted on the way</h3>
          <table class="list compact"><tbody>
            {run.events.map((event, index) => <tr key={index}><td>{event.kind}</td><td class="num">{event.turn ? `turn ${event.turn}` : ''}</td><td>{clean(event.text)}</td></tr>)}
          </tbody></table>
        </section>
      )}
    </div>
  )
}

const PURPOSES: Record<string, string> = { root: 'root LM', sub: 'sub-calls', compaction: 'summaries' }

function Shares({ run }: { run: Run }) {
  const known = run.shares.reduce((all, row) => all + (row.cost ?? 0), 0)
  return (
    <table class="list compact">
      <thead><tr><th>Depth</th><th>For</th><th>Model</th><th class="num">Calls</th><th class="num">Failed</th><th class="num">In</th><th class="num">Cached</th><th class="num">Out</th><th class="num">Cost</th><th class="num">Share</th></tr></thead>
      <tbody>
        {run.shares.map((row, index) => (
          <tr key={index}>
            <td>{row.depth}</td><td>{own(PURPOSES, row.purpose) ?? row.purpose}</td><td>{clean(row.model)}</td><td class="num">{count(row.calls)}</td><td class="num">{row.failed || ''}</td>
            <td class="num">{count(row.input_tokens)}</td><td class="num">{count(row.cached_tokens)}</td><td class="num">{count(row.output_tokens)}</td>
            <td class="num">{money(row.cost)}</td><td class="num">{row.cost === null ? '–' : share(row.cost, known)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  )
}
