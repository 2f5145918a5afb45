/** Where the flame chart puts what: rectangles in units of time, tokens or money. Pure. */
import { line } from '../format'
import type { Selection } from '../select'
import type { Trace, TurnSpan } from '../trace'

export type Mode = 'time' | 'tokens' | 'money'
export const MODES: Mode[] = ['time', 'tokens', 'money']

export interface Box {
  x: number
  width: number
  /** Counted in rows of full height from the top. */
  row: number
  /** Of a row: sub-calls that were out at once share one. */
  part: number
  parts: number
  kind: string
  label: string
  failed: boolean
  selection: Selection
}

export interface Layout {
  boxes: Box[]
  width: number
  rows: number
}

export function layout(trace: Trace, mode: Mode): Layout {
  const boxes: Box[] = []
  const width = mode === 'time' ? timed(trace, boxes) : weighed(trace, boxes, mode)
  return { boxes, width, rows: boxes.reduce((most, box) => Math.max(most, box.row + 1), 1) }
}

// Time ----------------------------------------------------------------------------------------

function timed(trace: Trace, boxes: Box[]): number {
  const below = new Map<number, number>()
  trace.runs.forEach((run, index) => {
    const row = index === 0 ? 0 : (below.get(run.parent) ?? 0) + 3
    below.set(index, row)
    const end = run.duration === null ? trace.end : run.start + run.duration
    boxes.push(box(run.start, end - run.start, row, 'run', run.question, run.state === 'failed', { kind: 'run', run: run.id }))
    for (const turn of trace.turns[index]) inTime(trace, turn, row, boxes)
  })
  spreadChildren(trace, boxes)
  return Math.max(trace.end, 1e-6)
}

function inTime(trace: Trace, turn: TurnSpan, row: number, boxes: Box[]): void {
  const { calls } = trace
  const run = trace.runs[turn.run].id
  const selection: Selection = { kind: 'turn', run, turn: turn.number }
  for (const index of turn.replies) {
    boxes.push(box(calls.start[index], calls.duration[index], row + 1, calls.purpose[index], `turn ${turn.number}: reply`, calls.failed[index], { kind: 'call', id: calls.id[index] }))
  }
  for (const block of turn.blocks) {
    if (block.start !== null) boxes.push(box(block.start, block.duration, row + 1, 'block', `turn ${turn.number}: cell ${block.block}`, block.failed, selection))
  }
  const lanes = packed(turn.subs, calls.start, calls.duration)
  turn.subs.forEach((index, at) => {
    boxes.push({
      ...box(calls.start[index], calls.duration[index], row + 2, 'sub', 'sub-call', calls.failed[index], { kind: 'call', id: calls.id[index] }),
      part: lanes.lane[at], parts: lanes.count,
    })
  })
  for (const tool of turn.tools) boxes.push(box(tool.start, tool.duration, row + 2, 'tool', `${tool.name}()`, tool.failed, selection))
}

/** Children of one run that overlap get rows of their own, up to a number. */
function spreadChildren(trace: Trace, boxes: Box[]): void {
  const MOST = 8
  const shift = new Map<string, number>()
  const free = new Map<number, number[]>()
  trace.runs.forEach((run) => {
    if (run.parent < 0) return shift.set(run.id, 0)
    const ends = free.get(run.parent) ?? free.set(run.parent, []).get(run.parent)!
    let lane = ends.findIndex((end) => end <= run.start)
    if (lane < 0) lane = ends.length < MOST ? ends.length : ends.indexOf(Math.min(...ends))
    ends[lane] = run.duration === null ? Infinity : run.start + run.duration
    return shift.set(run.id, (shift.get(trace.runs[run.parent].id) ?? 0) + 3 * lane)
  })
  const byCall = (id: string) => trace.runs[trace.calls.run[trace.find(id)!]].id
  for (const each of boxes) each.row += shift.get(each.selection.kind === 'call' ? byCall(each.selection.id) : each.selection.run) ?? 0
}

/** Lanes such that no two calls of one overlap, as few as that takes. */
function packed(indices: number[], start: number[], duration: number[]): { lane: number[]; count: number } {
  const order = indices.map((_, at) => at).sort((a, b) => start[indices[a]] - start[indices[b]])
  const lane = new Array<number>(indices.length).fill(0)
  const heap: [number, number][] = []
  let count = 0
  for (const at of order) {
    const begin = start[indices[at]]
    const end = begin + duration[indices[at]]
    if (heap.length && heap[0][0] <= begin) {
      lane[at] = heap[0][1]
      heap[0] = [end, lane[at]]
      sink(heap)
    } else {
      lane[at] = count++
      heap.push([end, lane[at]])
      rise(heap)
    }
  }
  return { lane, count: Math.max(count, 1) }
}

function rise(heap: [number, number][]): void {
  for (let at = heap.length - 1; at > 0; ) {
    const up = (at - 1) >> 1
    if (heap[up][0] <= heap[at][0]) return
    ;[heap[up], heap[at]] = [heap[at], heap[up]]
    at = up
  }
}

function sink(heap: [number, number][]): void {
  for (let at = 0; ; ) {
    const left = 2 * at + 1
    if (left >= heap.length) return
    const least = left + 1 < heap.length && heap[left + 1][0] < heap[left][0] ? left + 1 : left
    if (heap[at][0] <= heap[least][0]) return
    ;[heap[at], heap[least]] = [heap[least], heap[at]]
    at = least
  }
}

// Tokens and money ----------------------------------------------------------------------------

function weighed(trace: Trace, boxes: Box[], mode: Mode): number {
  const { calls } = trace
  const weigh = (index: number) => (mode === 'tokens' ? calls.input[index] + calls.output[index] : (calls.cost[index] ?? 0))
  const place = (index: number, x: number, row: number, label: string): number => {
    const width = weigh(index)
    boxes.push(box(x, width, row, calls.purpose[index], label, calls.failed[index], { kind: 'call', id: calls.id[index] }))
    return x + width
  }
  const run = (index: number, from: number, row: number): number => {
    let x = from
    const { id, question, state } = trace.runs[index]
    for (const turn of trace.turns[index]) {
      const began = x
      for (const call of turn.replies) x = place(call, x, row + 2, `turn ${turn.number}: reply`)
      for (const call of turn.subs) x = place(call, x, row + 2, 'sub-call')
      for (const child of turn.children) x = run(child, x, row + 2)
      boxes.push(box(began, x - began, row + 1, 'turn', `turn ${turn.number}`, turn.blocks.some((block) => block.failed), { kind: 'turn', run: id, turn: turn.number }))
    }
    boxes.push(box(from, x - from, row, 'run', question, state === 'failed', { kind: 'run', run: id }))
    return x
  }
  return Math.max(run(0, 0, 0), 1e-12)
}

function box(x: number, width: number, row: number, kind: string, label: string, failed: boolean, selection: Selection): Box {
  return { x, width, row, part: 0, parts: 1, kind, label: line(label, 120), failed, selection }
}
