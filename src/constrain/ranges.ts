/** Whole numbers between bounds, and texts of known formats, as they are written in JSON. */
import type { GrammarBuilder } from './grammar.ts'

/** A whole number of [low, high], written without needless zeros; nowhere to go where there is none. */
export function integerBetween(grammar: GrammarBuilder, low: bigint, high: bigint, next: number): number {
  const start = grammar.node()
  if (low < 0n) {
    const minus = grammar.node()
    grammar.characters(start, '-', minus)
    unsignedBetween(grammar, minus, high < 0n ? -high : 1n, -low, next)
  }
  if (high >= 0n) unsignedBetween(grammar, start, low > 0n ? low : 0n, high, next)
  return start
}

function unsignedBetween(
  grammar: GrammarBuilder,
  start: number,
  low: bigint,
  high: bigint,
  next: number,
): void {
  for (let length = String(low).length; length <= String(high).length; length++) {
    const least = length === 1 ? 0n : 10n ** BigInt(length - 1)
    const most = 10n ** BigInt(length) - 1n
    const from = String(low > least ? low : least)
    const to = String(high < most ? high : most)
    grammar.empty(start, digitsBetween(grammar, from, to, next))
  }
}

/** Digits of one length from `low` to `high`. */
function digitsBetween(grammar: GrammarBuilder, low: string, high: string, next: number): number {
  if (low === '') return next
  const start = grammar.node()
  const [first, last] = [low.charCodeAt(0), high.charCodeAt(0)]
  const [lowRest, highRest] = [low.slice(1), high.slice(1)]
  const [least, most] = ['0'.repeat(lowRest.length), '9'.repeat(lowRest.length)]
  if (first === last) {
    grammar.bytes(start, first, first, digitsBetween(grammar, lowRest, highRest, next))
    return start
  }
  // Whole decades share what follows.
  const lowest = lowRest === least ? first : first + 1
  const highest = highRest === most ? last : last - 1
  if (lowest > first) grammar.bytes(start, first, first, digitsBetween(grammar, lowRest, most, next))
  if (highest < last) grammar.bytes(start, last, last, digitsBetween(grammar, least, highRest, next))
  if (lowest > highest) return start
  let free = next
  for (let count = 0; count < lowRest.length; count++) {
    const before = grammar.node()
    grammar.bytes(before, 0x30, 0x39, free)
    free = before
  }
  grammar.bytes(start, lowest, highest, free)
  return start
}

type Part = (grammar: GrammarBuilder, next: number) => number

const between =
  (low: string, high: string): Part =>
  (grammar, next) =>
    digitsBetween(grammar, low, high, next)
const literal =
  (text: string): Part =>
  (grammar, next) =>
    grammar.literal(text, next)
const sequence =
  (...parts: Part[]): Part =>
  (grammar, next) =>
    parts.reduceRight((behind, part) => part(grammar, behind), next)
const either =
  (...parts: Part[]): Part =>
  (grammar, next) => {
    const start = grammar.node()
    for (const part of parts) grammar.empty(start, part(grammar, next))
    return start
  }
/** `least` to `most` of these characters. */
const some =
  (characters: string, least: number, most: number): Part =>
  (grammar, next) => {
    let at = next
    for (let count = most; count > 0; count--) {
      const before = grammar.node()
      grammar.characters(before, characters, at)
      if (count > least) grammar.empty(before, next)
      at = before
    }
    return at
  }

/** A leap day would take its year with it: it is not written. */
const monthAndDay = either(
  sequence(
    either(...['01', '03', '05', '07', '08', '10', '12'].map(literal)),
    literal('-'),
    between('01', '31'),
  ),
  sequence(either(...['04', '06', '09', '11'].map(literal)), literal('-'), between('01', '30')),
  sequence(literal('02-'), between('01', '28')),
)
const date = sequence(between('0001', '9999'), literal('-'), monthAndDay)
const minutes = sequence(between('00', '23'), literal(':'), between('00', '59'))
const zone = either(literal('Z'), sequence(either(literal('+'), literal('-')), minutes))
const fraction = either(literal(''), sequence(literal('.'), some('0123456789', 1, 6)))
const time = sequence(minutes, literal(':'), between('00', '59'), fraction, zone)
const hexadecimal = (count: number) => some('0123456789abcdef', count, count)
const octet = either(between('0', '9'), between('10', '99'), between('100', '255'))
const alphabet = 'abcdefghijklmnopqrstuvwxyz0123456789'
const label = some(alphabet, 1, 20)
const name = some(`${alphabet}ABCDEFGHIJKLMNOPQRSTUVWXYZ_+-`, 1, 20)

/** Texts of each format that is kept: of all that it allows, those that are written in one way. */
export const formats: ReadonlyMap<string, Part> = new Map([
  ['date', date],
  ['time', time],
  ['date-time', sequence(date, literal('T'), time)],
  ['uuid', sequence(hexadecimal(8), ...[4, 4, 4, 12].flatMap((count) => [literal('-'), hexadecimal(count)]))],
  ['ipv4', sequence(octet, literal('.'), octet, literal('.'), octet, literal('.'), octet)],
  [
    'email',
    sequence(
      ...[name, either(literal(''), sequence(literal('.'), name)), literal('@'), label],
      ...[either(literal(''), sequence(literal('.'), label)), literal('.')],
      some('abcdefghijklmnopqrstuvwxyz', 2, 6),
    ),
  ],
])
