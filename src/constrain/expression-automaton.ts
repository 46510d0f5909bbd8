/**
 * Regular expressions as deterministic automata over characters. A pattern is found anywhere in a text unless it is
 * anchored, so what is read may begin and go on with anything; bounds of length are counted along.
 */
import { anyCharacter, type CharacterRange, type CharacterSet } from './character-set.ts'
import { type Expression, type ExpressionBudget, ExpressionRefusal, spend, tooLarge } from './expression.ts'

export interface ExpressionState {
  /** Whether the text may end here. */
  accepting: boolean
  /** What may come next: classes of characters, by the state that they lead to. Each state can reach an end. */
  targets: ReadonlyMap<number, readonly number[]>
}

export interface ExpressionAutomaton {
  states: readonly ExpressionState[]
  start: number
  /** The characters of each class: told apart by nothing in the expression. */
  classes: readonly CharacterSet[]
}

/** Of an expression with its repeats written out. */
const partsMax = 20_000
const statesMax = 8_000
/** Sets of characters that differ. */
const setsMax = 256

/**
 * The automaton of texts of `least` to `most` characters in which the expression is found. Throws an
 * {@link ExpressionRefusal} where it takes too many states, or no text fits.
 */
export function expressionAutomaton(
  expression: Expression,
  budget: ExpressionBudget,
  least = 0,
  most?: number,
): ExpressionAutomaton {
  const network = new Network(budget)
  const found = network.build(expression, network.found)
  // Everything may stand before what is looked for.
  const before = network.node()
  network.nodes[before]!.empty.push(found)
  network.read(before, anyCharacter, before)
  const alphabet = alphabetOf(network.sets)
  const subsets = new Subsets(network, alphabet, before)
  return trimmed(counted(subsets, budget, least, most), alphabet.classes)
}

interface Node {
  /** Which set it reads a character of, and where that leads. */
  set: number
  to: number
  /** Read nothing; those in `atStart` and `atEnd` only where the text begins or ends. */
  readonly empty: number[]
  readonly atStart: number[]
  readonly atEnd: number[]
}

const readsNothing = -1

/** An expression as a network of nodes, built from behind (Thompson 1968). */
class Network {
  readonly nodes: Node[] = []
  /** Each once. */
  readonly sets: CharacterSet[] = []
  /** Whatever comes, the expression has been found. */
  readonly found: number
  readonly budget: ExpressionBudget
  readonly #indexOf = new Map<string, number>()
  readonly #known = new Map<CharacterSet, number>()

  constructor(budget: ExpressionBudget) {
    this.budget = budget
    this.found = this.node()
    this.read(this.found, anyCharacter, this.found)
  }

  node(): number {
    if (this.nodes.length === partsMax) throw tooLarge()
    return this.nodes.push({ set: readsNothing, to: 0, empty: [], atStart: [], atEnd: [] }) - 1
  }

  read(from: number, set: CharacterSet, to: number): void {
    const index = this.#known.get(set) ?? this.#indexed(set)
    Object.assign(this.nodes[from]!, { set: index, to })
  }

  #indexed(set: CharacterSet): number {
    spend(this.budget, set.length)
    const key = set.join()
    let index = this.#indexOf.get(key)
    if (index === undefined) {
      if (this.sets.length === setsMax) throw tooLarge()
      index = this.sets.push(set) - 1
      this.#indexOf.set(key, index)
    }
    this.#known.set(set, index)
    return index
  }

  /** The expression, then `next`. */
  build(expression: Expression, next: number): number {
    spend(this.budget, 1)
    switch (expression.kind) {
      case 'sequence':
        return expression.parts.reduceRight((behind, part) => this.build(part, behind), next)
      case 'repeat':
        return this.#repeat(expression, next)
      case 'set': {
        const start = this.node()
        this.read(start, expression.set, next)
        return start
      }
      case 'either': {
        const start = this.node()
        for (const branch of expression.branches) this.nodes[start]!.empty.push(this.build(branch, next))
        return start
      }
      case 'start':
      case 'end': {
        const start = this.node()
        this.nodes[start]![expression.kind === 'start' ? 'atStart' : 'atEnd'].push(next)
        return start
      }
    }
  }

  #repeat({ part, least, most }: Expression & { kind: 'repeat' }, next: number): number {
    let at = next
    if (most === undefined) {
      at = this.node()
      this.nodes[at]!.empty.push(next, this.build(part, at))
    }
    for (let count = most ?? least; count > 0; count--) {
      const once = this.build(part, at)
      if (count <= least) {
        at = once
        continue
      }
      at = this.node()
      this.nodes[at]!.empty.push(once, next)
    }
    return at
  }
}

interface Alphabet {
  classes: readonly CharacterSet[]
  /** For each set, whether a class lies within it; no class lies partly within one. */
  holds: readonly Uint8Array[]
}

function alphabetOf(sets: readonly CharacterSet[]): Alphabet {
  const changes = new Map<number, bigint>()
  const change = (at: number, bit: bigint) => changes.set(at, (changes.get(at) ?? 0n) ^ bit)
  for (const [index, set] of sets.entries()) {
    for (const [first, last] of set) {
      change(first, 1n << BigInt(index))
      change(last + 1, 1n << BigInt(index))
    }
  }
  const ranges = new Map<bigint, CharacterRange[]>()
  const places = [...changes.keys()].sort((a, b) => a - b)
  let within = 0n
  for (const [i, place] of places.entries()) {
    within ^= changes.get(place)!
    if (within === 0n) continue
    const known = ranges.get(within)
    const range: CharacterRange = [place, places[i + 1]! - 1]
    if (known === undefined) ranges.set(within, [range])
    else known.push(range)
  }
  const kinds = [...ranges.keys()]
  const holds = sets.map((_, index) => Uint8Array.from(kinds, (bits) => Number((bits >> BigInt(index)) & 1n)))
  return { classes: [...ranges.values()], holds }
}

/** Sets of nodes that a text can lead to at once: states that are numbered as they are met (Rabin and Scott 1959). */
class Subsets {
  readonly start: number
  readonly classCount: number
  readonly #network: Network
  readonly #holds: readonly Uint8Array[]
  readonly #members: (readonly number[])[] = []
  readonly #accepting: boolean[] = []
  readonly #next: Int32Array[] = []
  readonly #indexOf = new Map<string, number>()

  constructor(network: Network, { classes, holds }: Alphabet, start: number) {
    this.#network = network
    this.#holds = holds
    this.classCount = classes.length
    this.start = this.#of([start], true)
  }

  accepts(subset: number): boolean {
    return this.#accepting[subset]!
  }

  next(subset: number, characterClass: number): number {
    const next = this.#next[subset]!
    if (next[characterClass] === -1) next[characterClass] = this.#after(subset, characterClass)
    return next[characterClass]!
  }

  #after(subset: number, characterClass: number): number {
    const { nodes, budget } = this.#network
    const members = this.#members[subset]!
    spend(budget, members.length)
    const reached: number[] = []
    for (const member of members) {
      const { set, to } = nodes[member]!
      if (set !== readsNothing && this.#holds[set]![characterClass] === 1) reached.push(to)
    }
    return this.#of(reached, false)
  }

  #of(reached: readonly number[], atStart: boolean): number {
    const { found } = this.#network
    const all = this.#settle(reached, atStart, false)
    // Once it is found, nothing else matters.
    const members = all.includes(found) ? [found] : all
    const key = `${atStart}${members.join()}`
    const known = this.#indexOf.get(key)
    if (known !== undefined) return known
    if (this.#members.length === statesMax) throw tooLarge()
    const index = this.#members.push(members) - 1
    this.#indexOf.set(key, index)
    this.#accepting.push(this.#settle(members, atStart, true).includes(found))
    this.#next.push(new Int32Array(this.classCount).fill(-1))
    spend(this.#network.budget, this.classCount)
    return index
  }

  /** Follows what reads nothing; in order, so that equal sets are written alike. */
  #settle(reached: readonly number[], atStart: boolean, atEnd: boolean): number[] {
    const { nodes, budget } = this.#network
    const seen = new Set(reached)
    for (const node of seen) {
      const { empty, ...anchored } = nodes[node]!
      for (const to of empty) seen.add(to)
      if (atStart) for (const to of anchored.atStart) seen.add(to)
      if (atEnd) for (const to of anchored.atEnd) seen.add(to)
      spend(budget, 1 + empty.length)
    }
    const telling = [...seen].filter(
      (node) => nodes[node]!.set !== readsNothing || nodes[node]!.atEnd.length > 0,
    )
    return telling.sort((a, b) => a - b)
  }
}

/** Subsets beside the number of characters that were read, as far as the bounds tell numbers apart. */
function counted(
  subsets: Subsets,
  budget: ExpressionBudget,
  least: number,
  most: number | undefined,
): ExpressionState[] {
  const states: { accepting: boolean; targets: Map<number, number[]> }[] = []
  const whats: { subset: number; count: number }[] = []
  const indexOf = new Map<number, number>()
  const countMost = (most ?? least) + 1
  const stateOf = (subset: number, count: number): number => {
    const key = subset * countMost + count
    let index = indexOf.get(key)
    if (index === undefined) {
      if (states.length === statesMax) throw tooLarge()
      index = whats.push({ subset, count }) - 1
      indexOf.set(key, index)
      states.push({ accepting: subsets.accepts(subset) && count >= least, targets: new Map() })
    }
    return index
  }
  stateOf(subsets.start, 0)
  for (let index = 0; index < states.length; index++) {
    const { subset, count } = whats[index]!
    if (count === most) continue
    const { targets } = states[index]!
    spend(budget, subsets.classCount)
    for (let characterClass = 0; characterClass < subsets.classCount; characterClass++) {
      const after = most === undefined ? Math.min(count + 1, least) : count + 1
      const target = stateOf(subsets.next(subset, characterClass), after)
      const known = targets.get(target)
      if (known === undefined) targets.set(target, [characterClass])
      else known.push(characterClass)
    }
  }
  return states
}

/** Without states from which nothing reaches an end. */
function trimmed(states: readonly ExpressionState[], classes: readonly CharacterSet[]): ExpressionAutomaton {
  const sources: number[][] = states.map(() => [])
  for (const [index, { targets }] of states.entries())
    for (const target of targets.keys()) sources[target]!.push(index)
  const alive = new Set([...states.keys()].filter((index) => states[index]!.accepting))
  for (const index of alive) for (const source of sources[index]!) alive.add(source)
  if (!alive.has(0)) throw new ExpressionRefusal('No text fits, of the lengths that are allowed.')
  const places = new Map([...alive].map((index, place) => [index, place]))
  const kept = [...alive].map((index) => {
    const { accepting, targets } = states[index]!
    const living = [...targets].filter(([target]) => alive.has(target))
    return { accepting, targets: new Map(living.map(([target, list]) => [places.get(target)!, list])) }
  })
  return { states: kept, start: places.get(0)!, classes }
}
