import type { Automaton, State } from './automaton.ts'
import { type Effort, MaskWalk } from './mask-walk.ts'
import type { VocabularyTables } from './vocabulary-tables.ts'

/** Which tokens may come next. */
export interface Mask {
  /** Bit t % 32 of word t >> 5 is token t. */
  readonly words: Int32Array
  /** Whether there is any. */
  readonly any: boolean
}

/** Masks of all automata that are remembered, least recently used first to go; each has a bit a token. */
const masksMax = 512

/** The texts of a model's tokens, to ask for all at once where an automaton lets them. */
export class Vocabulary {
  readonly #tables: VocabularyTables
  readonly #masks = new Map<State, Mask>()
  readonly #making = new WeakMap<State, { walk: MaskWalk; words: Int32Array }>()
  /** Tokens that may stand within a string of so many characters, but for those that are no plain text. */
  readonly #plain = new Map<number, Int32Array>()
  readonly #longestPlain: number

  constructor(tables: VocabularyTables) {
    this.#tables = tables
    this.#longestPlain = tables.plain.reduce((most, characters) => Math.max(most, characters), 0)
  }

  /** What the token writes; nothing for one that is no text. */
  bytesOf(token: number): Uint8Array {
    const { bytes, offsets } = this.#tables
    return bytes.subarray(offsets[token], offsets[token + 1])
  }

  /** The tokens that may follow in this state, from the cache where it was asked for before. */
  maskOf(automaton: Automaton, state: State): Mask {
    return this.maskWithin(automaton, state, { left: Number.POSITIVE_INFINITY })!
  }

  /** The same once the effort of all calls for this state together was enough; undefined until then. */
  maskWithin(automaton: Automaton, state: State, effort: Effort): Mask | undefined {
    const known = this.#masks.get(state)
    const mask = known ?? this.#made(automaton, state, effort)
    if (mask === undefined) return undefined
    if (known !== undefined) this.#masks.delete(state)
    else if (this.#masks.size === masksMax) this.#masks.delete(this.#masks.keys().next().value!)
    this.#masks.set(state, mask)
    return mask
  }

  #made(automaton: Automaton, state: State, effort: Effort): Mask | undefined {
    let making = this.#making.get(state)
    if (making === undefined) this.#making.set(state, (making = this.#begin(automaton, state)))
    const { walk, words } = making
    if (!walk.go(effort)) return undefined
    this.#making.delete(state)
    return { words, any: words.some((word) => word !== 0) }
  }

  /** Within a string nearly all tokens are told by their length: only the others are walked. */
  #begin(automaton: Automaton, state: State): { walk: MaskWalk; words: Int32Array } {
    const { charactersLeft } = state
    const { all, others, offsets } = this.#tables
    const isString = charactersLeft !== undefined
    const words = isString
      ? this.#plainOf(charactersLeft).slice()
      : new Int32Array(Math.ceil((offsets.length - 1) / 32))
    return { walk: new MaskWalk(isString ? others : all, automaton, state, words), words }
  }

  #plainOf(charactersLeft: number): Int32Array {
    const most = Math.min(charactersLeft, this.#longestPlain)
    let words = this.#plain.get(most)
    if (words === undefined) {
      const { plain } = this.#tables
      words = new Int32Array(Math.ceil(plain.length / 32))
      for (let token = 0; token < plain.length; token++) {
        if (plain[token]! > 0 && plain[token]! <= most) words[token >> 5]! |= 1 << (token & 31)
      }
      this.#plain.set(most, words)
    }
    return words
  }
}
