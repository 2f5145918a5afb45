/** Which parts of the context any model has read: a heat strip for each document, and the text at any place of it. */
import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import type { Coverage as Covered, DocumentCoverage } from '../api'
import { clean, count, counted, line, share, short } from '../format'
import { href, slide } from '../route'
import type { Source } from '../source'
import { useKeys, useLoaded, useSize } from '../use'
import { callsIn, strip, unread } from './strip'
import { Notice } from './text'
import { Virtual } from './virtual'

const KINDS = { 'sub-call': 'sub-call', output: 'printed for the root LM', opening: 'told at the beginning' }
const MOST_CALLS = 200

/** @param rest the rest of the address: number of the document, and offset in it. */
export function Coverage({ source, root, rest }: { source: Source; root: string; rest: string[] }) {
  const { value, error } = useLoaded(() => source.coverage(root), [root])
  const [order, setOrder] = useState('order')
  const [filter, setFilter] = useState('')
  const listed = useMemo(() => (value ? arranged(value, order, filter) : []), [value, order, filter])
  const chosen = value && rest[0] !== undefined ? Number(rest[0]) : (listed[0] ?? 0)
  const document = value?.documents[chosen]
  const offset = rest[1] === undefined ? 0 : Number(rest[1]) || 0
  const look = (number: number, at?: number) => slide('run', root, 'coverage', number, ...(at === undefined ? [] : [Math.round(at)]))
  useKeys({
    j: () => look(listed[Math.min(listed.indexOf(chosen) + 1, listed.length - 1)]), ArrowDown: () => look(listed[Math.min(listed.indexOf(chosen) + 1, listed.length - 1)]),
    k: () => look(listed[Math.max(listed.indexOf(chosen) - 1, 0)]), ArrowUp: () => look(listed[Math.max(listed.indexOf(chosen) - 1, 0)]),
  })
  if (error) return <Notice kind="error" title="What was read cannot be shown">{error.message}</Notice>
  if (!value) return <Notice kind="loading" title="Comparing the context with all that models read" />
  if (value.unknown !== null) return <Notice kind="empty" title="It is not known what was read">{clean(value.unknown)}</Notice>
  if (value.documents.length === 0) return <Notice kind="empty" title="There was no context" />
  return (
    <section class="coverage">
      <div class="bar">
        <strong>{share(value.read, value.length)} read</strong>
        <span class="faint">
          {count(value.read)} of {count(value.length)} characters, by {counted(value.calls.length, 'call')}
          {value.ambiguous > 0 && <>; of {share(value.ambiguous, value.read)} it is not sure at which place</>}
        </span>
        <span class="grow" />
        {value.documents.length > 1 && (
          <>
            <input type="search" placeholder="Search documents" aria-label="Search documents" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
            <select aria-label="Order" value={order} onChange={(event) => setOrder(event.currentTarget.value)}>
              <option value="order">In order</option><option value="least">Least read first</option><option value="most">Most read first</option><option value="long">Longest first</option>
            </select>
          </>
        )}
        <Scale />
      </div>
      {value.documents.length > 1 && (
        <div class="documents" style={{ height: `${Math.min(listed.length, 9) * 30 + 2}px` }}>
          <Virtual count={listed.length} height={30} current={listed.indexOf(chosen)} label="Documents">
            {(index) => <Row key={listed[index]} document={value.documents[listed[index]]} current={listed[index] === chosen} look={(at) => look(listed[index], at)} />}
          </Virtual>
        </div>
      )}
      {document && <Close key={chosen} source={source} root={root} covered={value} number={chosen} document={document} offset={offset} look={(at) => look(chosen, at)} />}
    </section>
  )
}

function Scale() {
  return (
    <span class="scale faint" aria-label="Colours: never read, read by one call, by more">
      <i class="heat-0" /> never <i class="heat-1" /> once <i class="heat-3" /> more often
    </span>
  )
}

function Row({ document, current, look }: { document: DocumentCoverage; current: boolean; look: (at?: number) => void }) {
  return (
    <div class={`document${current ? ' current' : ''}`} role="option" aria-selected={current} onClick={() => look()}>
      <span class="name" title={clean(document.name)}>{clean(document.name)}</span>
      <Heat document={document} from={0} to={document.length} height={14} pick={look} />
      <span class="num">{document.known ? share(document.read, document.length) : 'unknown'}</span>
      <span class="num faint">{short(document.length)}</span>
    </div>
  )
}

// One document, closely ----------------------------------------------------------------------

interface CloseProps {
  source: Source
  root: string
  covered: Covered
  number: number
  document: DocumentCoverage
  offset: number
  look: (at?: number) => void
}

function Close({ source, root, covered, number, document, offset, look }: CloseProps) {
  const gaps = useMemo(() => unread(document), [document])
  const gap = useRef(-1)
  const { value: passage, error } = useLoaded(() => source.passage(root, number, Math.max(0, offset - 200)), [root, number, offset])
  const seen = passage ? [passage.start, passage.end] : [offset, offset + 1]
  const calls = useMemo(() => callsIn(document, seen[0], seen[1]), [document, seen[0], seen[1]])
  const nextGap = () => {
    gap.current = (gap.current + 1) % gaps.length
    look(gaps[gap.current][0])
  }
  useKeys({ n: () => gaps.length && nextGap() })
  return (
    <div class="close">
      <header class="bar">
        <h3>{clean(document.name)}</h3>
        <span class="faint">{count(document.length)} characters, {document.known ? share(document.read, document.length) : 'unknown'} read</span>
        <span class="grow" />
        {gaps.length > 0 && <button onClick={nextGap} title="Key n">Next part that nobody read</button>}
      </header>
      <Heat document={document} from={0} to={document.length} height={30} pick={look} mark={seen as [number, number]} />
      <div class="passage">
        <div class="passage-text">
          {error ? <Notice kind="empty" title="The text is not here">{error.message}</Notice> : !passage ? <Notice kind="loading" title="The text" /> : (
            <>
              <p class="faint">Characters {count(passage.start)} to {count(passage.end)}</p>
              <pre>
                {passage.pieces.map((piece, index) => (
                  <span key={index} class={`read-${Math.min(piece.calls.length, 3)}${piece.ambiguous ? ' ambiguous' : ''}`}
                    title={piece.calls.length ? `read by ${counted(piece.calls.length, 'call')}${piece.ambiguous ? ', if it was this place' : ''}` : 'nobody read this'}>
                    {clean(piece.text)}
                  </span>
                ))}
              </pre>
              <p class="bar">
                <button disabled={passage.start === 0} onClick={() => look(Math.max(0, passage.start - (passage.end - passage.start) + 200))}>Earlier</button>
                <button disabled={passage.end >= document.length} onClick={() => look(passage.end + 200)}>Later</button>
              </p>
            </>
          )}
        </div>
        <aside>
          <h3>{calls.length ? `Read here by ${counted(calls.length, 'call')}` : 'Nobody read this part'}</h3>
          <ul>
            {calls.slice(0, MOST_CALLS).map((each) => {
              const call = covered.calls[each]
              return <li key={call.id}><a href={href('run', root, 'trace', 'call', call.id)}>{KINDS[call.kind]}</a> <span class="faint">turn {call.turn}{call.run_id !== root ? ' of a child' : ''}</span></li>
            })}
          </ul>
          {calls.length > MOST_CALLS && <p class="faint">and {count(calls.length - MOST_CALLS)} more</p>}
        </aside>
      </div>
    </div>
  )
}

// The strip ----------------------------------------------------------------------------------

interface HeatProps {
  document: DocumentCoverage
  from: number
  to: number
  height: number
  /** A range to frame. */
  mark?: [number, number]
  pick: (at: number) => void
}

function Heat({ document, from, to, height, mark, pick }: HeatProps) {
  const frame = useRef<HTMLDivElement>(null)
  const canvas = useRef<HTMLCanvasElement>(null)
  const [width] = useSize(frame)
  const theme = globalThis.document.documentElement.dataset.theme
  useEffect(() => {
    if (canvas.current && width) draw(canvas.current, document, from, to, width, height, mark)
  }, [document, from, to, width, height, mark?.[0], mark?.[1], theme])
  const read = document.known ? share(document.read, document.length) : 'unknown'
  return (
    <div class="heat" ref={frame} style={{ height: `${height}px` }}>
      <canvas ref={canvas} role="img" aria-label={`${line(document.name, 60)}: ${read} read`}
        onClick={(event) => { event.stopPropagation(); pick(from + (event.offsetX / width) * (to - from)) }} />
    </div>
  )
}

function draw(canvas: HTMLCanvasElement, document: DocumentCoverage, from: number, to: number, width: number, height: number, mark?: [number, number]): void {
  const ratio = window.devicePixelRatio || 1
  canvas.width = Math.round(width * ratio)
  canvas.height = Math.round(height * ratio)
  canvas.style.width = `${width}px`
  canvas.style.height = `${height}px`
  const pen = canvas.getContext('2d')!
  const style = getComputedStyle(canvas)
  const heat = [0, 1, 2, 3].map((step) => style.getPropertyValue(`--heat-${step}`).trim())
  pen.fillStyle = heat[0]
  pen.fillRect(0, 0, canvas.width, canvas.height)
  const { share: read, readings } = strip(document, from, to, canvas.width)
  for (let at = 0; at < canvas.width; at++) {
    if (!read[at]) continue
    const tall = Math.max(read[at], 0.15) * canvas.height // a part that was read in part is lower
    pen.fillStyle = heat[readings[at] > 3 ? 3 : readings[at] > 1 ? 2 : 1]
    pen.fillRect(at, canvas.height - tall, 1, tall)
  }
  if (!mark) return
  const scale = canvas.width / Math.max(to - from, 1)
  pen.strokeStyle = style.getPropertyValue('--select').trim()
  pen.lineWidth = 2 * ratio
  pen.strokeRect((mark[0] - from) * scale, ratio, Math.max((mark[1] - mark[0]) * scale, 4 * ratio), canvas.height - 2 * ratio)
}

function arranged(covered: Covered, order: string, filter: string): number[] {
  const { documents } = covered
  const wanted = filter.toLowerCase()
  const numbers = documents.map((_, number) => number).filter((number) => documents[number].name.toLowerCase().includes(wanted))
  const part = (number: number) => (documents[number].length ? documents[number].read / documents[number].length : 1)
  if (order === 'least') numbers.sort((a, b) => part(a) - part(b))
  if (order === 'most') numbers.sort((a, b) => part(b) - part(a))
  if (order === 'long') numbers.sort((a, b) => documents[b].length - documents[a].length)
  return numbers
}
