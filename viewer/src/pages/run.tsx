/** One run: what it answered, and all that led there. */
import { useEffect, useRef, useState } from 'preact/hooks'
import type { Run } from '../api'
import { About } from '../parts/about'
import { Answer } from '../parts/answer'
import { Calls } from '../parts/calls'
import { State } from '../parts/chips'
import { Coverage } from '../parts/coverage'
import { Detail } from '../parts/detail'
import { Evidence } from '../parts/evidence'
import { Flame } from '../parts/flame'
import { Notice } from '../parts/text'
import { Tree } from '../parts/tree'
import { ago, clean, counted, line, model, money, seconds, short, when } from '../format'
import { go, href, slide } from '../route'
import { parts, read, type Selection } from '../select'
import type { Source } from '../source'
import { Trace } from '../trace'
import { useKeys } from '../use'

const TABS: [string, string][] = [['trace', 'Trace'], ['calls', 'Sub-calls'], ['coverage', 'Coverage'], ['answer', 'Answer'], ['about', 'About']]

export function RunPage({ source, id, rest }: { source: Source; id: string; rest: string[] }) {
  const { run, trace, version, error, lost } = useRun(source, id)
  const [tab = 'trace', ...selected] = rest
  const show = (name: string) => go('run', id, name)
  useKeys({
    t: () => show('trace'), s: () => show('calls'), c: () => show('coverage'), a: () => show('answer'), i: () => show('about'), u: () => source.served && go(),
  })
  if (error) return <Notice kind="error" title="This run cannot be shown">{error.message}{source.served && <p><a href={href()}>All runs</a></p>}</Notice>
  if (!run || !trace) return <Notice kind="loading" title="Reading the run" />
  const selection = read(selected, id)
  const select = (next: Selection) => slide('run', id, 'trace', ...parts(next, id))
  return (
    <section class="page run">
      <Head source={source} run={run} trace={trace} lost={lost} />
      <nav class="tabs" role="tablist">
        {TABS.map(([name, title]) => (
          <a key={name} role="tab" aria-selected={tab === name} class={tab === name ? 'on' : ''} href={href('run', id, name)}>
            {title}{name === 'calls' ? <span class="faint"> {short(trace.turns.flat().reduce((all, turn) => all + turn.subs.length, 0))}</span> : null}
          </a>
        ))}
      </nav>
      {tab === 'calls' ? <Calls source={source} trace={trace} version={version} root={id} />
        : tab === 'coverage' ? <Coverage source={source} root={id} rest={selected} />
        : tab === 'answer' ? <div class="detail-body wide"><Answer source={source} run={run} />{run.answer && <Evidence source={source} root={id} />}</div>
        : tab === 'about' ? <About run={run} />
        : (
          <>
            <Flame trace={trace} version={version} selection={selection} select={select} />
            <div class="panes">
              <Tree trace={trace} version={version} selection={selection} select={select} />
              <div class="detail"><Detail source={source} trace={trace} version={version} root={id} selection={selection} /></div>
            </div>
          </>
        )}
    </section>
  )
}

function Head({ source, run, trace, lost }: { source: Source; run: Run; trace: Trace; lost: boolean }) {
  const sums = trace.ofRun(0)
  const [stopping, setStopping] = useState(false)
  const [refused, setRefused] = useState('')
  const live = run.state === 'live' && source.served
  const stop = async () => {
    setStopping(true)
    setRefused('')
    await source.stop(run.id).catch((error) => {
      setRefused(error.message)
      setStopping(false)
    })
  }
  return (
    <header class="run-head">
      <div class="bar">
        {source.served && <a class="back" href={href()} aria-label="All runs">←</a>}
        <h1 title={clean(run.question)}>{line(run.question, 160) || '(no question)'}</h1>
        <State state={run.state} />
        <span class="grow" />
        {live && (refused || lost) && <span class="bad" role="status">{refused || 'The viewer does not answer: this is what was seen last.'}</span>}
        {live && <button class="stop" disabled={stopping} onClick={stop}>{stopping ? 'Stopping' : 'Stop'}</button>}
      </div>
      <dl class="figures">
        <div><dt>Model</dt><dd title={clean(run.model)}>{model(run.model)}{run.sub_model !== run.model && <span class="faint"> + {model(run.sub_model)}</span>}</dd></div>
        <div><dt>Turns</dt><dd>{run.turns ?? trace.turns[0]?.length ?? 0}</dd></div>
        <div><dt>Calls</dt><dd>{short(sums.calls)}{sums.failed > 0 && <span class="bad"> {short(sums.failed)} failed</span>}</dd></div>
        <div><dt>Tokens</dt><dd>{short(sums.input + sums.output)}{sums.cached > 0 && <span class="faint"> {Math.round((100 * sums.cached) / sums.input)} % cached</span>}</dd></div>
        <div><dt>Cost</dt><dd>{run.ended !== null ? money(run.cost) : sums.unpriced ? 'unknown' : money(sums.cost)}</dd></div>
        <div><dt>Time</dt><dd>{seconds(run.duration ?? trace.end)}</dd></div>
        <div><dt>RLMs</dt><dd>{counted(trace.runs.length, 'run')}</dd></div>
        <div><dt>Isolation</dt><dd title={run.isolation ? clean(run.isolation.mechanisms.join(', ')) : ''}>{run.isolation ? clean(run.isolation.sandbox) : 'no REPL'}</dd></div>
        <div><dt>Started</dt><dd title={when(run.started)}>{ago(run.started)}</dd></div>
      </dl>
    </header>
  )
}

interface Shown {
  run?: Run
  trace?: Trace
  version: number
  error?: Error
  /** Whether a run that goes is heard of no more. */
  lost: boolean
}

/** A run and its trace; both grow while it goes. */
function useRun(source: Source, id: string): Shown {
  const [shown, set] = useState<Shown>({ version: 0, lost: false })
  const pending = useRef(false)
  useEffect(() => {
    let end = () => {}
    let wanted = true
    const load = async () => {
      const [run, spans] = await Promise.all([source.run(id), source.spans(id)])
      const trace = new Trace(spans)
      if (!wanted) return
      if (run.id !== id) return slide('run', run.id)
      set((before) => ({ run, trace, version: before.version + 1, lost: false }))
      if (run.state !== 'live') return
      const grown = () => {
        pending.current = false
        set((before) => ({ ...before, version: before.version + 1 }))
      }
      end = source.follow(id, trace.next, {
        seen: (more) => {
          trace.add(more)
          if (!pending.current) {
            pending.current = true
            requestAnimationFrame(grown)
          }
        },
        // Read anew, since a run that was resumed takes the place of what was there.
        over: () => load().catch(failed),
        lost: (gone) => set((before) => (before.lost === gone ? before : { ...before, lost: gone })),
        failed: (why) => failed(new Error(why)),
      })
    }
    const failed = (error: Error) => wanted && set({ version: 0, lost: false, error })
    load().catch(failed)
    return () => {
      wanted = false
      end()
    }
  }, [id])
  return shown
}
