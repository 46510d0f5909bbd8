import type { Automaton, State } from './automaton.ts'
import type { TokenTree } from './vocabulary-tables.ts'

/** What a place that is looked at for a new state costs, in nodes of the vocabulary. */
const lookCost = 8

/** How much may be done before others get their turn, in nodes of the vocabulary: a million take a tenth to a third of a second. */
export interface Effort {
  left: number
}

/** A walk of a tree of tokens beside an automaton, which can be left at any node and gone on with. */
export class MaskWalk {
  readonly #tree: TokenTree
  readonly #automaton: Automaton
  /** The states on the way to the node that is next. */
  readonly #path: State[]
  readonly #words: Int32Array
  #node = 0

  /** Sets the bit of each token in `words` that may follow `start`; bit t % 32 of word t >> 5 is token t. */
  constructor(tree: TokenTree, automaton: Automaton, start: State, words: Int32Array) {
    this.#tree = tree
    this.#automaton = automaton
    this.#path = [start]
    this.#words = words
  }

  /** Goes on until it is through, and then returns true, or until the effort is spent. */
  go(effort: Effort): boolean {
    const { byte, depth, end, tokensFrom, tokens } = this.#tree
    const automaton = this.#automaton
    const { classOf } = automaton
    const path = this.#path
    const words = this.#words
    let node = this.#node
    let { left } = effort
    while (node < byte.length && left > 0) {
      left--
      const at = depth[node]!
      const byteClass = classOf[byte[node]!]!
      const from = path[at]!
      let state = from.next[byteClass]
      if (state === undefined) {
        const before = automaton.looks
        state = automaton.step(from, byteClass)
        left -= lookCost * (automaton.looks - before)
      }
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
    this.#node = node
    effort.left = left
    return node === byte.length
  }
}
