import type { TokenLogprob } from '../serve/request.ts'
import { StopMatcher, TextStream } from '../tokenizer/stream.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'

/** A token whose text was released. */
export interface ReleasedToken {
  logprob: TokenLogprob
  /** Where its text begins in the whole text, in code points. */
  offset: number
}

export interface Released {
  text: string
  /** Only for tokens that came with a log-probability. */
  tokens: readonly ReleasedToken[]
}

/** Looks for stop strings in a text as it comes; {@link StopMatcher} does in any, and says more of these. */
export type Stops = Pick<StopMatcher, 'push' | 'pass' | 'flush'>

/**
 * The text of one generation as it grows from tokens, up to a stop string.
 *
 * Text leaves only when it is certain: whole characters that no stop string can still claim. A token is
 * reported with the text it belongs to, so that tokens of a stop string stay unseen as their text does.
 */
export class Transcript {
  readonly #stream: TextStream
  readonly #stops: Stops
  readonly #minTokens: number
  readonly #held: (ReleasedToken & { start: number; end: number })[] = []
  /** Code units decoded and released so far, and code points decoded. */
  #decoded = 0
  #released = 0
  #decodedPoints = 0
  #tokenCount = 0
  #stopped = false
  /** Code units of the next text that were shown in an earlier life. */
  #shownAhead = 0

  /** Stop strings are looked for in the text after the first `minTokens` tokens; special tokens are text only when `kept`. */
  constructor(
    tokenizer: Tokenizer,
    stops: readonly string[] | Stops,
    minTokens = 0,
    kept?: ReadonlySet<number>,
  ) {
    this.#stream = new TextStream(tokenizer, kept && { kept })
    this.#stops = 'flush' in stops ? stops : new StopMatcher(stops)
    this.#minTokens = minTokens
  }

  /** Tokens taken so far; those that came behind a stop string do not count. */
  get tokenCount(): number {
    return this.#tokenCount
  }

  /** A stop string ended the text: nothing more is taken. */
  get stopped(): boolean {
    return this.#stopped
  }

  /**
   * The text goes on behind these tokens: what a tokenizer takes off the beginning of a text (SentencePiece's
   * space) stays, and a character that the prompt began is completed.
   */
  continueBehind(prompt: readonly number[]): void {
    for (const token of prompt.slice(-characterTokensMax)) this.#stream.push(token)
  }

  /**
   * Takes up a text that began on another server: `tokens` are behind it, and its first `shown` code units
   * were shown there. Tokens that were seen but are not given here will be generated again, unseen. Returns as much of the text as
   * is certain; the next that is released stands behind it.
   */
  resume(tokens: readonly number[], shown: number): string {
    const { text } = this.push(tokens)
    this.#shownAhead = Math.max(0, shown - text.length)
    return text
  }

  push(tokens: readonly number[], logprobs?: readonly TokenLogprob[]): Released {
    let text = ''
    for (const [index, token] of tokens.entries()) {
      if (this.#stopped) break
      this.#tokenCount++
      const start = this.#decoded
      const offset = this.#decodedPoints
      const piece = this.#stream.push(token)
      this.#decoded += piece.length
      this.#decodedPoints += codePoints(piece)
      const logprob = logprobs?.[index]
      if (logprob !== undefined) this.#held.push({ logprob, offset, start, end: this.#decoded })
      text += this.#match(piece)
    }
    return this.#release(text, this.#stopped)
  }

  /** The end: what was held back is certain now. */
  flush(): Released {
    if (this.#stopped) return { text: '', tokens: [] }
    const rest = this.#stream.flush()
    this.#decoded += rest.length
    const text = this.#match(rest) + (this.#stopped ? '' : this.#stops.flush())
    const released = this.#release(text, this.#stopped)
    // Tokens without text of their own, as special ones, have nothing to wait for.
    const tokens = this.#stopped ? released.tokens : [...released.tokens, ...this.#held.splice(0)]
    return { text, tokens }
  }

  #match(piece: string): string {
    if (this.#tokenCount <= this.#minTokens) return this.#stops.pass(piece)
    const { text, stopped } = this.#stops.push(piece)
    if (stopped !== undefined) this.#stopped = true
    return text
  }

  /** `last`: no more text will come, so a token that is released in part is released now. */
  #release(text: string, last: boolean): Released {
    this.#released += text.length
    const ready = this.#held.findIndex(
      ({ start, end }) => !(last ? start < this.#released : end <= this.#released),
    )
    const unseen = text.slice(this.#shownAhead)
    this.#shownAhead -= text.length - unseen.length
    return { text: unseen, tokens: this.#held.splice(0, ready === -1 ? this.#held.length : ready) }
  }
}

/** A character has at most four bytes; with a margin for special tokens between them. */
const characterTokensMax = 8

export function codePoints(text: string): number {
  let count = 0
  for (const _ of text) count++
  return count
}
