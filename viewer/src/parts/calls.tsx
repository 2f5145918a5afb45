/** The table of sub-calls: sorted, filtered, grouped by prompt template; failures first. */
import { useMemo, useState } from 'preact/hooks'
import type { Prompts } from '../api'
import { clean, counted, model, money, seconds, share, short } from '../format'
import { href } from '../route'
import type { Source } from '../source'
import type { Trace } from '../trace'
import { useLoaded } from '../use'
import { Notice } from './text'
import { Virtual } from './virtual'

type Key = 'order' | 'failed' | 'turn' | 'model' | 'input' | 'output' | 'cost' | 'duration'
const COLUMNS: [Key, string, boolean][] = [
  ['order', '#', true], ['turn', 'Turn', true], ['model', 'Model', false], ['input', 'In', true], ['output', 'Out', true], ['cost', 'Cost', true], ['duration', 'Time', true],
]

interface Line {
  index: number
  /** Place in `Prompts`. */
  at: number
}
type Item = { group: string; lines: Line[]; open: boolean } | Line

export function Calls({ source, trace, version, root }: { source: Source; trace: Trace; version: number; root: string }) {
  const live = trace.runs[0]?.state === 'open'
  const { value: prompts, error } = useLoaded(() => source.prompts(root), [root, live ? Math.floor(version / 8) : 'ended'])
  const [filter, setFilter] = useState('')
  const [onlyFailed, setOnlyFailed] = useState(false)
  const [sort, setSort] = useState<{ key: Key; down: boolean }>({ key: 'failed', down: true })
  const [grouped, setGrouped] = useState(true)
  const [open, setOpen] = useState<ReadonlySet<string>>(new Set())
  const lines = useMemo(() => (prompts ? ordered(trace, prompts, filter, onlyFailed, sort.key, sort.down) : []), [prompts, trace, version, filter, onlyFailed, sort])
  const items = useMemo(() => (prompts && grouped ? byTemplate(prompts, lines, open) : lines), [prompts, lines, grouped, open])
  if (error) return <Notice kind="error" title="The sub-calls cannot be read">{error.message}</Notice>
  if (!prompts) return <Notice kind="loading" title="Reading the prompts of the sub-calls" />
  if (prompts.id.length === 0) return <Notice kind="empty" title="No sub-calls">The root LM answered without asking another model.</Notice>
  const toggle = (name: string) => {
    const next = new Set(open)
    if (!next.delete(name)) next.add(name)
    setOpen(next)
  }
  return (
    <section class="calls">
      <div class="bar">
        <input type="search" placeholder="Search prompts and replies" aria-label="Search prompts and replies" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
        <label><input type="checkbox" checked={onlyFailed} onChange={(event) => setOnlyFailed(event.currentTarget.checked)} /> failed only</label>
        <label><input type="checkbox" checked={grouped} onChange={(event) => setGrouped(event.currentTarget.checked)} /> by prompt template</label>
        <span class="grow" /><span class="faint" aria-live="polite">{counted(lines.length, 'sub-call')}</span>
      </div>
      <div class="calls-head" role="group" aria-label="Order">
        {COLUMNS.map(([key, title, number]) => (
          <button key={key} class={`${key}${number ? ' num' : ''}`} aria-pressed={sort.key === key}
            onClick={() => setSort({ key, down: sort.key === key ? !sort.down : number && key !== 'order' })}>
            {title}{sort.key === key ? (sort.down ? ' ↓' : ' ↑') : ''}
          </button>
        ))}
        <button class="prompt" onClick={() => setSort({ key: 'failed', down: true })} aria-pressed={sort.key === 'failed'}>Prompt and reply{sort.key === 'failed' ? ' · failures first' : ''}</button>
      </div>
      <Virtual count={items.length} height={34} label="Sub-calls" role="group">
        {(place) => {
          const item = items[place]
          return 'group' in item ? <Group key={`g ${item.group}`} trace={trace} item={item} whole={lines.length} toggle={toggle} /> : <Row key={trace.calls.id[item.index]} trace={trace} prompts={prompts} line={item} root={root} />
        }}
      </Virtual>
    </section>
  )
}

function Group({ trace, item, whole, toggle }: { trace: Trace; item: Extract<Item, { group: string }>; whole: number; toggle: (name: string) => void }) {
  const sums = trace.sums(item.lines.map((line) => line.index))
  return (
    <div class="calls-group" onClick={() => toggle(item.group)}>
      <button class="twist" aria-expanded={item.open} aria-label={item.open ? 'Close' : 'Open'}>{item.open ? '▾' : '▸'}</button>
      <strong class="grow">{clean(item.group) || '(empty)'}</strong>
      {sums.failed > 0 && <b class="bad">{short(sums.failed)} failed</b>}
      <span>{counted(sums.calls, 'call')} · {share(sums.calls, whole)}</span>
      <span class="num">{short(sums.input + sums.output)} tok</span>
      <span class="num">{sums.unpriced ? 'cost unknown' : money(sums.cost)}</span>
    </div>
  )
}

function Row({ trace, prompts, line, root }: { trace: Trace; prompts: Prompts; line: Line; root: string }) {
  const { calls } = trace
  const { index, at } = line
  return (
    <a class={`calls-row${calls.failed[index] ? ' failed' : ''}`} href={href('run', root, 'trace', 'call', calls.id[index])}>
      <span class="order num">{at + 1}</span><span class="turn num">{calls.turn[index]}</span><span class="model">{model(calls.model[index])}</span>
      <span class="input num">{short(calls.input[index])}</span><span class="output num">{short(calls.output[index])}</span>
      <span class="cost num">{money(calls.cost[index])}</span><span class="duration num">{seconds(calls.duration[index])}</span>
      <span class="prompt"><span>{clean(prompts.prompt[at])}</span><span class={calls.failed[index] ? 'bad' : 'faint'}>{calls.failed[index] ? 'failed: ' : '→ '}{clean(prompts.reply[at])}</span></span>
    </a>
  )
}

function ordered(trace: Trace, prompts: Prompts, filter: string, onlyFailed: boolean, key: Key, down: boolean): Line[] {
  const { calls } = trace
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean)
  const lines: Line[] = []
  prompts.id.forEach((id, at) => {
    const index = trace.find(id)
    if (index === undefined || (onlyFailed && !calls.failed[index])) return
    if (words.length) {
      const text = `${prompts.prompt[at]} ${prompts.reply[at]}`.toLowerCase()
      if (!words.every((word) => text.includes(word))) return
    }
    lines.push({ index, at })
  })
  if (key === 'order') return down ? lines.reverse() : lines
  const value = (line: Line): number | string => (key === 'failed' ? Number(calls.failed[line.index]) : (calls[key][line.index] ?? -1))
  return lines.sort((a, b) => {
    const [left, right] = [value(a), value(b)]
    const sign = left < right ? -1 : left > right ? 1 : 0
    return (down ? -sign : sign) || a.at - b.at
  })
}

function byTemplate(prompts: Prompts, lines: Line[], open: ReadonlySet<string>): Item[] {
  const groups = new Map<number, Line[]>()
  for (const line of lines) {
    const kind = prompts.template[line.at]
    const group = groups.get(kind)
    if (group) group.push(line)
    else groups.set(kind, [line])
  }
  if (groups.size === 1) return lines
  return [...groups].flatMap(([kind, members]): Item[] => {
    const name = prompts.templates[kind]
    const isOpen = open.has(name)
    return [{ group: name, lines: members, open: isOpen }, ...(isOpen ? members : [])]
  })
}
