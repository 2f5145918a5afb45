/** The address after "#": what is shown. It works from a server and from a file alike. */
import { useEffect, useState } from 'preact/hooks'

/** The parts of the address: ["run", id, tab, ...]. */
export type Route = string[]

export function parse(hash: string): Route {
  return hash.replace(/^#\/?/, '').split('/').filter(Boolean).map(decode)
}

export function href(...parts: (string | number)[]): string {
  return '#/' + parts.map((part) => encodeURIComponent(String(part))).join('/')
}

export function go(...parts: (string | number)[]): void {
  location.hash = href(...parts)
}

/** Changes the address without a step in the history: for what a moved selection leads to. */
export function slide(...parts: (string | number)[]): void {
  history.replaceState(null, '', href(...parts))
  window.dispatchEvent(new HashChangeEvent('hashchange'))
}

export function useRoute(): Route {
  const [route, set] = useState(() => parse(location.hash))
  useEffect(() => {
    const changed = () => set(parse(location.hash))
    window.addEventListener('hashchange', changed)
    return () => window.removeEventListener('hashchange', changed)
  }, [])
  return route
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    return part
  }
}
