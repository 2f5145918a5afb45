/** Small hooks. */
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'
import type { RefObject } from 'preact'

export interface Loaded<T> {
  value?: T
  error?: Error
  /** Whether it is on its way; `value` may be of before. */
  loading: boolean
}

/** What a promise gives; asked for anew when one of `keys` changes. */
export function useLoaded<T>(load: () => Promise<T>, keys: unknown[]): Loaded<T> {
  const [state, set] = useState<Loaded<T>>({ loading: true })
  useEffect(() => {
    let wanted = true
    set((before) => ({ value: before.value, loading: true }))
    load().then(
      (value) => wanted && set({ value, loading: false }),
      (error) => wanted && set({ error, loading: false }),
    )
    return () => {
      wanted = false
    }
  }, keys)
  return state
}

/** Width and height of an element, as they change. */
export function useSize(ref: RefObject<HTMLElement | null>): [number, number] {
  const [size, set] = useState<[number, number]>([0, 0])
  useLayoutEffect(() => {
    const element = ref.current
    if (!element) return
    const measure = () => set([element.clientWidth, element.clientHeight])
    measure()
    const observer = new ResizeObserver(measure)
    observer.observe(element)
    return () => observer.disconnect()
  }, [])
  return size
}

/** Calls back on keys that are meant neither for a field of input nor for what they would press. */
export function useKeys(keys: Record<string, (event: KeyboardEvent) => void>): void {
  const current = useRef(keys)
  current.current = keys
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement
      const box = target instanceof HTMLInputElement && target.type === 'checkbox'
      const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName) && !box && event.key !== 'Escape'
      const pressing = /^(Enter| )$/.test(event.key) && (box || target.closest('a, button, summary') !== null)
      if (typing || pressing || event.ctrlKey || event.metaKey || event.altKey) return
      const found = current.current[event.key]
      if (found) {
        event.preventDefault()
        found(event)
      }
    }
    window.addEventListener('keydown', pressed)
    return () => window.removeEventListener('keydown', pressed)
  }, [])
}

/** A setting that this browser keeps. */
export function useKept(name: string, initial: string): [string, (value: string) => void] {
  const [value, set] = useState(() => {
    try {
      return localStorage.getItem(`recursor.${name}`) ?? initial
    } catch {
      return initial
    }
  })
  return [
    value,
    (next) => {
      set(next)
      try {
        localStorage.setItem(`recursor.${name}`, next)
      } catch {
        // A file of its own may have no storage: it lasts as long as the page then.
      }
    },
  ]
}
