/** Where the page reads from: the server that it came from, or the data that a file of its own holds. */
import type { Call, Coverage, Evidence, Message, Passage, Prompts, Run, RunList, Spans, Turn } from './api'

export interface Watcher {
  /** What is new. */
  seen(spans: Spans): void
  /** It ended. */
  over(run: Run): void
  /** Whether nothing is heard any more, or again. */
  lost(gone: boolean): void
  /** It can be followed no more. */
  failed(why: string): void
}

export interface Source {
  /** Whether there is a server: for lists, live runs, and what has an effect. */
  served: boolean
  runs(filter: Record<string, string | number>): Promise<RunList>
  run(id: string): Promise<Run>
  answer(id: string): Promise<{ form: string; text: string; size: number } | null>
  spans(id: string): Promise<Spans>
  prompts(id: string): Promise<Prompts>
  turn(run: string, number: number): Promise<Turn>
  call(id: string): Promise<Call>
  coverage(id: string): Promise<Coverage>
  passage(id: string, document: number, start: number): Promise<Passage>
  evidence(id: string): Promise<Evidence>
  stop(id: string): Promise<void>
  /** Follows a run from a place in its record; returns what ends that. */
  follow(id: string, since: number, watcher: Watcher): () => void
}

export class Refused extends Error {
  constructor(readonly status: number, message: string) {
    super(message)
  }
}

class Server implements Source {
  served = true
  private kept = new Map<string, Promise<unknown>>()

  runs = (filter: Record<string, string | number>) => {
    const query = new URLSearchParams(Object.entries(filter).map(([key, value]) => [key, String(value)]))
    return this.get<RunList>(`runs?${query}`)
  }
  run = (id: string) => this.get<Run>(`runs/${encodeURIComponent(id)}`)
  answer = (id: string) => this.get<{ form: string; text: string; size: number } | null>(`runs/${encodeURIComponent(id)}/answer`)
  spans = (id: string) => this.get<Spans>(`runs/${encodeURIComponent(id)}/spans`)
  prompts = (id: string) => this.get<Prompts>(`runs/${encodeURIComponent(id)}/prompts`)
  turn = (run: string, number: number) => this.get<Turn>(`runs/${encodeURIComponent(run)}/turns/${number}`)
  call = (id: string) => this.keep<Call>(`calls/${encodeURIComponent(id)}`, (call) => call.reply !== null)
  coverage = (id: string) => this.get<Coverage>(`runs/${encodeURIComponent(id)}/coverage`)
  passage = (id: string, document: number, start: number) =>
    this.get<Passage>(`runs/${encodeURIComponent(id)}/passage?document=${document}&start=${start}`)
  evidence = (id: string) => this.get<Evidence>(`runs/${encodeURIComponent(id)}/evidence`)

  stop = async (id: string) => {
    await this.fetch(`runs/${encodeURIComponent(id)}/stop`, { method: 'POST' })
  }

  follow(id: string, since: number, { seen, over, lost, failed }: Watcher): () => void {
    const stream = new EventSource(`api/runs/${encodeURIComponent(id)}/live?since=${since}`)
    stream.addEventListener('spans', (event) => seen(JSON.parse(event.data)))
    stream.addEventListener('run', (event) => {
      stream.close()
      over(JSON.parse(event.data))
    })
    stream.addEventListener('problem', (event) => {
      stream.close()
      failed(JSON.parse(event.data).error)
    })
    stream.addEventListener('open', () => lost(false))
    stream.addEventListener('error', () => lost(true)) // it tries again by itself
    return () => stream.close()
  }

  private async fetch(path: string, options?: RequestInit): Promise<Response> {
    let response: Response
    try {
      response = await fetch(`api/${path}`, options)
    } catch {
      throw new Refused(0, 'The viewer does not answer: was `recursor view` ended? Start it again.')
    }
    if (!response.ok) {
      const said = await response.json().catch(() => null)
      throw new Refused(response.status, said?.error ?? `${response.status} ${response.statusText}`)
    }
    return response
  }

  private get = async <T>(path: string): Promise<T> => (await this.fetch(path)).json()

  /** For what never changes: once it is final. */
  private keep<T>(path: string, final: (value: T) => boolean): Promise<T> {
    let found = this.kept.get(path)
    if (!found) {
      found = this.get<T>(path)
      found.then((value) => final(value as T) || this.kept.delete(path), () => this.kept.delete(path))
      if (this.kept.size > 500) this.kept.clear()
      this.kept.set(path, found)
    }
    return found as Promise<T>
  }
}

/** What a file holds: responses by path, as the server would give them. */
class Embedded implements Source {
  served = false
  constructor(private data: Record<string, unknown>) {}

  runs = () => this.at<RunList>('runs')
  run = (id: string) => this.at<Run>(`runs/${id}`)
  answer = (id: string) => this.at<{ form: string; text: string; size: number } | null>(`runs/${id}/answer`)
  spans = (id: string) => this.at<Spans>(`runs/${id}/spans`)
  prompts = (id: string) => this.at<Prompts>(`runs/${id}/prompts`)
  turn = (run: string, number: number) => this.at<Turn>(`runs/${run}/turns/${number}`)
  /** Messages are kept once; calls name them by place. */
  call = async (id: string) => {
    const call = await this.at<Omit<Call, 'messages'> & { messages: number[] }>(`calls/${id}`)
    const messages = await this.at<Message[]>('messages')
    return { ...call, messages: call.messages.map((place) => messages[place]) }
  }
  coverage = (id: string) => this.at<Coverage>(`runs/${id}/coverage`)
  passage = (id: string, document: number, start: number) => this.at<Passage>(`runs/${id}/passage/${document}/${start}`)
  evidence = (id: string) => this.at<Evidence>(`runs/${id}/evidence`)
  stop = async () => {}
  follow = () => () => {}

  private at = async <T>(path: string): Promise<T> => {
    if (!(path in this.data)) throw new Refused(404, 'This file does not hold that part of the run.')
    return this.data[path] as T
  }
}

/** The data block of an exported file is gzip in base64; a page of the server has none. */
export async function open(): Promise<Source> {
  const block = document.getElementById('recursor-data')
  if (!block) return new Server()
  const bytes = Uint8Array.from(atob(block.textContent ?? ''), (character) => character.charCodeAt(0))
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))
  return new Embedded(await new Response(stream).json())
}
