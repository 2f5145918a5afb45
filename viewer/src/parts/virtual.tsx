/** A list of rows of one height, of which only those in sight exist. */
import type { ComponentChildren } from 'preact'
import { useLayoutEffect, useRef, useState } from 'preact/hooks'
import { useSize } from '../use'

const MORE = 8

interface Props {
  count: number
  height: number
  /** Scrolled into sight when it changes; -1 for none. */
  current?: number
  label: string
  /** Id of the row that is current, for who hears the page. */
  active?: string
  role?: 'listbox' | 'tree' | 'group'
  children: (index: number) => ComponentChildren
}

export function Virtual({ count, height, current = -1, label, active, role = 'listbox', children }: Props) {
  const ref = useRef<HTMLDivElement>(null)
  const [top, setTop] = useState(0)
  const [, tall] = useSize(ref)
  useLayoutEffect(() => {
    const element = ref.current
    if (!element || current < 0) return
    const at = current * height
    if (at < element.scrollTop) element.scrollTop = at
    else if (at + height > element.scrollTop + element.clientHeight) element.scrollTop = at + height - element.clientHeight
  }, [current, tall > 0])
  const first = Math.max(0, Math.floor(top / height) - MORE)
  const last = Math.min(count, Math.ceil((top + tall) / height) + MORE)
  const rows = []
  for (let index = first; index < last; index++) rows.push(children(index))
  return (
    <div class="virtual" ref={ref} role={role} aria-label={label} tabIndex={0} aria-activedescendant={active} onScroll={(event) => setTop(event.currentTarget.scrollTop)}>
      <div class="virtual-all" style={{ height: `${count * height}px` }}>
        <div class="virtual-seen" style={{ transform: `translateY(${first * height}px)` }}>
          {rows}
        </div>
      </div>
    </div>
  )
}
