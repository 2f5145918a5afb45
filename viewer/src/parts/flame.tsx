/** The flame chart: a run from left to right, drawn on a canvas; its width is time, tokens or money. */
import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import { line, model, money, seconds, short } from '../format'
import { same, type Selection } from '../select'
import type { Trace } from '../trace'
import { useKept, useKeys, useSize } from '../use'
import { layout, MODES, type Box, type Layout, type Mode } from './layout'

const ROW = 20
const GAP = 2
const MOST_ROWS = 14

interface Props {
  trace: Trace
  version: number
  selection: Selection
  select: (selection: Selection) => void
}

interface Range {
  from: number
  to: number
}

export function Flame({ trace, version, selection, select }: Props) {
  const [kept, keep] = useKept('flame', 'time')
  const mode = (MODES.includes(kept as Mode) ? kept : 'time') as Mode
  const found = useMemo(() => layout(trace, mode), [trace, version, mode])
  const [range, setRange] = useState<Range | null>(null)
  const [over, setOver] = useState<{ box: Box; x: number; y: number } | null>(null)
  const canvas = useRef<HTMLCanvasElement>(null)
  const frame = useRef<HTMLDivElement>(null)
  const [width] = useSize(frame)
  const seen = range ?? { from: 0, to: found.width }
  const height = Math.min(found.rows, MOST_ROWS) * ROW + GAP
  useEffect(() => {
    if (canvas.current && width) draw(canvas.current, found, seen, width, height, selection)
  }, [found, seen.from, seen.to, width, height, selection])
  useRedrawnOnTheme(() => canvas.current && width && draw(canvas.current, found, seen, width, height, selection))
  const turn = (to: Mode) => {
    keep(to)
    setRange(null)
  }
  const zoom = (factor: number, at = 0.5) => setRange(zoomed(seen, factor, at, found.width))
  const pan = (share: number) => setRange(panned(seen, share * (seen.to - seen.from), found.width))
  useKeys({
    '1': () => turn('time'), '2': () => turn('tokens'), '3': () => turn('money'),
    '+': () => zoom(0.6), '=': () => zoom(0.6), '-': () => zoom(1 / 0.6), '0': () => setRange(null), '[': () => pan(-0.25), ']': () => pan(0.25),
  })
  const hit = (event: MouseEvent): Box | null => {
    const { left, top } = canvas.current!.getBoundingClientRect()
    return boxAt(found, seen, width, event.clientX - left, event.clientY - top)
  }
  const drag = useRef<{ x: number; range: Range; moved: boolean } | null>(null)
  return (
    <section class="flame" aria-label={`Flame chart by ${mode}`}>
      <div class="flame-bar">
        <div class="switch" role="radiogroup" aria-label="Width is">
          {MODES.map((each, index) => (
            <button key={each} role="radio" aria-checked={mode === each} class={mode === each ? 'on' : ''} onClick={() => turn(each)} title={`Key ${index + 1}`}>
              {each}
            </button>
          ))}
        </div>
        <Legend />
        <span class="grow" />
        <span class="faint">{measure(seen.to - seen.from, mode)}{range ? ` of ${measure(found.width, mode)}` : ''}</span>
        {range && <button class="link" onClick={() => setRange(null)}>Show all</button>}
      </div>
      <div class="flame-frame" ref={frame} style={{ height: `${height}px` }}>
        <canvas
          ref={canvas} role="img" aria-label={`${found.boxes.length} spans by ${mode}`}
          onMouseDown={(event) => (drag.current = { x: event.clientX, range: seen, moved: false })}
          onMouseMove={(event) => {
            const held = drag.current
            if (held && event.buttons === 1) {
              const shift = ((held.x - event.clientX) / width) * (held.range.to - held.range.from)
              if (Math.abs(held.x - event.clientX) > 3) held.moved = true
              if (held.moved) setRange(panned(held.range, shift, found.width))
              setOver(null)
              return
            }
            const box = hit(event)
            setOver(box && { box, x: event.offsetX, y: event.offsetY })
          }}
          onMouseUp={(event) => {
            const box = drag.current?.moved ? null : hit(event)
            drag.current = null
            if (box) select(box.selection)
          }}
          onDblClick={(event) => {
            const box = hit(event)
            if (box && box.width) setRange(panned({ from: box.x - box.width * 0.05, to: box.x + box.width * 1.05 }, 0, found.width))
          }}
          onMouseLeave={() => { setOver(null); drag.current = null }}
          onWheel={(event) => {
            if (!event.ctrlKey && !event.metaKey && Math.abs(event.deltaX) <= Math.abs(event.deltaY)) return
            event.preventDefault()
            if (event.ctrlKey || event.metaKey) zoom(Math.exp(event.deltaY * 0.004), event.offsetX / width)
            else pan(event.deltaX / width)
          }}
        />
        {over && (
          <div class="tip" style={{ left: `${Math.min(over.x + 12, Math.max(0, width - 280))}px`, top: `${over.y + 16}px` }}>
            <Tip trace={trace} box={over.box} />
          </div>
        )}
      </div>
    </section>
  )
}

function Legend() {
  const kinds = [['root', 'reply'], ['block', 'cell'], ['sub', 'sub-call'], ['run', 'run'], ['tool', 'tool'], ['failed', 'failed']]
  return (
    <ul class="legend">
      {kinds.map(([kind, name]) => (
        <li key={kind}><i class={kind} /> {name}</li>
      ))}
    </ul>
  )
}

function Tip({ trace, box }: { trace: Trace; box: Box }) {
  const { calls } = trace
  const index = box.selection.kind === 'call' ? trace.find(box.selection.id) : undefined
  return (
    <>
      <strong>{line(box.label, 80)}{box.failed ? ' · failed' : ''}</strong>
      {index === undefined ? null : (
        <span>
          {model(calls.model[index])} · {seconds(calls.duration[index])} · {short(calls.input[index])} in, {short(calls.output[index])} out · {money(calls.cost[index])}
        </span>
      )}
    </>
  )
}

// Drawing -------------------------------------------------------------------------------------

function draw(canvas: HTMLCanvasElement, { boxes }: Layout, seen: Range, width: number, height: number, selection: Selection): void {
  const ratio = window.devicePixelRatio || 1
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio)
    canvas.height = Math.round(height * ratio)
    canvas.style.width = `${width}px`
    canvas.style.height = `${height}px`
  }
  const pen = canvas.getContext('2d')!
  pen.setTransform(ratio, 0, 0, ratio, 0, 0)
  pen.clearRect(0, 0, width, height)
  const style = getComputedStyle(canvas)
  const colours = new Map(['run', 'turn', 'root', 'compaction', 'block', 'sub', 'tool', 'failed', 'on-fill', 'on-block', 'select'].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]))
  pen.font = `11px ${style.fontFamily}`
  pen.textBaseline = 'middle'
  const scale = width / (seen.to - seen.from)
  const filled = new Map<number, number>()
  let chosen: { from: number; to: number; box: Box } | undefined
  for (const box of boxes) {
    const x = (box.x - seen.from) * scale
    const wide = box.width * scale
    if (x > width || x + wide < 0) continue
    if (same(box.selection, selection)) chosen = { from: Math.min(chosen?.from ?? x, x), to: Math.max(chosen?.to ?? 0, x + wide), box: chosen?.box ?? box }
    const [top, tall] = extent(box)
    const lane = box.row * 4096 + Math.floor((box.part * 512) / box.parts)
    const right = Math.max(x + wide, x + 0.75)
    if (right - (filled.get(lane) ?? -1) < 0.4 && !box.failed) continue // it would not be seen
    filled.set(lane, right)
    pen.fillStyle = colours.get(box.failed ? 'failed' : box.kind) ?? ''
    pen.fillRect(x, top, Math.max(wide - (wide > 3 ? 1 : 0), 0.75), tall)
    if (wide > 36 && tall > 12) written(pen, box.label, Math.max(x, 0) + 5, top + tall / 2 + 0.5, Math.min(x + wide, width) - Math.max(x, 0) - 10, colours.get(box.kind === 'block' && !box.failed ? 'on-block' : 'on-fill') ?? '')
  }
  if (chosen) {
    const [top, tall] = extent(chosen.box)
    pen.strokeStyle = colours.get('select') ?? ''
    pen.lineWidth = 2
    pen.strokeRect(chosen.from, top - 1, Math.max(chosen.to - chosen.from, 3), tall + 2)
  }
}

function written(pen: CanvasRenderingContext2D, label: string, x: number, y: number, room: number, colour: string): void {
  if (room < 20) return
  const most = Math.floor(room / 5.6)
  pen.fillStyle = colour
  pen.fillText(label.length > most ? label.slice(0, Math.max(1, most - 1)) + '…' : label, x, y, room)
}

function extent(box: Box): [number, number] {
  const tall = (ROW - GAP) / box.parts
  return [GAP + box.row * ROW + box.part * tall, Math.max(tall - (tall > 4 ? 1 : 0), 0.5)]
}

function boxAt({ boxes }: Layout, seen: Range, width: number, x: number, y: number): Box | null {
  const scale = width / (seen.to - seen.from)
  const at = seen.from + x / scale
  const reach = 1.5 / scale
  let best: Box | null = null
  for (const box of boxes) {
    const [top, tall] = extent(box)
    if (y < top || y > top + Math.max(tall, 1) || at < box.x - reach || at > box.x + box.width + reach) continue
    if (!best || box.width < best.width) best = box
  }
  return best
}

function zoomed(seen: Range, factor: number, at: number, whole: number): Range | null {
  const middle = seen.from + at * (seen.to - seen.from)
  const wide = (seen.to - seen.from) * factor
  return wide >= whole ? null : panned({ from: middle - at * wide, to: middle + (1 - at) * wide }, 0, whole)
}

function panned(seen: Range, shift: number, whole: number): Range {
  const wide = Math.min(seen.to - seen.from, whole)
  const from = Math.min(Math.max(seen.from + shift, 0), whole - wide)
  return { from, to: from + wide }
}

function measure(width: number, mode: Mode): string {
  return mode === 'time' ? seconds(width) : mode === 'tokens' ? `${short(width)} tokens` : money(width)
}

function useRedrawnOnTheme(again: () => void): void {
  const current = useRef(again)
  current.current = again
  useEffect(() => {
    const query = matchMedia('(prefers-color-scheme: dark)')
    const changed = () => current.current()
    const observer = new MutationObserver(changed)
    observer.observe(document.documentElement, { attributeFilter: ['data-theme'] })
    query.addEventListener('change', changed)
    return () => {
      observer.disconnect()
      query.removeEventListener('change', changed)
    }
  }, [])
}
