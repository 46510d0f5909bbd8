/** JSON strings in which a regular expression is found. */
import { type CharacterRange, type CharacterSet, characters } from './character-set.ts'
import { type ExpressionBudget, parseExpression } from './expression.ts'
import { type ExpressionAutomaton, expressionAutomaton } from './expression-automaton.ts'
import { type GrammarBuilder, returnNode } from './grammar.ts'

/** Sequences of bytes in a set from which on it becomes a rule of its own, and not a part of each place that reads it. */
const sharedFrom = 24

/**
 * A string of `least` to `most` characters in which the expression is found, in quotes, then `next`. A character is
 * written in one way, that of JSON.stringify: itself, or by its shortest escape where it has to be escaped. Throws an
 * ExpressionRefusal.
 */
export function matchingString(
  grammar: GrammarBuilder,
  next: number,
  expression: string,
  budget: ExpressionBudget,
  least?: number,
  most?: number,
): number {
  const automaton = expressionAutomaton(parseExpression(expression, budget), budget, least, most)
  const { states, start, classes } = automaton
  const writer = new CharacterWriter(grammar)
  const nodes = states.map(() => grammar.node())
  const free = freeCharacters(automaton)
  const sets = new Map<string, CharacterSet>()
  const setOf = (list: readonly number[]) => {
    const known = sets.get(list.join())
    if (known !== undefined) return known
    const set = characters(list.flatMap((one) => classes[one]!))
    sets.set(list.join(), set)
    return set
  }
  for (const [index, { accepting, targets }] of states.entries()) {
    const node = nodes[index]!
    if (accepting) grammar.characters(node, '"', next)
    if (free[index]! > 0) grammar.insideString(node, free[index]!)
    for (const [target, list] of targets) {
      writer.write(node, setOf(list), nodes[target]!)
    }
  }
  return grammar.literal('"', nodes[start]!)
}

/** The bytes of characters within a JSON string. */
class CharacterWriter {
  readonly #grammar: GrammarBuilder
  /** Nodes where the rest of a character is read, by the rest and where it leads. */
  readonly #rests = new Map<string, number>()
  readonly #rules = new Map<CharacterSet, number>()
  readonly #written = new Map<CharacterSet, Written>()

  constructor(grammar: GrammarBuilder) {
    this.#grammar = grammar
  }

  /** One character of the set, from one node to another. */
  write(from: number, set: CharacterSet, to: number): void {
    let written = this.#written.get(set)
    if (written === undefined) this.#written.set(set, (written = writtenOf(set)))
    if (written.plain.length < sharedFrom) this.#write(from, written, to)
    else this.#grammar.call(from, this.#ruleOf(set, written), to)
  }

  #ruleOf(set: CharacterSet, written: Written): number {
    const known = this.#rules.get(set)
    if (known !== undefined) return known
    const { id, begin } = this.#grammar.rule()
    this.#rules.set(set, id)
    const start = this.#grammar.node()
    begin(start)
    this.#write(start, written, returnNode)
    return id
  }

  #write(from: number, { plain, escaped: texts }: Written, to: number): void {
    this.#sequences(from, plain, to)
    if (texts.length === 0) return
    this.#grammar.characters(
      from,
      '\\',
      this.#rest(`\\${texts.join()}`, to, (node) => this.#escapes(node, texts, to)),
    )
  }

  /** `sequences` in order and apart, so that first bytes are the same or apart as well. */
  #sequences(from: number, sequences: readonly ByteRange[][], to: number): void {
    for (let i = 0; i < sequences.length; ) {
      const [low, high] = sequences[i]![0]!
      let end = i
      while (end < sequences.length && sequences[end]![0]![0] === low && sequences[end]![0]![1] === high)
        end++
      const rests = sequences.slice(i, end).map((sequence) => sequence.slice(1))
      const target =
        rests[0]!.length === 0
          ? to
          : this.#rest(rests.join(';'), to, (node) => this.#sequences(node, rests, to))
      this.#grammar.bytes(from, low, high, target)
      i = end
    }
  }

  /** What stands behind the backslash: a letter each, but for those that are u00 and two digits. */
  #escapes(from: number, texts: readonly string[], to: number): void {
    for (const text of texts) {
      if (text.length === 1) this.#grammar.characters(from, text, to)
    }
    const long = texts.filter((text) => text.length > 1)
    if (long.length === 0) return
    const third = this.#grammar.node()
    this.#grammar.characters(from, 'u', this.#grammar.literal('00', third))
    for (const digit of ['0', '1']) {
      const last = long.filter((text) => text[3] === digit).map((text) => text[4]!)
      if (last.length === 0) continue
      const fourth = this.#grammar.node()
      this.#grammar.characters(third, digit, fourth)
      this.#grammar.characters(fourth, last.join(''), to)
    }
  }

  #rest(what: string, to: number, fill: (node: number) => void): number {
    const key = `${to}:${what}`
    const known = this.#rests.get(key)
    if (known !== undefined) return known
    const node = this.#grammar.node()
    this.#rests.set(key, node)
    fill(node)
    return node
  }
}

/** How the characters of a set are written. */
interface Written {
  /** In UTF-8. */
  plain: readonly ByteRange[][]
  /** What stands behind the backslash, for each that has to be escaped. */
  escaped: readonly string[]
}

function writtenOf(set: CharacterSet): Written {
  const escaped: string[] = []
  const plain: ByteRange[][] = []
  for (const [first, last] of set) {
    let at = first
    for (const [point, text] of escapedPoints) {
      if (point < at || point > last) continue
      escaped.push(text)
      if (at < point) plain.push(...utf8(at, point - 1))
      at = point + 1
    }
    if (at <= last) plain.push(...utf8(at, last))
  }
  return { plain, escaped }
}

/** Characters that a JSON string holds escaped, and what stands behind the backslash. */
const escapedPoints: ReadonlyMap<number, string> = new Map(
  [...Array.from({ length: 0x20 }, (_, point) => point), 0x22, 0x5c].map((point) => [
    point,
    JSON.stringify(String.fromCharCode(point)).slice(2, -1),
  ]),
)

type ByteRange = readonly [low: number, high: number]

/** The characters from `first` to `last` in UTF-8: sequences of ranges of bytes, in order (Cox 2010). */
function utf8(first: number, last: number): ByteRange[][] {
  for (const most of [0x7f, 0x7ff, 0xffff]) {
    if (first <= most && most < last) return [...utf8(first, most), ...utf8(most + 1, last)]
  }
  const [low, high] = [first, last].map((point) => [...Buffer.from(String.fromCodePoint(point))]) as [
    number[],
    number[],
  ]
  // A range becomes one sequence where all but its first bytes that differ go from the least to the most.
  for (let tail = 1; tail < low.length; tail++) {
    const span = (1 << (6 * tail)) - 1
    if ((first & ~span) === (last & ~span)) continue
    if ((first & span) !== 0) return [...utf8(first, first | span), ...utf8((first | span) + 1, last)]
    if ((last & span) !== span) return [...utf8(first, (last & ~span) - 1), ...utf8(last & ~span, last)]
  }
  return [low.map((byte, i) => [byte, high[i]!] as const)]
}

/** Of {@link freeCharacters}, for each state; usual are two. */
const stepsMax = 20

/**
 * Of each state, how many characters that need no escape may follow, whatever they are, before none may; Infinity for any
 * number, 0 where some may follow and others not.
 */
function freeCharacters({ states, classes }: ExpressionAutomaton): number[] {
  const isPlain = classes.map((set) => set.some(isPlainRange))
  const plainTargets = states.map(({ targets }) => {
    const lists = [...targets].filter(([, list]) => list.some((one) => isPlain[one]))
    const count = lists.reduce((sum, [, list]) => sum + list.filter((one) => isPlain[one]).length, 0)
    return { to: lists.map(([target]) => target), all: count === isPlain.filter(Boolean).length }
  })
  const sources: number[][] = states.map(() => [])
  for (const [index, { to }] of plainTargets.entries()) for (const target of to) sources[target]!.push(index)
  const free = plainTargets.map(({ to, all }) =>
    all ? Number.POSITIVE_INFINITY : to.length === 0 ? 0 : Number.NaN,
  )
  const changed = new Set([...free.keys()].filter((index) => free[index] !== Number.POSITIVE_INFINITY))
  let steps = states.length * stepsMax
  for (const index of changed) {
    changed.delete(index)
    for (const source of sources[index]!) {
      const { to, all } = plainTargets[source]!
      const behind = to.map((target) => free[target]!)
      const one = all && behind.every((count) => count === behind[0]) ? behind[0]! + 1 : Number.NaN
      if (Object.is(one, free[source])) continue
      free[source] = one
      changed.add(source)
    }
    if (steps-- === 0) return states.map(() => 0)
  }
  return free.map((count) => (Number.isNaN(count) ? 0 : count))
}

/** Whether it holds a character that vocabulary-tables.ts counts as plain. */
function isPlainRange([first, last]: CharacterRange): boolean {
  for (let point = Math.max(first, 0x20); point <= last; point++) {
    if (point !== 0x22 && point !== 0x5c && point !== 0x2028 && point !== 0x2029) return true
  }
  return false
}
