/** The answer of a run. */
import { useState } from 'preact/hooks'
import type { Run } from '../api'
import { clean, count } from '../format'
import type { Source } from '../source'
import { Copy, Notice, Text } from './text'

export function Answer({ source, run }: { source: Source; run: Run }) {
  const [whole, setWhole] = useState<string | null>(null)
  if (run.error !== null) return <Notice kind="error" title="The run failed">{clean(run.error)}</Notice>
  if (run.answer === null) return <Notice kind={run.state === 'live' ? 'loading' : 'empty'} title={run.state === 'live' ? 'No answer yet' : 'It was cut off before it answered'} >{run.state === 'live' ? null : <code>recursor resume {run.id}</code>}</Notice>
  const text = whole ?? run.answer.text
  const more = run.answer.size - text.length
  return (
    <div class="answer">
      <header><h3>Answer</h3><span class="faint">{run.stop_reason === 'answered' ? '' : `what there was when it ended: ${run.stop_reason?.replace('_', ' ')}`}</span><span class="grow" /><Copy text={text} /></header>
      <Text text={text} kind={run.answer.form === 'json' ? 'mono' : 'prose'} first={3000} />
      {more > 0 && <button class="link" onClick={async () => setWhole((await source.answer(run.id))?.text ?? '')}>Load {count(more)} more characters</button>}
    </div>
  )
}
