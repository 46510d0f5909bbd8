import { assert } from '../base/assert.ts'
import { LeadingTrim } from './decoder.ts'
import type { Tokenizer } from './tokenizer.ts'

/**
 * The text of tokens as they come. Only complete characters leave: the bytes of a Hangul syllable or an emoji
 * that is spread over several tokens wait for the last of them. All that leaves, joined, is the decoded whole.
 */
export class TextStream {
  readonly #tokenizer: Tokenizer
  readonly #skipSpecial: boolean
  readonly #kept: ReadonlySet<number> | undefined
  readonly #trim: LeadingTrim
  readonly #utf8 = new TextDecoder('utf-8', { ignoreBOM: true })

  /** Special tokens give no text unless `skipSpecial` is false, or they are among `kept`. */
  constructor(tokenizer: Tokenizer, options: { skipSpecial?: boolean; kept?: ReadonlySet<number> } = {}) {
    this.#tokenizer = tokenizer
    this.#kept = options.kept
    this.#skipSpecial = options.skipSpecial ?? true
    this.#trim = new LeadingTrim(tokenizer.leading)
  }

  push(token: number): string {
    const isSkipped = this.#skipSpecial && this.#tokenizer.isSpecial(token)
    if (isSkipped && this.#kept?.has(token) !== true) return ''
    return this.#utf8.decode(this.#trim.push(this.#tokenizer.bytesOf(token)), { stream: true })
  }

  /** The end: bytes that never became a character are U+FFFD. */
  flush(): string {
    return this.#utf8.decode()
  }
}

/**
 * Ends a text at the first stop string. Which one that is does not depend on how the text is cut: the one
 * whose end comes first, and of those that end together the longest. A stop string is never part of the text.
 */
export class StopMatcher {
  readonly #stops: readonly string[]
  /** The end of the text so far, as far as a stop string may begin in it. */
  #held = ''
  #stopped = false

  constructor(stops: readonly string[]) {
    assert(!stops.includes(''), 'a stop string is not empty')
    this.#stops = stops
  }

  /** `text` is safe to show; `stopped` is the stop string that ended it. Nothing may be pushed after that. */
  push(text: string): { text: string; stopped?: string } {
    assert(!this.#stopped, 'no text is pushed behind a stop string')
    const whole = this.#held + text
    const found = this.#firstStop(whole)
    if (found !== undefined) {
      this.#stopped = true
      this.#held = ''
      return { text: whole.slice(0, found.start), stopped: found.stop }
    }
    const safe = whole.length - this.#openLength(whole)
    this.#held = whole.slice(safe)
    return { text: whole.slice(0, safe) }
  }

  /** Text in front of that in which stop strings are looked for. */
  pass(text: string): string {
    assert(this.#held === '', 'no text passes behind some that is looked at')
    return text
  }

  /** The end: what was held back is part of the text after all. */
  flush(): string {
    const rest = this.#held
    this.#held = ''
    return rest
  }

  #firstStop(text: string): { stop: string; start: number } | undefined {
    let best: { stop: string; start: number; end: number } | undefined
    for (const stop of this.#stops) {
      const start = text.indexOf(stop)
      if (start < 0) continue
      const end = start + stop.length
      if (best === undefined || end < best.end || (end === best.end && start < best.start))
        best = { stop, start, end }
    }
    return best
  }

  /** Length of the longest end of `text` that begins a stop string. */
  #openLength(text: string): number {
    let longest = 0
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
        if (text.endsWith(stop.slice(0, length))) longest = length
      }
    }
    return longest
  }
}
