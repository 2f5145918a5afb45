/** Runs, turns, cells, sub-calls and children as one tree, of which only the rows in sight exist. */
import { useMemo, useState } from 'preact/hooks'
import { counted, model, money, seconds, short } from '../format'
import { same, type Selection } from '../select'
import type { Sums, Trace, TurnSpan } from '../trace'
import { useKeys } from '../use'
import { Icon } from './chips'
import { Virtual } from './virtual'

interface Row {
  key: string
  level: number
  icon: string
  label: string
  detail: string
  failed: boolean
  /** null for a row that is a leaf. */
  open: boolean | null
  selection: Selection
}

interface Props {
  trace: Trace
  /** Counts up when the trace has grown. */
  version: number
  selection: Selection
  select: (selection: Selection) => void
}

export function Tree({ trace, version, selection, select }: Props) {
  const [toggled, setToggled] = useState<ReadonlySet<string>>(new Set())
  const rows = useMemo(() => new Builder(trace, toggled, selection).run(0, 0), [trace, version, toggled, selection])
  const at = rows.findIndex((row) => same(row.selection, selection) && row.icon !== 'block')
  const toggle = (row: Row) => {
    const next = new Set(toggled)
    if (!next.delete(row.key)) next.add(row.key)
    setToggled(next)
  }
  const move = (steps: number) => {
    let index = at
    do index += steps
    while (rows[index] && rows[index].icon === 'block')
    if (rows[index]) select(rows[index].selection)
  }
  useKeys({
    j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
    ArrowRight: () => rows[at]?.open === false && toggle(rows[at]),
    ArrowLeft: () => rows[at]?.open && toggle(rows[at]),
    ' ': () => rows[at]?.open !== null && rows[at] && toggle(rows[at]),
  })
  return (
    <Virtual count={rows.length} height={28} current={at} label="What happened" role="tree">
      {(index) => {
        const row = rows[index]
        return (
          <div
            key={row.key} role="treeitem" aria-level={row.level + 1} aria-selected={index === at}
            aria-expanded={row.open === null ? undefined : row.open}
            class={`row${index === at ? ' current' : ''}${row.failed ? ' failed' : ''}`}
            style={{ paddingLeft: `${8 + row.level * 16}px` }} onClick={() => select(row.selection)}
          >
            {row.open === null ? <span class="twist" /> : (
              <button class="twist" aria-label={row.open ? 'Close' : 'Open'} tabIndex={-1}
                onClick={(event) => { event.stopPropagation(); toggle(row) }}>{row.open ? '▾' : '▸'}</button>
            )}
            <Icon kind={row.icon} />
            <span class="label">{row.label}</span>
            <span class="detail">{row.failed ? <b class="bad">failed</b> : null} {row.detail}</span>
          </div>
        )
      }}
    </Virtual>
  )
}

/** The rows that are open. Runs and turns are open at first, groups of sub-calls are not. */
class Builder {
  private rows: Row[] = []

  constructor(private trace: Trace, private toggled: ReadonlySet<string>, private selection: Selection) {}

  run(index: number, level: number): Row[] {
    const run = this.trace.runs[index]
    const key = `run ${run.id}`
    const open = !this.toggled.has(key)
    const sums = this.trace.sums(this.trace.callsBelow(index))
    const label = index === 0 ? run.question || 'run' : `RLM: ${run.question}`
    const detail = `${spent(sums)} · ${seconds(run.duration)}`
    this.rows.push({ key, level, icon: 'run', label, detail, failed: run.state === 'failed', open, selection: { kind: 'run', run: run.id } })
    if (open) for (const turn of this.trace.turns[index]) this.turn(turn, level + 1)
    return this.rows
  }

  private turn(turn: TurnSpan, level: number): void {
    const { trace } = this
    const run = trace.runs[turn.run].id
    const key = `turn ${run} ${turn.number}`
    const open = !this.toggled.has(key)
    const failed = turn.blocks.some((block) => block.failed) || (turn.replies.length > 0 && turn.replies.every((index) => trace.calls.failed[index]))
    const took = turn.replies.reduce((all, index) => all + trace.calls.duration[index], 0) + turn.blocks.reduce((all, block) => all + block.duration, 0)
    const selection: Selection = { kind: 'turn', run, turn: turn.number }
    this.rows.push({ key, level, icon: 'turn', label: turn.number ? `Turn ${turn.number}` : 'Before the first turn', detail: seconds(took), failed, open, selection })
    if (!open) return
    for (const index of turn.replies) {
      this.call(index, level + 1, trace.calls.purpose[index] === 'compaction' ? 'Summary of older turns' : `Reply of ${model(trace.calls.model[index])}`)
    }
    for (const block of turn.blocks) {
      const label = `Cell ${block.block}${block.submitted ? ' · answers' : ''}`
      const printed = block.printed ? `${short(block.printed)} chars out · ` : ''
      this.rows.push({
        key: `block ${run} ${turn.number} ${block.block}`, level: level + 1, icon: 'block', label, failed: block.failed,
        detail: `${counted(block.lines, 'line')} · ${printed}${seconds(block.duration)}`, open: null, selection,
      })
    }
    for (const tool of turn.tools) {
      this.rows.push({ key: `tool ${tool.id}`, level: level + 1, icon: 'tool', label: `${tool.name}()`, detail: seconds(tool.duration), failed: tool.failed, open: null, selection })
    }
    if (turn.subs.length === 1) this.call(turn.subs[0], level + 1, 'Sub-call')
    else if (turn.subs.length) this.group(turn, `${run} ${turn.number}`, level + 1, selection)
    for (const child of turn.children) this.run(child, level + 1)
  }

  private group(turn: TurnSpan, name: string, level: number, selection: Selection): void {
    const key = `subs ${name}`
    const { trace } = this
    const chosen = this.selection.kind === 'call' ? trace.find(this.selection.id) : undefined
    const holds = chosen !== undefined && trace.calls.purpose[chosen] === 'sub' && trace.calls.turn[chosen] === turn.number && trace.calls.run[chosen] === turn.run
    const open = this.toggled.has(key) !== holds
    const sums = trace.sums(turn.subs)
    const label = counted(turn.subs.length, 'sub-call')
    const detail = `${sums.failed ? `${short(sums.failed)} failed · ` : ''}${spent(sums)}`
    this.rows.push({ key, level, icon: 'group', label, detail, failed: false, open, selection })
    if (open) turn.subs.forEach((index, at) => this.call(index, level + 1, `Sub-call ${at + 1}`))
  }

  private call(index: number, level: number, label: string): void {
    const { calls } = this.trace
    this.rows.push({
      key: `call ${calls.id[index]}`, level, label, icon: calls.purpose[index], failed: calls.failed[index], open: null,
      detail: `${short(calls.input[index] + calls.output[index])} tok · ${calls.cost[index] === null ? '' : `${money(calls.cost[index])} · `}${seconds(calls.duration[index])}`,
      selection: { kind: 'call', id: calls.id[index] },
    })
  }
}

function spent(sums: Sums): string {
  const cost = sums.unpriced ? 'cost unknown' : money(sums.cost)
  return `${counted(sums.calls, 'call')} · ${short(sums.input + sums.output)} tok · ${cost}`
}
