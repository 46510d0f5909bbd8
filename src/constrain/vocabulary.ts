import type { Automaton, State } from './automaton.ts'

/** Which tokens may come next. */
export interface Mask {
  /** Bit t % 32 of word t >> 5 is token t. */
  readonly words: Int32Array
  /** Whether there is any. */
  readonly any: boolean
}

/** Masks of all automata that are remembered, least recently used first to go; each has a bit a token. */
const masksMax = 512

/**
 * The texts of a model's tokens, as a tree of their bytes, to ask for all at once where an automaton lets them.
 * `bytes[t]` is what token t writes; undefined or empty for tokens that are no text, which are never allowed.
 */
export class Vocabulary {
  readonly bytes: readonly (Uint8Array | undefined)[]
  // The tree in the order of a walk: byte and depth of each node, where its subtree ends, and its tokens' range.
  readonly #byte: Uint8Array
  readonly #depth: Uint16Array
  readonly #end: Int32Array
  readonly #tokensFrom: Int32Array
  readonly #tokens: Int32Array
  readonly #path: State[] = []
  readonly #masks = new Map<State, Mask>()

  constructor(bytes: readonly (Uint8Array | undefined)[]) {
    this.bytes = bytes
    const texts = bytes.map((text) => Buffer.from(text ?? []).toString('latin1'))
    const order = Int32Array.from(texts.keys()).filter((token) => texts[token] !== '')
    order.sort((a, b) => (texts[a]! < texts[b]! ? -1 : texts[a]! > texts[b]! ? 1 : a - b))
    const nodes: { byte: number; depth: number; from: number }[] = []
    let before = ''
    for (const [place, token] of order.entries()) {
      const text = texts[token]!
      let shared = 0
      while (shared < before.length && text.charCodeAt(shared) === before.charCodeAt(shared)) shared++
      // A node's tokens are those of its own text, which come before all longer ones.
      for (let at = shared; at < text.length; at++) {
        nodes.push({ byte: text.charCodeAt(at), depth: at, from: place })
      }
      before = text
    }
    this.#tokens = order
    this.#byte = Uint8Array.from(nodes, ({ byte }) => byte)
    this.#depth = Uint16Array.from(nodes, ({ depth }) => depth)
    this.#end = subtreeEnds(this.#depth)
    // Nodes above a token's own begin at the same token: what they hold begins and ends there.
    this.#tokensFrom = new Int32Array(nodes.length + 1).fill(order.length)
    for (const [i, { from }] of nodes.entries()) this.#tokensFrom[i] = from
  }

  /** The tokens that may follow in this state, from the cache where it was asked for before. */
  maskOf(automaton: Automaton, state: State): Mask {
    const known = this.#masks.get(state)
    const mask = known ?? this.#walk(automaton, state)
    if (known !== undefined) this.#masks.delete(state)
    else if (this.#masks.size === masksMax) this.#masks.delete(this.#masks.keys().next().value!)
    this.#masks.set(state, mask)
    return mask
  }

  #walk(automaton: Automaton, start: State): Mask {
    const words = new Int32Array(Math.ceil(this.bytes.length / 32))
    const { classOf } = automaton
    const path = this.#path
    path[0] = start
    let any = false
    for (let node = 0; node < this.#byte.length; ) {
      const depth = this.#depth[node]!
      const byteClass = classOf[this.#byte[node]!]!
      const from = path[depth]!
      const next = from.next[byteClass]
      const state = next === undefined ? automaton.step(from, byteClass) : next
      if (state === null) {
        node = this.#end[node]!
        continue
      }
      path[depth + 1] = state
      const last = this.#tokensFrom[node + 1]!
      for (let i = this.#tokensFrom[node]!; i < last; i++) {
        const token = this.#tokens[i]!
        words[token >> 5]! |= 1 << (token & 31)
        any = true
      }
      node++
    }
    return { words, any }
  }
}

function subtreeEnds(depths: Uint16Array): Int32Array {
  const ends = new Int32Array(depths.length)
  const open: number[] = []
  for (let node = 0; node < depths.length; node++) {
    while (open.length > depths[node]!) ends[open.pop()!] = node
    open.push(node)
  }
  for (const node of open) ends[node] = depths.length
  return ends
}
