/** Small marks: how a run ended, what a call was for. Each says it in words, too, not by colour alone. */
import { clean, own } from '../format'

const WORDS: Record<string, [string, string]> = {
  answered: ['good', 'answered'],
  failed: ['bad', 'failed'],
  live: ['live', 'running'],
  open: ['live', 'running'],
  'cut off': ['dim', 'cut off'],
  stopped: ['warn', 'stopped'],
}

export function State({ state }: { state: string }) {
  const [kind, word] = own(WORDS, state) ?? ['warn', clean(state.replaceAll('_', ' '))]
  return <span class={`state ${kind}`}>{word}</span>
}

const ICONS: Record<string, string> = {
  run: 'M8 2a6 6 0 1 0 6 6M8 5a3 3 0 1 0 3 3',
  turn: 'M3 4h10M3 8h10M3 12h6',
  root: 'M3 3h10v7H8l-3 3v-3H3z',
  block: 'M6 4 2 8l4 4M10 4l4 4-4 4',
  sub: 'M3 3v6a3 3 0 0 0 3 3h7M10 9l3 3-3 3',
  group: 'M3 4h10M3 8h10M3 12h10',
  tool: 'M10 3a3 3 0 0 0-3 4L3 11l2 2 4-4a3 3 0 0 0 4-3l-2 1-2-2z',
  compaction: 'M3 3l4 4M13 3 9 7M3 13l4-4M13 13 9 9',
}

export function Icon({ kind }: { kind: string }) {
  return (
    <svg class={`icon ${kind}`} width="16" height="16" viewBox="0 0 16 16" aria-hidden="true">
      <path d={own(ICONS, kind) ?? ICONS.turn} fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round" />
    </svg>
  )
}
