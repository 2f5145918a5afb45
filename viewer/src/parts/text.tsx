/** Texts of models and contexts: shown as they are, with nothing in them obeyed. */
import { useState } from 'preact/hooks'
import { clean, count } from '../format'

const FIRST = 6000

/** A text that folds beyond some length. */
export function Text({ text, size, kind = 'prose', first = FIRST }: { text: string; size?: number; kind?: 'prose' | 'mono'; first?: number }) {
  const [open, setOpen] = useState(false)
  const long = text.length > first * 1.2
  const shown = clean(long && !open ? text.slice(0, first) : text)
  const missing = (size ?? text.length) - text.length
  return (
    <div class={`text ${kind}`}>
      <pre>{shown || <span class="faint">(empty)</span>}</pre>
      {long && (
        <button class="link" onClick={() => setOpen(!open)}>
          {open ? 'Show less' : `Show all of ${count(text.length)} characters`}
        </button>
      )}
      {missing > 0 && <p class="faint">{count(missing)} more characters are in the store.</p>}
    </div>
  )
}

export function Copy({ text }: { text: string }) {
  const [done, setDone] = useState(false)
  const copy = async () => {
    await navigator.clipboard?.writeText(text)
    setDone(true)
    setTimeout(() => setDone(false), 1200)
  }
  return (
    <button class="copy" onClick={copy} title="Copy">
      {done ? 'copied' : 'copy'}
    </button>
  )
}

/** What is shown where something else cannot be. */
export function Notice({ kind, title, children }: { kind: 'loading' | 'empty' | 'error'; title: string; children?: unknown }) {
  return (
    <div class={`notice ${kind}`} role={kind === 'error' ? 'alert' : 'status'}>
      {kind === 'loading' ? <span class="spinner" aria-hidden="true" /> : null}
      <strong>{title}</strong>
      {children ? <div>{children as never}</div> : null}
    </div>
  )
}
