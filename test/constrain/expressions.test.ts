import { describe, expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { Automaton } from '../../src/constrain/automaton.ts'
import { expressionWorkMax, parseExpression } from '../../src/constrain/expression.ts'
import { compileSchema } from '../../src/constrain/schema.ts'
import { Vocabulary } from '../../src/constrain/vocabulary.ts'
import { tablesOf } from '../../src/constrain/vocabulary-tables.ts'

function automatonOf(schema: object): Automaton {
  const compiled = compileSchema(schema)
  if (!compiled.ok) throw new Error(`${compiled.path}: ${compiled.message}`)
  return new Automaton(compiled.grammar)
}

const takes = (automaton: Automaton, text: string) =>
  automaton.walk(automaton.start, Buffer.from(JSON.stringify(text)))?.accepting === true

/** Every text of up to four of these characters. */
function textsOf(characters: readonly string[]): string[] {
  const longer = (texts: string[]) => texts.flatMap((text) => characters.map((one) => text + one))
  const two = longer(longer(['']))
  return ['', ...characters, ...two, ...longer(two), ...longer(longer(two))]
}

const texts = textsOf(['a', 'b', '"', '\n', 'é', '😀'])

function randomExpression(random: Random, depth: number): string {
  const pick = (...items: string[]) => items[random.integer(items.length)]!
  const atom = () =>
    pick(
      'a',
      'b',
      '"',
      '.',
      '\\n',
      'é',
      '\\u{1f600}',
      '[ab]',
      '[^a]',
      '\\w',
      '\\W',
      '\\s',
      '[a-é]',
      '[^]',
      '\\p{L}',
    )
  if (depth === 0) return atom()
  const inner = () => randomExpression(random, depth - 1)
  switch (random.integer(7)) {
    case 0:
      return `(${inner()}|${inner()})`
    case 1:
      return `(?:${inner()})${pick('*', '+', '?', '{2}', '{1,}', '{0,2}', '{1,3}', '*?', '{0}')}`
    case 2:
      return pick(`^${inner()}`, `${inner()}$`, `^${inner()}$`)
    case 3:
      return pick(
        `(?:^|${inner()})${inner()}`,
        `${inner()}(?:${inner()}|$)`,
        `(?:${inner()}|)`,
        `(?<x${random.integer(1e9)}>${inner()})`,
      )
    default:
      return inner() + inner()
  }
}

test('a text fits a random expression where a reader of regular expressions finds it there, within its bounds', () => {
  const random = new Random(11)
  let both = 0
  for (let round = 0; round < 200; round++) {
    const pattern = randomExpression(random, 3)
    const [minLength, maxLength] = [random.integer(3), 1 + random.integer(4)]
    const bounds = [{}, { minLength }, { maxLength: Math.max(minLength, maxLength), minLength }][
      random.integer(3)
    ]!
    const reader = new RegExp(pattern, 'u')
    const { least = 0, most = 9 } = { least: bounds.minLength, most: bounds.maxLength }
    const wanted = texts.filter((text) => {
      const { length } = [...text]
      return reader.test(text) && length >= least && length <= most
    })
    const compiled = compileSchema({ type: 'string', pattern, ...bounds })
    if (!compiled.ok) {
      expect([pattern, compiled.message, wanted]).toEqual([
        pattern,
        expect.stringContaining('No text fits'),
        [],
      ])
      continue
    }
    const automaton = new Automaton(compiled.grammar)
    const taken = texts.filter((text) => takes(automaton, text))
    expect({ pattern, bounds, taken }).toEqual({ pattern, bounds, taken: wanted })
    both += Number(taken.length > 0 && taken.length < texts.length)
  }
  expect(both).toBeGreaterThan(80)
})

test('the characters of a class are those that readers take for it, of all there are', () => {
  const sources = [
    '\\d',
    '\\W',
    '\\s',
    '.',
    '[^\\s"\\\\-~]',
    '\\p{Lu}',
    '\\P{Script=Greek}',
    '[\\x41-\\u{10ffff}]',
    '\\cJ',
  ]
  for (const source of sources) {
    const parsed = parseExpression(source, { work: expressionWorkMax })
    if (parsed.kind !== 'set') throw new Error(parsed.kind)
    const reader = new RegExp(`^${source}$`, 'u')
    let range = 0
    const wrong: number[] = []
    for (let point = 0; point <= 0x10ffff; point++) {
      if (point >= 0xd800 && point <= 0xdfff) continue
      while (range < parsed.set.length && parsed.set[range]![1] < point) range++
      const isIn = range < parsed.set.length && parsed.set[range]![0] <= point
      if (isIn !== reader.test(String.fromCodePoint(point))) wrong.push(point)
    }
    expect([source, wrong]).toEqual([source, []])
  }
})

test('random walks end in JSON strings that fit, for expressions as people write them', () => {
  const patterns = [
    '^[A-Z]{2}\\d{6}$',
    '^(\\+\\d{1,3}[- ]?)?\\(?\\d{3}\\)?[- ]?\\d{3}-\\d{4}$',
    '^[\\w.+-]+@[a-z0-9-]+(\\.[a-z]{2,})+$',
    '^#(?:[0-9a-fA-F]{3}){1,2}$',
    '^(0|[1-9]\\d*)\\.(0|[1-9]\\d*)\\.(0|[1-9]\\d*)(-[0-9A-Za-z-]+)?$',
    '^(GET|POST) /\\S*$',
    '^[^"\\\\]*$',
    "^\\p{Lu}[\\p{L} '-]{1,39}$",
    'colou?r',
    '\\d{3}$',
    '^https?:\\/\\/[^\\s/$.?#].[^\\s]*$',
    '^[\\s\\S]{1,20}$',
    '^\\/\\*.*\\*\\/$',
    '^"(\\\\.|[^"\\\\])*"$',
    '^[\\u3040-\\u30ff\\u4e00-\\u9fff]+$',
    '^\\uD83D[\\uDE00-\\uDE4F]$|^\\uD83D\\uDE00$',
  ]
  const random = new Random(5)
  for (const pattern of patterns) {
    const reader = new RegExp(pattern, 'u')
    const automaton = automatonOf({ type: 'string', pattern })
    for (let round = 0; round < 20; round++) {
      let state = automaton.start
      const bytes: number[] = []
      while (state.open && bytes.length < 400) {
        const next = Array.from({ length: 256 }, (_, byte) => byte).filter(
          (byte) => automaton.step(state, automaton.classOf[byte]!) !== null,
        )
        // A quote ends a string soon, where it may.
        const byte = next.includes(0x22) && random.uniform() < 0.2 ? 0x22 : next[random.integer(next.length)]!
        bytes.push(byte)
        state = automaton.step(state, automaton.classOf[byte]!)!
      }
      if (!state.accepting) continue
      const text: unknown = JSON.parse(Buffer.from(bytes).toString())
      expect([pattern, text, reader.test(String(text))]).toEqual([pattern, text, true])
    }
  }
})

test('a mask within such a string is what walking every token gives', () => {
  const words = [
    'a',
    'abc',
    'é',
    '日本語',
    'a"',
    '"',
    '\\',
    'n',
    '\u2028',
    'a\u2029',
    '\\n',
    '\\"',
    '7',
    '12',
    ' ',
    '",',
  ]
  const tokens = words.map((word) => new Uint8Array(Buffer.from(word)))
  const vocabulary = new Vocabulary(tablesOf(tokens))
  let told = 0
  for (const pattern of [
    '^.{1,5}$',
    '^.*$',
    '^a.{2}$',
    '\\d',
    '^[\\s\\S]{3}$',
    '^(a.{2}|b.{3})$',
    '^[^"]+$',
    '^(.{2}|.{4})$',
  ]) {
    const automaton = automatonOf({ type: 'string', pattern })
    for (const text of ['"', '"a', '"ab', '"é日', '"abc', '"abcd', '"7', '"\\n']) {
      const state = automaton.walk(automaton.start, Buffer.from(text))
      if (state === null) continue
      told += Number(state.charactersLeft !== undefined)
      const walked = vocabulary.maskOf(automaton, { ...state, charactersLeft: undefined })
      expect([pattern, text, vocabulary.maskOf(automaton, state)]).toEqual([pattern, text, walked])
    }
  }
  expect(told).toBeGreaterThan(20)
})

describe('an expression that cannot be kept is refused with its path', () => {
  test.each([
    ['a(?=b)', 'Lookahead'],
    ['(?<!a)b', 'Lookbehind'],
    ['(a)\\1', 'Backreferences'],
    ['(?<x>a)\\k<x>', 'Backreferences'],
    ['\\bword\\b', 'Edges of words'],
    ['(?i)abc', 'Of groups that begin with (?'],
    ['(?P<year>\\d+)', 'Of groups that begin with (?'],
    ['\\Aabc\\Z', 'no meaning in ECMA-262'],
    ['a++', 'possessive'],
    ['*a', 'nothing to repeat'],
    ['^*', 'nothing to repeat'],
    ['a{2', 'Expected {2}'],
    ['a{3,2}', 'out of order'],
    ['[b-a]', 'out of order'],
    ['[\\d-z]', 'A range goes'],
    ['[a', 'class is not closed'],
    ['(a', 'group is not closed'],
    ['a)', 'no ( for this )'],
    ['a\\', 'behind the last backslash'],
    ['\\p{Nothing}', 'Expected a property'],
    ['\\u12', 'four hexadecimal'],
    ['a$b', 'No text fits'],
    [`${'('.repeat(200)}${')'.repeat(200)}`, 'at most 100 deep'],
  ])('%s', (pattern, why) => {
    const schema = { type: 'object', properties: { name: { type: 'string', pattern } } }
    const refused = { ok: false, path: 'properties.name.pattern', message: expect.stringContaining(why) }
    expect(compileSchema(schema)).toMatchObject(refused)
    expect(compileSchema(schema, true)).toMatchObject({ ok: true })
  })

  test('also where it would become too large, whatever makes it so', () => {
    const many = Array.from({ length: 300 }, (_, i) => `[a${String.fromCodePoint(0x4e00 + 2 * i)}]`).join('|')
    const large = [
      '(a{1000}){1000}',
      '((a{1000}){1000}){1000}',
      '((){99999}){99999}',
      '(a|b)*a(a|b){30}',
      '(.*a){60}.*(.*b.{60}){9}',
      'a{20000}',
      many,
      '[\\p{L}a]'.repeat(7000),
      `(${'(a|b|c)?'.repeat(300)}){60}`,
    ]
    for (const pattern of large) {
      const compiled = compileSchema({ type: 'string', pattern })
      const refused = { ok: false, path: 'pattern', message: expect.stringContaining('too large') }
      expect([pattern.slice(0, 40), compiled]).toEqual([pattern.slice(0, 40), refused])
    }
    const several = Array.from({ length: 100 }, (_, i) => [
      `p${i}`,
      { type: 'string', pattern: `(a|b)*a(a|b){10}${i}` },
    ])
    expect(compileSchema({ type: 'object', properties: Object.fromEntries(several) })).toMatchObject({
      ok: false,
    })
  })

  test('and so are bounds of length that it cannot have, and a format beside it', () => {
    expect(compileSchema({ type: 'string', pattern: '^a{5}$', maxLength: 4 })).toMatchObject({
      path: 'pattern',
      message: expect.stringContaining('No text fits'),
    })
    expect(compileSchema({ type: 'string', pattern: '^2', format: 'date' })).toMatchObject({
      path: 'pattern',
    })
    expect(compileSchema({ type: 'string', pattern: 3 })).toMatchObject({ path: 'pattern' })
    expect(compileSchema({ pattern: '^a$' })).toMatchObject({ ok: true })
  })
})
