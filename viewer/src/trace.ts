/** All that happened in a run, indexed for the tree, the chart and the table. Grows while a run goes. */
import type { BlockRow, CallColumns, RunRow, Spans, ToolRow } from './api'

/** A turn of a run, and what belongs to it: indices into the trace's columns. */
export interface TurnSpan {
  run: number
  number: number
  /** Calls of the root LM, compactions included. */
  replies: number[]
  blocks: BlockRow[]
  subs: number[]
  /** The same by the block that asked; 0 where that is not known. */
  subsOf: Map<number, number[]>
  tools: ToolRow[]
  /** Runs that it started. */
  children: number[]
}

export interface Sums {
  calls: number
  failed: number
  input: number
  cached: number
  output: number
  cost: number
  /** Calls whose price is not known. */
  unpriced: number
}

const COLUMNS = ['id', 'run', 'turn', 'block', 'purpose', 'model', 'start', 'duration', 'input', 'cached', 'output', 'cost', 'failed'] as const

export class Trace {
  origin: number
  next: number
  runs: RunRow[]
  calls: CallColumns
  /** Turns by run, in order. */
  turns: TurnSpan[][] = []
  /** Seconds from the first start to the newest end. */
  end = 0
  private place = new Map<string, number>()
  private blockKeys = new Set<string>()
  private toolKeys = new Set<string>()
  private linked = 0
  private summed = new Map<unknown, Sums>()

  constructor(spans: Spans) {
    this.origin = spans.origin
    this.next = 0
    this.runs = []
    this.calls = Object.fromEntries(COLUMNS.map((column) => [column, []])) as unknown as CallColumns
    this.add(spans)
  }

  /** Takes what is new. A call that is there already (a run that was resumed) is replaced. */
  add(spans: Spans): void {
    this.next = spans.next
    this.summed.clear()
    this.runs = spans.runs
    for (; this.linked < this.runs.length; this.linked++) {
      this.turns.push([])
      const run = this.runs[this.linked]
      if (run.parent >= 0) this.turn(run.parent, run.turn).children.push(this.linked)
    }
    const { calls } = spans
    for (let index = 0; index < calls.id.length; index++) this.addCall(calls, index)
    for (const block of spans.blocks) this.addBlock(block)
    for (const tool of spans.tools) {
      if (this.toolKeys.has(tool.id)) continue
      this.toolKeys.add(tool.id)
      this.turn(tool.run, tool.turn).tools.push(tool)
      this.end = Math.max(this.end, tool.start + tool.duration)
    }
    for (const run of this.runs) this.end = Math.max(this.end, run.start + (run.duration ?? 0))
  }

  get size(): number {
    return this.calls.id.length
  }

  /** The place of a call in the columns; undefined for one that is not there. */
  find(id: string): number | undefined {
    return this.place.get(id)
  }

  sums(indices: Iterable<number>): Sums {
    const sums = { calls: 0, failed: 0, input: 0, cached: 0, output: 0, cost: 0, unpriced: 0 }
    for (const index of indices) {
      sums.calls++
      if (this.calls.failed[index]) sums.failed++
      sums.input += this.calls.input[index]
      sums.cached += this.calls.cached[index]
      sums.output += this.calls.output[index]
      const cost = this.calls.cost[index]
      if (cost !== null) sums.cost += cost
      else if (!this.calls.failed[index]) sums.unpriced++
    }
    return sums
  }

  /** Of a run, its children included. */
  ofRun(run: number): Sums {
    return this.kept(run, () => total(this.turns[run].map((turn) => this.ofTurn(turn))))
  }

  /** Of a turn, the children that it started included. */
  ofTurn(turn: TurnSpan): Sums {
    return this.kept(turn, () => total([this.sums(turn.replies), this.ofSubs(turn.subs), ...turn.children.map((child) => this.ofRun(child))]))
  }

  /** Of plain sub-calls: those of a turn, or of a block. */
  ofSubs(subs: number[]): Sums {
    return this.kept(subs, () => this.sums(subs))
  }

  private kept(key: unknown, make: () => Sums): Sums {
    let found = this.summed.get(key)
    if (!found) this.summed.set(key, (found = make()))
    return found
  }

  private addCall(from: CallColumns, index: number): void {
    const known = this.place.get(from.id[index])
    const at = known ?? this.calls.id.length
    for (const column of COLUMNS) (this.calls[column] as unknown[])[at] = from[column][index]
    this.end = Math.max(this.end, from.start[index] + from.duration[index])
    if (known !== undefined) return
    this.place.set(from.id[index], at)
    const turn = this.turn(from.run[index], from.turn[index])
    if (from.purpose[index] !== 'sub') return void turn.replies.push(at)
    turn.subs.push(at)
    const group = turn.subsOf.get(from.block[index])
    if (group) group.push(at)
    else turn.subsOf.set(from.block[index], [at])
  }

  private addBlock(block: BlockRow): void {
    const key = `${block.run} ${block.turn} ${block.block}`
    if (this.blockKeys.has(key)) return
    this.blockKeys.add(key)
    this.turn(block.run, block.turn).blocks.push(block)
    if (block.start !== null) this.end = Math.max(this.end, block.start + block.duration)
  }

  private turn(run: number, number: number): TurnSpan {
    const turns = this.turns[run]
    let at = turns.length
    while (at > 0 && turns[at - 1].number > number) at--
    if (at > 0 && turns[at - 1].number === number) return turns[at - 1]
    const made: TurnSpan = { run, number, replies: [], blocks: [], subs: [], subsOf: new Map(), tools: [], children: [] }
    turns.splice(at, 0, made)
    return made
  }
}

function total(parts: Sums[]): Sums {
  const sums = { calls: 0, failed: 0, input: 0, cached: 0, output: 0, cost: 0, unpriced: 0 }
  for (const part of parts) for (const key of Object.keys(sums) as (keyof Sums)[]) sums[key] += part[key]
  return sums
}
