/** What is selected in a run, as a part of the address. */

export type Selection =
  | { kind: 'run'; run: string }
  | { kind: 'turn'; run: string; turn: number }
  | { kind: 'call'; id: string }

export function read(parts: string[], root: string): Selection {
  const [kind, first = '', second = ''] = parts
  if (kind === 'call') return { kind, id: first }
  if (kind === 'turn') return { kind, run: first, turn: Number(second) || 0 }
  return { kind: 'run', run: kind === 'child' ? first : root }
}

export function parts(selection: Selection, root: string): (string | number)[] {
  if (selection.kind === 'call') return ['call', selection.id]
  if (selection.kind === 'turn') return ['turn', selection.run, selection.turn]
  return selection.run === root ? [] : ['child', selection.run]
}

export function same(one: Selection, other: Selection): boolean {
  if (one.kind === 'call') return other.kind === 'call' && one.id === other.id
  if (one.kind === 'turn') return other.kind === 'turn' && one.run === other.run && one.turn === other.turn
  return other.kind === 'run' && one.run === other.run
}
