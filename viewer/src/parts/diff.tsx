/** What a text has that another had not: by lines, within a bound of work. */
import { useMemo } from 'preact/hooks'
import { clean } from '../format'

export interface Change {
  kind: 'same' | 'new' | 'gone'
  text: string
}

const MOST = 4_000_000

/** Common beginnings and ends go first; what is between is compared by lines where that is not too much work. */
export function changes(before: string, after: string): Change[] {
  const old = before.split('\n')
  const now = after.split('\n')
  let head = 0
  while (head < old.length && head < now.length && old[head] === now[head]) head++
  let tail = 0
  while (tail < old.length - head && tail < now.length - head && old[old.length - 1 - tail] === now[now.length - 1 - tail]) tail++
  const left = old.slice(head, old.length - tail)
  const right = now.slice(head, now.length - tail)
  const middle = left.length * right.length > MOST ? replaced(left, right) : compared(left, right)
  const all = [...same(now.slice(0, head)), ...middle, ...same(now.slice(now.length - tail))]
  return all.reduce<Change[]>((joined, change) => {
    const last = joined[joined.length - 1]
    if (last?.kind === change.kind) last.text += '\n' + change.text
    else joined.push({ ...change })
    return joined
  }, [])
}

const same = (lines: string[]): Change[] => lines.map((text) => ({ kind: 'same', text }))
const replaced = (left: string[], right: string[]): Change[] => [
  ...left.map((text): Change => ({ kind: 'gone', text })),
  ...right.map((text): Change => ({ kind: 'new', text })),
]

/** The longest common subsequence of lines. */
function compared(left: string[], right: string[]): Change[] {
  const width = right.length + 1
  const lengths = new Uint32Array((left.length + 1) * width)
  for (let i = left.length - 1; i >= 0; i--) {
    for (let j = right.length - 1; j >= 0; j--) {
      lengths[i * width + j] =
        left[i] === right[j] ? lengths[(i + 1) * width + j + 1] + 1 : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1])
    }
  }
  const found: Change[] = []
  let i = 0
  let j = 0
  while (i < left.length || j < right.length) {
    if (i < left.length && j < right.length && left[i] === right[j]) {
      found.push({ kind: 'same', text: left[i++] })
      j++
    } else if (j >= right.length || (i < left.length && lengths[(i + 1) * width + j] >= lengths[i * width + j + 1])) {
      found.push({ kind: 'gone', text: left[i++] })
    } else {
      found.push({ kind: 'new', text: right[j++] })
    }
  }
  return found
}

export function Diff({ before, after }: { before: string; after: string }) {
  const found = useMemo(() => changes(clean(before), clean(after)), [before, after])
  return (
    <div class="text mono diff">
      {found.map((change, index) => (
        <pre class={change.kind} key={index} aria-label={change.kind === 'same' ? undefined : change.kind}>
          {change.kind === 'same' ? folded(change.text) : change.text || ' '}
        </pre>
      ))}
    </div>
  )
}

function folded(text: string): string {
  const lines = text.split('\n')
  if (lines.length <= 8) return text
  return [...lines.slice(0, 3), `⋯ ${lines.length - 6} lines that are the same`, ...lines.slice(-3)].join('\n')
}
