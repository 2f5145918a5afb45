/** What the viewer reads: the JSON of `recursor.viewer.data` and `spans`, field by field. */

export interface Usage {
  input_tokens: number
  output_tokens: number
  cached_tokens: number
  cache_write_tokens: number
  reasoning_tokens: number
  calls: number
}

/** A line of the list of runs. */
export interface RunSummary {
  id: string
  parent_id: string | null
  depth: number
  question: string
  model: string
  sub_model: string
  /** Seconds since the epoch. */
  started: number
  /** null while it goes, and when it was cut off. */
  ended: number | null
  stop_reason: string | null
  error: string | null
  turns: number | null
  /** Seconds. */
  duration: number | null
  tokens: number | null
  calls: number | null
  /** US dollars; null when it is unknown. */
  cost: number | null
  /** A stop reason, "failed", "stopped" (by a person), "live" (a process is at work on it) or "cut off". */
  state: string
}

export interface RunList {
  runs: RunSummary[]
  /** How many match in all. */
  total: number
  models: string[]
  store: string
}

export interface Isolation {
  sandbox: string
  files: string
  network: string
  processes: string
  environment: string
  kernel: string
  memory: string
  mechanisms: string[]
}

export interface ContextInfo {
  name: string
  type: string
  size: string
  preview: string
  source: string
  digest: string | null
}

/** What calls of one model at one depth came to. */
export interface Share {
  model: string
  depth: number
  purpose: string
  calls: number
  failed: number
  input_tokens: number
  cached_tokens: number
  output_tokens: number
  cost: number | null
}

export interface Answer {
  /** "text", or "json" for any other value. */
  form: string
  text: string
  /** Characters in all; `text` may hold fewer. */
  size: number
}

export interface Event {
  kind: string
  run_id: string
  turn: number | null
  text: string
}

export interface Run extends RunSummary {
  strategy: string
  reason: string
  isolation: Isolation | null
  contexts: ContextInfo[]
  settings: Record<string, unknown>
  /** Bounds that were set. */
  limits: Record<string, number>
  answer: Answer | null
  usage: Usage | null
  shares: Share[]
  /** Retries, refusals, decisions, compactions. */
  events: Event[]
  replayed: number
  diverged_at: number | null
}

/** Columns: the n-th call is the n-th entry of each. */
export interface CallColumns {
  id: string[]
  /** Index into `runs`. */
  run: number[]
  turn: number[]
  /** 0 where it is not known. */
  block: number[]
  purpose: string[]
  model: string[]
  /** Seconds since the first run started. */
  start: number[]
  duration: number[]
  input: number[]
  cached: number[]
  output: number[]
  cost: (number | null)[]
  failed: boolean[]
}

export interface BlockRow {
  run: number
  turn: number
  block: number
  /** Seconds since the first run started; when it began. null where it is not known. */
  start: number | null
  duration: number
  lines: number
  printed: number
  failed: boolean
  submitted: boolean
}

export interface ToolRow {
  id: string
  run: number
  turn: number
  block: number
  name: string
  start: number
  duration: number
  failed: boolean
}

export interface RunRow {
  id: string
  /** Index of the parent; -1 for the first. */
  parent: number
  /** The parent's turn that started it, and the block of that; 0 where it is not known. */
  turn: number
  block: number
  depth: number
  question: string
  model: string
  start: number
  duration: number | null
  state: string
  /** Why it failed. */
  error: string | null
}

/** All that happened in a run and its children; or what is new since `since`. */
export interface Spans {
  /** Seconds since the epoch, when the first run started. */
  origin: number
  /** To be asked for next time. */
  next: number
  runs: RunRow[]
  calls: CallColumns
  blocks: BlockRow[]
  tools: ToolRow[]
}

export interface Variable {
  name: string
  type: string
  size: string
  preview: string
  change: 'new' | 'changed' | 'gone'
}

export interface Execution {
  block: number
  code: string
  output: { head: string; omitted: number; tail: string }
  error: string | null
  notes: string[]
  duration: number
  submitted: boolean
  variables: Variable[]
  /** How many others were changed. */
  more_variables: number
}

export interface Turn {
  run_id: string
  number: number
  call_id: string | null
  reply: string | null
  reasoning: string | null
  error: string | null
  executions: Execution[]
}

export interface Message {
  role: string
  content: string
  /** Characters in all; `content` may hold fewer. */
  size: number
}

export interface Call {
  id: string
  run_id: string
  turn: number
  purpose: string
  model: string
  reply_model: string
  messages: Message[]
  reply: string | null
  reasoning: string | null
  error: string | null
  finish_reason: string | null
  usage: Usage | null
  cost: number | null
  started: number
  duration: number
  cut: boolean
  cached: boolean
  /** The call of the same purpose before it in the same run. */
  previous: string | null
  /** How many messages at the start are those of the previous one. */
  shared: number
}

/** A page of the table of sub-calls: previews and prompt templates, in the order of `CallColumns`. */
export interface Prompts {
  /** Ids of the calls that this is about. */
  id: string[]
  prompt: string[]
  reply: string[]
  /** Index into `templates`. */
  template: number[]
  templates: string[]
}

/** [start, end, numbers of calls, whether the passage stands elsewhere in the context too]. */
export type ReadSpan = [number, number, number[], boolean]

/** What was read of a context. Offsets count characters as Python does, and not as JavaScript. */
export interface Coverage {
  /** Why nothing is known, and there are no documents; null where it is. */
  unknown: string | null
  length: number
  read: number
  ambiguous: number
  common: number
  calls: { id: string; kind: 'sub-call' | 'output' | 'opening'; run_id: string; turn: number }[]
  documents: DocumentCoverage[]
}

export interface DocumentCoverage {
  name: string
  length: number
  /** Whether it can be said at all. */
  known: boolean
  read: number
  ambiguous: number
  spans: ReadSpan[]
}

/** A piece of a document, and the numbers of the calls that read it. */
export interface Piece {
  text: string
  calls: number[]
  ambiguous: boolean
}

export interface Passage {
  start: number
  end: number
  pieces: Piece[]
}

export interface Found {
  in: 'context' | 'reply' | 'child' | 'output' | 'variable' | 'tool' | 'code'
  where: string
  start: number
  end: number
}

export interface EvidenceItem {
  /** As RFC 9535 writes it. */
  path: string
  /** null for what is no string. */
  text: string | null
  parts: { start: number; end: number; text: string; found: Found[] }[]
}

/** Where the answer stands, verbatim. */
export interface Evidence {
  /** Why nothing is known of the context. */
  unknown: string | null
  items: EvidenceItem[]
  /** How many items there are; `items` may be fewer. */
  total: number
  /** What the prompts of calls held, whose replies are evidence. */
  reads: Record<string, { document: string; start: number; end: number; ambiguous: boolean }[]>
}
