/** Spans that were read -> ranges and strips of one width. Pure. */
import type { DocumentCoverage, ReadSpan } from '../api'

/** How much of each of `width` equal parts was read (0 to 1), and by how many calls at most. */
export interface Strip {
  share: Float32Array
  readings: Float32Array
}

export function strip(document: DocumentCoverage, from: number, to: number, width: number): Strip {
  const share = new Float32Array(width)
  const change = new Float32Array(width + 1)
  const scale = width / Math.max(to - from, 1)
  for (const [start, end] of union(document.spans)) {
    const left = Math.max((start - from) * scale, 0)
    const right = Math.min((end - from) * scale, width)
    for (let at = Math.floor(left); at < Math.min(Math.ceil(right), width); at++) share[at] += Math.min(right, at + 1) - Math.max(left, at)
  }
  for (const [start, end, calls] of document.spans) {
    const left = Math.round((start - from) * scale) // so that neighbours share no part
    const right = Math.max(Math.round((end - from) * scale), left + 1)
    if (right <= 0 || left >= width) continue
    change[Math.max(left, 0)] += calls.length
    change[Math.min(right, width)] -= calls.length
  }
  const readings = new Float32Array(width)
  for (let at = 0, count = 0; at < width; at++) readings[at] = count += change[at]
  return { share, readings }
}

/** Ranges that were read, joined where they touch. Spans come in the order of their start. */
export function union(spans: ReadSpan[]): [number, number][] {
  const ranges: [number, number][] = []
  for (const [start, end] of spans) {
    const last = ranges[ranges.length - 1]
    if (last && start <= last[1]) last[1] = Math.max(last[1], end)
    else ranges.push([start, end])
  }
  return ranges
}

/** Ranges that nobody read, longest first. */
export function unread(document: DocumentCoverage): [number, number][] {
  if (!document.known) return []
  const edges = [0, ...union(document.spans).flat(), document.length]
  const gaps: [number, number][] = []
  for (let at = 0; at < edges.length; at += 2) if (edges[at] < edges[at + 1]) gaps.push([edges[at], edges[at + 1]])
  return gaps.sort((a, b) => b[1] - b[0] - (a[1] - a[0]))
}

/** Numbers of the calls that read any of a range. */
export function callsIn(document: DocumentCoverage, from: number, to: number): number[] {
  const found = new Set<number>()
  for (const [start, end, calls] of document.spans) {
    if (start >= to) break
    if (end > from) for (const call of calls) found.add(call)
  }
  return [...found]
}
