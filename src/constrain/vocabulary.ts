import type { Automaton, State } from './automaton.ts'
import type { TokenTree, VocabularyTables } from './vocabulary-tables.ts'

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
  readonly #path: State[] = []
  readonly #masks = new Map<State, Mask>()
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
    const known = this.#masks.get(state)
    const mask = known ?? this.#made(automaton, state)
    if (known !== undefined) this.#masks.delete(state)
    else if (this.#masks.size === masksMax) this.#masks.delete(this.#masks.keys().next().value!)
    this.#masks.set(state, mask)
    return mask
  }

  /** Within a string nearly all tokens are told by their length: only the others are walked. */
  #made(automaton: Automaton, state: State): Mask {
    const { charactersLeft } = state
    const words =
      charactersLeft === undefined
        ? new Int32Array(Math.ceil((this.#tables.offsets.length - 1) / 32))
        : this.#plainOf(charactersLeft).slice()
    this.#walk(charactersLeft === undefined ? this.#tables.all : this.#tables.others, automaton, state, words)
    return { words, any: words.some((word) => word !== 0) }
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

  #walk(tree: TokenTree, automaton: Automaton, start: State, words: Int32Array): void {
    const { byte, depth, end, tokensFrom, tokens } = tree
    const { classOf } = automaton
    const path = this.#path
    path[0] = start
    for (let node = 0; node < byte.length; ) {
      const at = depth[node]!
      const byteClass = classOf[byte[node]!]!
      const from = path[at]!
      const next = from.next[byteClass]
      const state = next === undefined ? automaton.step(from, byteClass) : next
      if (state === null) {
        node = end[node]!
        continue
      }
      path[at + 1] = state
      const last = tokensFrom[node + 1]!
      for (let i = tokensFrom[node]!; i < last; i++) {
        const token = tokens[i]!
        words[token >> 5]! |= 1 << (token & 31)
      }
      node++
    }
  }
}
