/** Two runs side by side. */
import type { Run } from '../api'
import { Diff } from '../parts/diff'
import { State } from '../parts/chips'
import { Notice } from '../parts/text'
import { clean, count, line, model, money, seconds } from '../format'
import { href } from '../route'
import type { Source } from '../source'
import { useLoaded } from '../use'

export function Compare({ source, left, right }: { source: Source; left: string; right: string }) {
  const { value, error } = useLoaded(() => Promise.all([source.run(left), source.run(right)]), [left, right])
  if (error) return <Notice kind="error" title="These cannot be compared">{error.message}</Notice>
  if (!value) return <Notice kind="loading" title="Reading two runs" />
  const [one, other] = value
  return (
    <section class="page compare">
      <div class="bar"><a class="back" href={href()} aria-label="All runs">←</a><h1>Two runs</h1></div>
      <table class="list versus">
        <thead><tr><th />{value.map((run) => <th key={run.id}><a href={href('run', run.id)}>{line(run.question, 90)}</a> <State state={run.state} /></th>)}<th class="num">Difference</th></tr></thead>
        <tbody>
          <Words name="Model" of={(run) => model(run.model)} runs={value} />
          <Words name="Sub-model" of={(run) => model(run.sub_model)} runs={value} />
          <Words name="Context" of={(run) => run.contexts.map((each) => `${each.name}: ${each.size}`).join(', ')} runs={value} />
          <Words name="Isolation" of={(run) => run.isolation?.sandbox ?? 'no REPL'} runs={value} />
          <Figure name="Turns" of={(run) => run.turns} say={count} runs={value} />
          <Figure name="Calls" of={(run) => run.calls} say={count} runs={value} />
          <Figure name="Tokens in" of={(run) => run.usage?.input_tokens ?? null} say={count} runs={value} />
          <Figure name="of them cached" of={(run) => run.usage?.cached_tokens ?? null} say={count} runs={value} />
          <Figure name="Tokens out" of={(run) => run.usage?.output_tokens ?? null} say={count} runs={value} />
          <Figure name="Cost" of={(run) => run.cost} say={money} runs={value} />
          <Figure name="Time" of={(run) => run.duration} say={seconds} runs={value} />
        </tbody>
      </table>
      {one.question !== other.question && <section class="detail-body wide"><h3>Question</h3><Diff before={one.question} after={other.question} /></section>}
      <section class="detail-body wide">
        <h3>Answer</h3>
        {one.answer?.text === other.answer?.text && one.answer ? <p class="faint">Both gave the same.</p> : <Diff before={one.answer?.text ?? one.error ?? ''} after={other.answer?.text ?? other.error ?? ''} />}
      </section>
    </section>
  )
}

function Words({ name, of, runs }: { name: string; of: (run: Run) => string; runs: Run[] }) {
  const [one, other] = runs.map(of)
  return <tr class={one === other ? '' : 'differs'}><th scope="row">{name}</th><td>{clean(one)}</td><td>{clean(other)}</td><td class="num faint">{one === other ? 'same' : ''}</td></tr>
}

function Figure({ name, of, say, runs }: { name: string; of: (run: Run) => number | null; say: (value: number) => string; runs: Run[] }) {
  const [one, other] = runs.map(of)
  const ratio = one !== null && other !== null && one > 0 ? other / one : null
  return (
    <tr class={one === other ? '' : 'differs'}>
      <th scope="row">{name}</th><td>{one === null ? '–' : say(one)}</td><td>{other === null ? '–' : say(other)}</td>
      <td class="num">{ratio === null ? '–' : ratio === 1 ? <span class="faint">same</span> : `${ratio.toPrecision(3)} ×`}</td>
    </tr>
  )
}
