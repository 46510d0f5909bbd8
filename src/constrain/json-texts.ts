/**
 * How JSON is written (RFC 8259): one space may stand behind a colon, a comma and before the whole text, and
 * none elsewhere, so that no answer fills up with white space. Strings are valid UTF-8; escapes name no surrogates.
 */
import type { GrammarBuilder } from './grammar.ts'

/** Digits of an integer, of a fraction and of an exponent: numbers end, and stay finite in any reader. */
const integerDigits = 18
const fractionDigits = 16
const exponentDigits = 2

export function maybeSpace(grammar: GrammarBuilder, next: number): number {
  const start = grammar.node()
  grammar.empty(start, next)
  grammar.characters(start, ' ', next)
  return start
}

/** The punctuation mark, perhaps a space, then `next`. */
export function mark(grammar: GrammarBuilder, character: ':' | ',', next: number): number {
  return grammar.literal(character, maybeSpace(grammar, next))
}

/** A string of `least` to `most` code points. */
export function string(grammar: GrammarBuilder, next: number, least = 0, most?: number): number {
  const close = (node: number) => grammar.characters(node, '"', next)
  let inside = grammar.node()
  close(inside)
  grammar.insideString(inside, most === undefined ? Number.POSITIVE_INFINITY : 0)
  if (most === undefined) character(grammar, inside, inside)
  for (let length = (most ?? least) - 1; length >= 0; length--) {
    const before = grammar.node()
    grammar.insideString(before, most === undefined ? Number.POSITIVE_INFINITY : most - length)
    character(grammar, before, inside)
    if (length >= least) close(before)
    inside = before
  }
  return grammar.literal('"', inside)
}

function character(grammar: GrammarBuilder, from: number, to: number): void {
  grammar.bytes(from, 0x20, 0x21, to)
  grammar.bytes(from, 0x23, 0x5b, to)
  grammar.bytes(from, 0x5d, 0x7f, to)
  for (const { low, high, start } of longCharacters(grammar, to)) grammar.bytes(from, low, high, start)
  const escaped = grammar.node()
  grammar.characters(from, '\\', escaped)
  grammar.characters(escaped, '"\\/bfnrt', to)
  const last = hexadecimal(grammar, to)
  const third = hexadecimal(grammar, last)
  const first = grammar.node()
  grammar.characters(escaped, 'u', first)
  grammar.characters(first, '0123456789abcefABCEF', hexadecimal(grammar, third))
  const surrogateOrNot = grammar.node()
  grammar.characters(first, 'dD', surrogateOrNot)
  grammar.characters(surrogateOrNot, '01234567', third)
}

function hexadecimal(grammar: GrammarBuilder, to: number): number {
  const start = grammar.node()
  grammar.characters(start, '0123456789abcdefABCDEF', to)
  return start
}

/** First bytes of the characters beyond ASCII, and where the rest of each is read (Unicode 15, table 3-7). */
function longCharacters(grammar: GrammarBuilder, to: number) {
  const rest = (low: number, high: number, next: number): number => {
    const start = grammar.node()
    grammar.bytes(start, low, high, next)
    return start
  }
  const one = rest(0x80, 0xbf, to)
  const two = rest(0x80, 0xbf, one)
  return [
    { low: 0xc2, high: 0xdf, start: one },
    { low: 0xe0, high: 0xe0, start: rest(0xa0, 0xbf, one) },
    { low: 0xe1, high: 0xec, start: two },
    { low: 0xed, high: 0xed, start: rest(0x80, 0x9f, one) },
    { low: 0xee, high: 0xef, start: two },
    { low: 0xf0, high: 0xf0, start: rest(0x90, 0xbf, two) },
    { low: 0xf1, high: 0xf3, start: rest(0x80, 0xbf, two) },
    { low: 0xf4, high: 0xf4, start: rest(0x80, 0x8f, two) },
  ]
}

/**
 * A key in quotes, written without escapes, that is none of `taken`: a reader keeps the last of two equal keys,
 * and the first was held to a schema of its own.
 */
export function keyBeside(grammar: GrammarBuilder, taken: readonly string[], next: number): number {
  const free = grammar.node()
  grammar.characters(free, '"', next)
  plainCharacter(grammar, free, free, new Set())
  grammar.insideString(free, Number.POSITIVE_INFINITY)
  const branch = (rests: readonly string[]): number => {
    const node = grammar.node()
    if (!rests.includes('')) grammar.characters(node, '"', next)
    const byFirst = new Map<string, string[]>()
    for (const rest of rests) {
      const [first] = rest
      if (first === undefined) continue
      const behind = rest.slice(first.length)
      const others = byFirst.get(first)
      if (others === undefined) byFirst.set(first, [behind])
      else others.push(behind)
    }
    for (const [first, behind] of byFirst) {
      // A key cannot hold these unescaped, and so cannot be that name.
      if (/["\\\p{Cc}\p{Cs}]/u.test(first)) continue
      const bytes = [...Buffer.from(first)]
      const end = bytes.pop()!
      let at = node
      for (const byte of bytes) {
        const after = grammar.node()
        grammar.bytes(at, byte, byte, after)
        at = after
      }
      grammar.bytes(at, end, end, branch(behind))
    }
    plainCharacter(grammar, node, free, new Set([...byFirst.keys()].map((first) => first.codePointAt(0)!)))
    return node
  }
  return grammar.literal('"', taken.length === 0 ? free : branch(taken))
}

/** Any ASCII character but those in `except`, and any other character with a first byte of none of them. */
function plainCharacter(grammar: GrammarBuilder, from: number, to: number, except: ReadonlySet<number>) {
  const taken = new Set([0x22, 0x5c])
  for (const point of except) taken.add(Buffer.from(String.fromCodePoint(point))[0]!)
  const range = (low: number, high: number, start: number) => {
    let first = low
    for (let byte = low; byte <= high + 1; byte++) {
      if (byte <= high && !taken.has(byte)) continue
      if (first < byte) grammar.bytes(from, first, byte - 1, start)
      first = byte + 1
    }
  }
  range(0x20, 0x7f, to)
  for (const { low, high, start } of longCharacters(grammar, to)) range(low, high, start)
}

export function integer(grammar: GrammarBuilder, next: number): number {
  const unsigned = grammar.node()
  grammar.characters(unsigned, '0', next)
  grammar.bytes(unsigned, 0x31, 0x39, digits(grammar, next, integerDigits - 1))
  const start = grammar.node()
  grammar.empty(start, unsigned)
  grammar.characters(start, '-', unsigned)
  return start
}

export function number(grammar: GrammarBuilder, next: number): number {
  const exponent = grammar.node()
  grammar.bytes(exponent, 0x30, 0x39, digits(grammar, next, exponentDigits - 1))
  const sign = grammar.node()
  grammar.empty(sign, exponent)
  grammar.characters(sign, '+-', exponent)
  const behindFraction = grammar.node()
  grammar.empty(behindFraction, next)
  grammar.characters(behindFraction, 'eE', sign)
  const fraction = grammar.node()
  grammar.bytes(fraction, 0x30, 0x39, digits(grammar, behindFraction, fractionDigits - 1))
  const behindInteger = grammar.node()
  grammar.empty(behindInteger, behindFraction)
  grammar.characters(behindInteger, '.', fraction)
  return integer(grammar, behindInteger)
}

/** At most so many digits. */
function digits(grammar: GrammarBuilder, next: number, most: number): number {
  let at = next
  for (let count = 0; count < most; count++) {
    const before = grammar.node()
    grammar.empty(before, next)
    grammar.bytes(before, 0x30, 0x39, at)
    at = before
  }
  return at
}
