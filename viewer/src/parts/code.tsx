/** Python with its words coloured, lines numbered, and the line of an error marked. */
import type { JSX } from 'preact'
import { useMemo } from 'preact/hooks'
import { clean } from '../format'

const KEYWORDS = new Set(
  (
    'False None True and as assert async await break class continue def del elif else except finally for from global ' +
    'if import in is lambda match nonlocal not or pass raise return try while with yield case'
  ).split(' '),
)
const OURS = new Set(
  (
    'context llm_query llm_query_batched rlm_query rlm_query_batched allm_query allm_query_batched arlm_query ' +
    'arlm_query_batched SHOW_VARS answer FINAL FINAL_VAR chunk grep search history messages'
  ).split(' '),
)
const TOKEN =
  /(#[^\n]*)|((?:[rRbBfFuU]{0,2})(?:"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?))|(\b\d[\w.]*)|([^\W\d]\w*)|(\s+|.)/gu

interface Piece {
  kind: string
  text: string
}

export function tokens(code: string): Piece[] {
  const found: Piece[] = []
  for (const [text, comment, string, number, word] of code.matchAll(TOKEN)) {
    const kind = comment ? 'comment' : string ? 'string' : number ? 'number' : word ? (KEYWORDS.has(word) ? 'keyword' : OURS.has(word) ? 'ours' : '') : ''
    const last = found[found.length - 1]
    if (last && last.kind === kind) last.text += text
    else found.push({ kind, text })
  }
  return found
}

/** Pieces by line. */
function lines(code: string): Piece[][] {
  const rows: Piece[][] = [[]]
  for (const { kind, text } of tokens(code)) {
    text.split('\n').forEach((part, index) => {
      if (index) rows.push([])
      if (part) rows[rows.length - 1].push({ kind, text: part })
    })
  }
  return rows
}

/** The line of the block in which a traceback ends; 0 when it names none. */
export function errorLine(error: string | null): number {
  const named = [...(error ?? '').matchAll(/File "<block \d+>", line (\d+)/g)]
  return named.length ? Number(named[named.length - 1][1]) : 0
}

export function Code({ code, error = null }: { code: string; error?: string | null }): JSX.Element {
  const rows = useMemo(() => lines(clean(code)), [code])
  const wrong = errorLine(error)
  return (
    <div class="code" role="group" aria-label="code">
      {rows.map((pieces, index) => (
        <div class={index + 1 === wrong ? 'line wrong' : 'line'} key={index}>
          <span class="gutter" aria-hidden="true">
            {index + 1}
          </span>
          <code>
            {pieces.map((piece, at) => (
              <span class={piece.kind} key={at}>
                {piece.text}
              </span>
            ))}
            {pieces.length ? null : '\u200b'}
          </code>
        </div>
      ))}
    </div>
  )
}
