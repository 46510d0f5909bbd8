import { callDepthMax, type Grammar, returnNode } from './grammar.ts'

/** Where to go on when a rule returns: a stack as a list from its top. */
interface Frame {
  readonly id: number
  readonly to: number
  readonly parent: Frame | undefined
  readonly depth: number
  readonly pushed: Map<number, Frame>
}

interface Place {
  readonly node: number
  readonly frame: Frame
}

/** All that the bytes so far can mean: states are equal when they are the same object. */
export interface State {
  readonly places: readonly Place[]
  /** Whether the text may end here. */
  readonly accepting: boolean
  /** Whether anything may follow. */
  readonly open: boolean
  /** Within a JSON string and nowhere else: how many characters may follow there. */
  readonly charactersLeft: number | undefined
  /** By class of byte; null where the text would be wrong, undefined where nobody asked yet. */
  next: (State | null | undefined)[]
}

/** States that are remembered, and what they mean together; beyond, all are forgotten but those in use. */
const statesMax = 8192
const placesKeptMax = 262_144
/**
 * Meanings of one text, and what is looked at to find them. Further ones are dropped: each that is kept can still be
 * written to its end. Several times what a schema may name in one place, so that only one that calls itself in many ways
 * at once comes here; then a byte takes some milliseconds, where it would take seconds.
 */
const placesMax = 4096
const looksMax = 8192

/**
 * A pushdown automaton over bytes, made deterministic as it is used: a state is a set of (node, stack). Every
 * state reached can be written to an end: places from which the depth of calls would not suffice are left out.
 */
export class Automaton {
  readonly start: State
  /** Bytes of one class are told apart by no edge of the grammar. */
  readonly classOf: Uint8Array
  readonly #representatives: number[] = []
  readonly #grammar: Grammar
  readonly #states = new Map<string, State>()
  readonly #bottom: Frame = { id: 0, to: returnNode, parent: undefined, depth: 0, pushed: new Map() }
  #frames = 1
  #looks = 0
  #placesKept = 0

  constructor(grammar: Grammar) {
    this.#grammar = grammar
    this.classOf = grammar.classOf
    for (let byte = 0; byte < 256; byte++) this.#representatives[this.classOf[byte]!] ??= byte
    this.start = this.#stateOf([{ node: grammar.start, frame: this.#bottom }])!
  }

  /** What making states has cost so far: places that were looked at for them. */
  get looks(): number {
    return this.#looks
  }

  /** The state behind one more byte of this class; null when no text goes on so. */
  step(state: State, byteClass: number): State | null {
    const known = state.next[byteClass]
    if (known !== undefined) return known
    const byte = this.#representatives[byteClass]!
    const { from, items } = this.#grammar.bytes
    const reached: Place[] = []
    for (const { node, frame } of state.places) {
      for (let edge = from[node]!; edge < from[node + 1]!; edge += 3) {
        if (items[edge]! <= byte && byte <= items[edge + 1]!) reached.push({ node: items[edge + 2]!, frame })
      }
    }
    return (state.next[byteClass] = this.#stateOf(reached))
  }

  /** The state behind all of these bytes. */
  walk(state: State, bytes: Uint8Array): State | null {
    let at: State | null = state
    for (let i = 0; i < bytes.length && at !== null; i++) at = this.step(at, this.classOf[bytes[i]!]!)
    return at
  }

  #stateOf(reached: readonly Place[]): State | null {
    const { places, accepting } = this.#settle(reached)
    if (places.length === 0 && !accepting) return null
    const key = places.map(({ node, frame }) => `${node}:${frame.id}`).join() + (accepting ? '.' : '')
    const known = this.#states.get(key)
    if (known !== undefined) return known
    if (this.#states.size === statesMax || this.#placesKept > placesKeptMax) this.#forget()
    this.#placesKept += places.length
    const charactersLeft = places.length === 1 ? this.#grammar.strings.get(places[0]!.node) : undefined
    const state: State = { places, accepting, open: places.length > 0, charactersLeft, next: [] }
    this.#states.set(key, state)
    return state
  }

  /** Follows what reads nothing, to the places that read a byte. */
  #settle(reached: readonly Place[]): { places: Place[]; accepting: boolean } {
    const { nodeCount, bytes, empty, calls, rules, heights } = this.#grammar
    const pending: Place[] = []
    const looksEnd = this.#looks + looksMax
    const seen = new Set<number>()
    const reach = (node: number, frame: Frame) => {
      this.#looks++
      const key = frame.id * nodeCount + node
      if (seen.has(key) || frame.depth + heights[node]! > callDepthMax) return
      seen.add(key)
      pending.push({ node, frame })
    }
    const places: Place[] = []
    let accepting = false
    for (const { node, frame } of reached) reach(node, frame)
    for (let place = pending.pop(); place !== undefined; place = pending.pop()) {
      // The place that was found last is followed first, so that one is found long before.
      if (this.#looks > looksEnd && (places.length > 0 || accepting)) break
      const { node, frame } = place
      if (node === returnNode) {
        if (frame.parent === undefined) accepting = true
        else reach(frame.to, frame.parent)
        continue
      }
      if (bytes.from[node]! < bytes.from[node + 1]! && places.length < placesMax) places.push(place)
      for (let edge = empty.from[node]!; edge < empty.from[node + 1]!; edge++)
        reach(empty.items[edge]!, frame)
      for (let edge = calls.from[node]!; edge < calls.from[node + 1]!; edge += 2) {
        const start = rules[calls.items[edge]!]!
        const to = calls.items[edge + 1]!
        if (frame.depth + Math.max(heights[to]!, 1 + heights[start]!) > callDepthMax) continue
        reach(start, this.#push(frame, to))
      }
    }
    places.sort((a, b) => a.node - b.node || a.frame.id - b.frame.id)
    return { places, accepting }
  }

  #push(parent: Frame, to: number): Frame {
    let frame = parent.pushed.get(to)
    if (frame === undefined) {
      frame = { id: this.#frames++, to, parent, depth: parent.depth + 1, pushed: new Map() }
      parent.pushed.set(to, frame)
    }
    return frame
  }

  /** States know each other: without cutting that, one in use would keep all that were ever reached from it. */
  #forget(): void {
    for (const state of this.#states.values()) state.next = []
    this.#states.clear()
    this.#placesKept = 0
    this.#bottom.pushed.clear()
  }
}
