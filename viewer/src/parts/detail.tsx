/** What is selected, whole: a run, a turn with its cells, or a call with its prompt. */
import { useState } from 'preact/hooks'
import type { Call, Execution, Message, Turn } from '../api'
import { clean, count, counted, money, own, seconds, short } from '../format'
import { href } from '../route'
import { parts, type Selection } from '../select'
import type { Source } from '../source'
import type { Trace } from '../trace'
import { useLoaded } from '../use'
import { State } from './chips'
import { Code } from './code'
import { Diff } from './diff'
import { Copy, Notice, Text } from './text'
import { Variables } from './variables'

interface Props {
  source: Source
  trace: Trace
  version: number
  root: string
  selection: Selection
}

export function Detail(props: Props) {
  const { selection } = props
  if (selection.kind === 'call') return <CallDetail {...props} id={selection.id} />
  if (selection.kind === 'turn') return <TurnDetail {...props} run={selection.run} number={selection.turn} />
  return <RunDetail {...props} run={selection.run} />
}

// A run ---------------------------------------------------------------------------------------

function RunDetail({ trace, root, run }: Props & { run: string }) {
  const index = trace.runs.findIndex((each) => each.id === run)
  if (index < 0) return <Notice kind="empty" title="This run has no such child" />
  const row = trace.runs[index]
  return (
    <div class="detail-body">
      <h2>{index === 0 ? 'The run' : `RLM at depth ${row.depth}`} <State state={row.state} /></h2>
      <Text text={row.question} />
      {row.error !== null && <Notice kind="error" title={row.state === 'stopped' ? 'It was stopped' : 'It failed'}>{clean(row.error)}</Notice>}
      <table class="list compact">
        <thead><tr><th>Turn</th><th class="num">Cells</th><th class="num">Sub-calls</th><th class="num">Children</th><th class="num">Tokens</th><th class="num">Cost</th></tr></thead>
        <tbody>
          {trace.turns[index].map((turn) => {
            const sums = trace.ofTurn(turn)
            return (
              <tr key={turn.number}>
                <td><a href={href('run', root, 'trace', ...parts({ kind: 'turn', run, turn: turn.number }, root))}>Turn {turn.number}</a></td>
                <td class="num">{turn.blocks.length}</td><td class="num">{count(turn.subs.length)}</td><td class="num">{turn.children.length}</td>
                <td class="num">{short(sums.input + sums.output)}</td><td class="num">{sums.unpriced ? 'unknown' : money(sums.cost)}</td>
              </tr>
            )
          })}
        </tbody>
      </table>
    </div>
  )
}

// A turn --------------------------------------------------------------------------------------

function TurnDetail({ source, version, root, run, number, trace }: Props & { run: string; number: number }) {
  const live = trace.runs.find((each) => each.id === run)?.state === 'open'
  const { value: turn, error } = useLoaded(() => source.turn(run, number), [run, number, live ? version : 0])
  if (error) return <Notice kind="error" title="This turn cannot be shown">{error.message}</Notice>
  if (!turn) return <Notice kind="loading" title={`Turn ${number}`} />
  return (
    <div class="detail-body">
      <h2>Turn {number}</h2>
      {turn.reasoning && <Fold title="Reasoning"><Text text={turn.reasoning} /></Fold>}
      {turn.error && !turn.reply && <Notice kind="error" title="The reply failed">{clean(turn.error)}</Notice>}
      {spoken(turn) && <Text text={spoken(turn)} />}
      {turn.executions.map((execution) => <Cell key={execution.block} execution={execution} />)}
      {turn.executions.length === 0 && turn.reply !== null && <p class="faint">No code ran in this turn{live ? ' yet' : ''}.</p>}
      {turn.call_id && (
        <p><a href={href('run', root, 'trace', 'call', turn.call_id)}>The prompt of this turn, and the reply as it came</a></p>
      )}
    </div>
  )
}

/** What the reply says beside its code: the blocks are shown with what came of them. */
function spoken(turn: Turn): string {
  let text = turn.reply ?? ''
  for (const { code } of turn.executions) {
    const at = text.indexOf(code.trimEnd())
    if (at >= 0) text = text.slice(0, at) + text.slice(at + code.trimEnd().length)
  }
  return text.replace(/^[ \t]*(```|~~~)[^\n]*\n?(\s*(```|~~~)[ \t]*$)?/gm, '').trim()
}

function Cell({ execution }: { execution: Execution }) {
  const { output, error } = execution
  const printed = output.head + (output.omitted ? `\n⋯ ${count(output.omitted)} characters left out ⋯\n` : '') + output.tail
  return (
    <article class={`cell${error ? ' failed' : ''}`}>
      <header>
        <strong>Cell {execution.block}</strong>
        {execution.submitted && <span class="state good">submitted the answer</span>}
        {error && <span class="state bad">raised</span>}
        <span class="grow" /><span class="faint">{seconds(execution.duration)}</span><Copy text={execution.code} />
      </header>
      <div class="sides">
        <Code code={execution.code} error={error} />
        <div class="output">
          {printed && <Text text={printed} kind="mono" />}
          {error && <div class="raised"><Text text={error} kind="mono" /></div>}
          {execution.notes.map((note, index) => <p class="note" key={index}>{clean(note)}</p>)}
          {!printed && !error && execution.notes.length === 0 && <p class="faint">It printed nothing.</p>}
        </div>
      </div>
      {execution.variables.length > 0 && <Variables variables={execution.variables} more={execution.more_variables} />}
    </article>
  )
}

// A call --------------------------------------------------------------------------------------

const PURPOSES: Record<string, string> = { root: 'Reply of the root LM', sub: 'Sub-call', compaction: 'Summary of older turns' }

function CallDetail({ source, root, id, trace }: Props & { id: string }) {
  const { value: call, error } = useLoaded(() => source.call(id), [id])
  if (error) return <Notice kind="error" title="This call cannot be shown">{error.message}</Notice>
  if (!call) return <Notice kind="loading" title="The call" />
  const run = trace.runs.find((each) => each.id === call.run_id)
  const { usage } = call
  return (
    <div class="detail-body">
      <h2>{own(PURPOSES, call.purpose) ?? call.purpose} {call.error ? <span class="state bad">{call.cut ? 'cut off' : 'failed'}</span> : null}
        {call.cached ? <span class="state dim">from the cache</span> : null}</h2>
      <dl class="facts">
        <div><dt>Model</dt><dd title={call.reply_model}>{clean(call.model)}</dd></div>
        <div><dt>Took</dt><dd>{seconds(call.duration)}</dd></div>
        <div><dt>Tokens in</dt><dd>{usage ? count(usage.input_tokens) : '–'}{usage?.cached_tokens ? <span class="faint"> · {count(usage.cached_tokens)} cached</span> : null}</dd></div>
        <div><dt>Tokens out</dt><dd>{usage ? count(usage.output_tokens) : '–'}{usage?.reasoning_tokens ? <span class="faint"> · {count(usage.reasoning_tokens)} reasoning</span> : null}</dd></div>
        <div><dt>Cost</dt><dd>{money(call.cost)}</dd></div>
        <div><dt>Ended</dt><dd>{call.finish_reason ?? (call.error ? 'in an error' : 'not said')}</dd></div>
        <div><dt>Asked in</dt><dd><a href={href('run', root, 'trace', 'turn', call.run_id, call.turn)}>turn {call.turn}</a>{run && run.depth > 0 ? ` at depth ${run.depth}` : ''}</dd></div>
      </dl>
      {call.error && <Notice kind="error" title="It failed">{clean(call.error)}</Notice>}
      {call.reasoning && <Fold title="Reasoning"><Text text={call.reasoning} /></Fold>}
      {call.reply !== null && <section><h3>Reply <Copy text={call.reply} /></h3><Text text={call.reply} /></section>}
      <Prompt source={source} root={root} call={call} />
    </div>
  )
}

function Prompt({ source, root, call }: { source: Source; root: string; call: Call }) {
  const [diffed, setDiffed] = useState(false)
  const old = call.messages.slice(0, call.shared)
  const fresh = call.messages.slice(call.shared)
  return (
    <section>
      <h3>
        Prompt <span class="faint">{counted(call.messages.length, 'message')}, {count(call.messages.reduce((all, message) => all + message.size, 0))} characters</span>
        <span class="grow" />
        {call.previous && (
          <>
            <button class="link" aria-pressed={diffed} onClick={() => setDiffed(!diffed)}>{diffed ? 'Show it whole' : 'Difference to the one before'}</button>
            <a class="link" href={href('run', root, 'trace', 'call', call.previous)}>The one before</a>
          </>
        )}
      </h3>
      {diffed && call.previous ? <Difference source={source} call={call} previous={call.previous} /> : (
        <>
          {old.length > 0 && (
            <Fold title={`${counted(old.length, 'message')} as in the call before`}>{old.map((message, index) => <Said key={index} message={message} />)}</Fold>
          )}
          {fresh.map((message, index) => <Said key={index} message={message} />)}
        </>
      )}
    </section>
  )
}

function Difference({ source, call, previous }: { source: Source; call: Call; previous: string }) {
  const { value: before, error } = useLoaded(() => source.call(previous), [previous])
  if (error) return <Notice kind="error" title="The call before cannot be read">{error.message}</Notice>
  if (!before) return <Notice kind="loading" title="The call before" />
  const text = (messages: Message[]) => messages.map((message) => `[${message.role}]\n${message.content}`).join('\n\n')
  return (
    <>
      <p class="faint">{call.shared === before.messages.length ? `It goes on from the one before: ${counted(call.messages.length - call.shared, 'message')} more.` : `${counted(call.shared, 'message')} in common at the beginning.`}</p>
      <Diff before={text(before.messages.slice(call.shared))} after={text(call.messages.slice(call.shared))} />
    </>
  )
}

function Said({ message }: { message: Message }) {
  return (
    <div class={`said ${message.role}`}>
      <span class="role">{message.role}</span>
      <Text text={message.content} size={message.size} />
    </div>
  )
}

export function Fold({ title, children }: { title: string; children: unknown }) {
  return (
    <details class="fold">
      <summary>{title}</summary>
      {children as never}
    </details>
  )
}

