/** Numbers and hostile texts as a person reads them. */

const COUNT = new Intl.NumberFormat('en-US')

export const count = (number: number): string => COUNT.format(number)

export function counted(number: number, noun: string): string {
  return `${count(number)} ${noun}${number === 1 ? '' : 's'}`
}

/** What a table has for a name that may be any text: "constructor" is a name too. */
export const own = <T>(table: Record<string, T>, name: string): T | undefined => (Object.hasOwn(table, name) ? table[name] : undefined)

/** 950, 12.3k, 4.56M. */
export function short(number: number): string {
  const step = [[1e9, 'G'], [1e6, 'M'], [1e3, 'k']].find(([size]) => Math.abs(number) >= (size as number))
  if (!step) return String(Math.round(number * 100) / 100)
  return (number / (step[0] as number)).toPrecision(3).replace(/\.0+$/, '') + step[1]
}

export function money(cost: number | null | undefined): string {
  if (cost === null || cost === undefined) return 'unknown'
  if (cost === 0) return '$0'
  return cost >= 0.1 ? `$${cost.toFixed(2)}` : cost >= 0.0001 ? `$${cost.toFixed(4)}` : `$${cost.toPrecision(2)}`
}

export function seconds(duration: number | null | undefined): string {
  if (duration === null || duration === undefined) return '–'
  if (duration < 0.001) return `${Math.round(duration * 1e6)} µs`
  if (duration < 1) return `${Math.round(duration * 1000)} ms`
  if (duration < 10) return `${duration.toFixed(2)} s`
  if (duration < 120) return `${duration.toFixed(1)} s`
  if (duration < 7200) return `${Math.floor(duration / 60)} min ${Math.round(duration % 60)} s`
  return `${Math.floor(duration / 3600)} h ${Math.round((duration % 3600) / 60)} min`
}

export function share(part: number, whole: number): string {
  if (!whole) return '–'
  const percent = (100 * part) / whole
  return percent > 0 && percent < 0.1 ? '<0.1 %' : percent < 100 && percent > 99.9 ? '>99.9 %' : `${percent.toFixed(percent < 10 ? 1 : 0)} %`
}

const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' })
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' })

export const when = (time: number): string => DATE.format(time * 1000)
export const clock = (time: number): string => CLOCK.format(time * 1000)

export function ago(time: number): string {
  const past = Date.now() / 1000 - time
  if (past < 60) return 'just now'
  if (past < 3600) return `${Math.floor(past / 60)} min ago`
  if (past < 86400) return `${Math.floor(past / 3600)} h ago`
  return when(time)
}

const ESCAPES = new RegExp(
  [
    '\\x1b\\[[0-?]*[ -/]*[@-~]',
    '\\x1b[\\]PX^_][\\s\\S]*?(?:\\x1b\\\\|\\x07|\\x9c|$)',
    '\\x1b[ -/]*[0-~]?',
    '\\x9b[0-?]*[ -/]*[@-~]',
  ].join('|'),
  'g',
)
// eslint-disable-next-line no-control-regex
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g

/** Text without escape sequences; other control characters and marks that reorder text become "�". */
export function clean(text: string): string {
  return text.replaceAll('\r\n', '\n').replace(ESCAPES, '').replace(CONTROLS, '\ufffd')
}

export function line(text: string, most = 200): string {
  const words = clean(text.slice(0, 4 * most)).split(/\s+/).filter(Boolean).join(' ')
  return words.length > most ? words.slice(0, most - 1) + '…' : words
}

/** The last part of a model's name. */
export const model = (name: string): string => line(name.split('/').slice(1).join('/') || name, 60)
