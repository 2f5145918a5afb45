/** Runs, turns, cells, sub-calls and children as one tree, of which only the rows in sight exist. */
import { useEffect, useMemo, useState } from 'preact/hooks'
import type { BlockRow, ToolRow } from '../api'
import { clean, counted, model, money, own, seconds, short } from '../format'
import { same, type Selection } from '../select'
import type { Sums, Trace, TurnSpan } from '../trace'
import { useKeys } from '../use'
import { Icon } from './chips'
import { Virtual } from './virtual'

/** A row before it is in sight: there may be a hundred thousand. */
type Row = { level: number; key?: string; open?: boolean } & (
  | { kind: 'run'; run: number }
  | { kind: 'turn'; turn: TurnSpan }
  | { kind: 'group'; turn: TurnSpan; subs: number[] }
  | { kind: 'block'; turn: TurnSpan; block: BlockRow }
  | { kind: 'tool'; turn: TurnSpan; tool: ToolRow }
  | { kind: 'call'; call: number; place: number }
)

interface Props {
  trace: Trace
  /** Counts up when the trace has grown. */
  version: number
  selection: Selection
  select: (selection: Selection) => void
}

export function Tree({ trace, version, selection, select }: Props) {
  const [toggled, setToggled] = useState<ReadonlySet<string>>(new Set())
  const rows = useMemo(() => rowsOf(trace, toggled), [trace, version, toggled])
  const at = useMemo(() => rows.findIndex((row) => leads(row) && same(selectionOf(trace, row), selection)), [rows, selection])
  useEffect(() => {
    const group = groupOf(trace, selection)
    if (group && !toggled.has(group)) setToggled(new Set([...toggled, group]))
  }, [trace, selection])
  const toggle = (row: Row) => {
    if (row.key === undefined) return
    const next = new Set(toggled)
    if (!next.delete(row.key)) next.add(row.key)
    setToggled(next)
  }
  const move = (step: number) => {
    let index = at + step
    while (rows[index] && !leads(rows[index])) index += step
    if (rows[index]) select(selectionOf(trace, rows[index]))
  }
  useKeys({
    j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
    ArrowRight: () => rows[at]?.open === false && toggle(rows[at]),
    ArrowLeft: () => rows[at]?.open && toggle(rows[at]),
    ' ': () => rows[at] && toggle(rows[at]),
  })
  return (
    <Virtual count={rows.length} height={28} current={at} label="What happened" role="tree" active={at < 0 ? undefined : rowId(at)}>
      {(index) => <Line key={index} id={rowId(index)} trace={trace} row={rows[index]} current={index === at} toggle={toggle} select={select} />}
    </Virtual>
  )
}

const rowId = (index: number): string => `row-${index}`

function Line({ id, trace, row, current, toggle, select }: { id: string; trace: Trace; row: Row; current: boolean; toggle: (row: Row) => void; select: Props['select'] }) {
  const { icon, label, detail, failed } = said(trace, row)
  const chosen = () => (row.kind === 'group' ? toggle(row) : select(selectionOf(trace, row)))
  return (
    <div
      id={id} role="treeitem" aria-level={row.level + 1} aria-selected={current} aria-expanded={row.open}
      class={`row${current ? ' current' : ''}${failed ? ' failed' : ''}`} style={{ paddingLeft: `${8 + row.level * 16}px` }} onClick={chosen}
    >
      {row.open === undefined ? <span class="twist" /> : (
        <button class="twist" aria-label={row.open ? 'Close' : 'Open'} tabIndex={-1} onClick={(event) => { event.stopPropagation(); toggle(row) }}>
          {row.open ? '▾' : '▸'}
        </button>
      )}
      <Icon kind={icon} />
      <span class="label">{clean(label)}</span>
      <span class="detail">{failed ? <b class="bad">failed</b> : null} {detail}</span>
    </div>
  )
}

// Which rows there are ------------------------------------------------------------------------

/** The rows that are open. Runs and turns are open until they are closed, groups of sub-calls closed until opened. */
function rowsOf(trace: Trace, toggled: ReadonlySet<string>): Row[] {
  const rows: Row[] = []
  const run = (index: number, level: number): void => {
    const key = `run ${trace.runs[index].id}`
    const open = !toggled.has(key)
    rows.push({ kind: 'run', run: index, level, key, open })
    if (open) for (const each of trace.turns[index]) turn(each, level + 1)
  }
  const turn = (each: TurnSpan, level: number): void => {
    const key = `turn ${each.run} ${each.number}`
    const open = !toggled.has(key)
    rows.push({ kind: 'turn', turn: each, level, key, open })
    if (!open) return
    for (const call of each.replies) rows.push({ kind: 'call', call, place: 0, level: level + 1 })
    for (const block of blocksOf(trace, each)) inBlock(each, block, level + 1)
  }
  const inBlock = (each: TurnSpan, number: number, level: number): void => {
    const block = each.blocks.find((row) => row.block === number)
    if (block) rows.push({ kind: 'block', turn: each, block, level })
    for (const tool of each.tools) if (tool.block === number) rows.push({ kind: 'tool', turn: each, tool, level: level + 1 })
    subs(each, number, level + 1)
    for (const child of each.children) if (trace.runs[child].block === number) run(child, level + 1)
  }
  const subs = (each: TurnSpan, block: number, level: number): void => {
    const own = each.subsOf.get(block) ?? []
    if (own.length === 1) rows.push({ kind: 'call', call: own[0], place: 0, level })
    if (own.length < 2) return
    const key = groupKey(each.run, each.number, block)
    const open = toggled.has(key)
    rows.push({ kind: 'group', turn: each, subs: own, level, key, open })
    if (open) own.forEach((call, at) => rows.push({ kind: 'call', call, place: at + 1, level: level + 1 }))
  }
  run(0, 0)
  return rows
}

const groupKey = (run: number, turn: number, block: number): string => `subs ${run} ${turn} ${block}`

/** Numbers of the blocks of a turn: of those that ran, and of one that still runs. */
function blocksOf(trace: Trace, turn: TurnSpan): number[] {
  const numbers = new Set([...turn.blocks.map((row) => row.block), ...turn.subsOf.keys(), ...turn.tools.map((tool) => tool.block)])
  for (const child of turn.children) numbers.add(trace.runs[child].block)
  return [...numbers].sort((a, b) => a - b)
}

/** The group that hides what is selected; undefined when none does. */
function groupOf(trace: Trace, selection: Selection): string | undefined {
  const call = selection.kind === 'call' ? trace.find(selection.id) : undefined
  if (call === undefined || trace.calls.purpose[call] !== 'sub') return undefined
  return groupKey(trace.calls.run[call], trace.calls.turn[call], trace.calls.block[call])
}

// What they say -------------------------------------------------------------------------------

/** Whether something of its own is shown for a row. */
const leads = (row: Row): boolean => row.kind === 'run' || row.kind === 'turn' || row.kind === 'call'

function selectionOf(trace: Trace, row: Row): Selection {
  if (row.kind === 'call') return { kind: 'call', id: trace.calls.id[row.call] }
  if (row.kind === 'run') return { kind: 'run', run: trace.runs[row.run].id }
  return { kind: 'turn', run: trace.runs[row.turn.run].id, turn: row.turn.number }
}

interface Said {
  icon: string
  label: string
  detail: string
  failed: boolean
}

function said(trace: Trace, row: Row): Said {
  switch (row.kind) {
    case 'run': return saidRun(trace, row.run)
    case 'turn': return saidTurn(trace, row.turn)
    case 'group': return { icon: 'group', label: counted(row.subs.length, 'sub-call'), detail: spent(trace.ofSubs(row.subs), false), failed: false }
    case 'block': return saidBlock(row.block)
    case 'tool': return { icon: 'tool', label: `${row.tool.name}()`, detail: seconds(row.tool.duration), failed: row.tool.failed }
    case 'call': return saidCall(trace, row.call, row.place)
  }
}

function saidRun(trace: Trace, index: number): Said {
  const run = trace.runs[index]
  const label = index === 0 ? run.question || 'run' : `RLM: ${run.question}`
  return { icon: 'run', label, detail: `${spent(trace.ofRun(index))} · ${seconds(run.duration)}`, failed: run.state === 'failed' }
}

function saidTurn({ calls }: Trace, turn: TurnSpan): Said {
  const took = turn.replies.reduce((all, index) => all + calls.duration[index], 0) + turn.blocks.reduce((all, block) => all + block.duration, 0)
  const failed = turn.blocks.some((block) => block.failed) || (turn.replies.length > 0 && turn.replies.every((index) => calls.failed[index]))
  return { icon: 'turn', label: turn.number ? `Turn ${turn.number}` : 'Before the first turn', detail: seconds(took), failed }
}

function saidBlock(block: BlockRow): Said {
  const printed = block.printed ? `${short(block.printed)} chars out · ` : ''
  return { icon: 'block', label: `Cell ${block.block}${block.submitted ? ' · answers' : ''}`, detail: `${counted(block.lines, 'line')} · ${printed}${seconds(block.duration)}`, failed: block.failed }
}

function saidCall({ calls }: Trace, index: number, place: number): Said {
  const names: Record<string, string> = { root: `Reply of ${model(calls.model[index])}`, compaction: 'Summary of older turns', sub: `Sub-call${place ? ` ${place}` : ''}` }
  const cost = calls.cost[index] === null ? '' : `${money(calls.cost[index])} · `
  return {
    icon: calls.purpose[index], label: own(names, calls.purpose[index]) ?? calls.purpose[index], failed: calls.failed[index],
    detail: `${short(calls.input[index] + calls.output[index])} tok · ${cost}${seconds(calls.duration[index])}`,
  }
}

function spent(sums: Sums, counting = true): string {
  const failed = sums.failed ? `${short(sums.failed)} failed · ` : ''
  return `${failed}${counting ? `${counted(sums.calls, 'call')} · ` : ''}${short(sums.input + sums.output)} tok · ${sums.unpriced ? 'cost unknown' : money(sums.cost)}`
}
