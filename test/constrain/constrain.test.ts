import { isIPv4 } from 'node:net'
import { expect, test } from 'vitest'
import { z } from 'zod'
import { Random } from '../../src/base/random.ts'
import { Automaton } from '../../src/constrain/automaton.ts'
import {
  type Constraint,
  Constraints,
  compileConstraint,
  type TextUnderConstraint,
} from '../../src/constrain/constraint.ts'
import { compileSchema } from '../../src/constrain/schema.ts'
import { Vocabulary } from '../../src/constrain/vocabulary.ts'
import { tablesOf } from '../../src/constrain/vocabulary-tables.ts'
import { fits, randomDocument, randomSchema } from './schemas.ts'

/** Single bytes, and some pieces of JSON as tokenizers have them. Token 256 is no text. */
const pieces = [
  '{"',
  '": ',
  '", "',
  '"}',
  '}]',
  'true',
  ', ',
  'null',
  ' {',
  'é',
  '日本',
  '1',
  '10',
  'ab',
  '\\u00',
  ':"',
  '"a"',
]
const texts = [
  ...Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
  undefined,
  ...pieces.map((piece) => new Uint8Array(Buffer.from(piece))),
]
const constraints = new Constraints(() => texts)

const allowedBy = (text: TextUnderConstraint) => {
  const { words } = text.mask()
  return [...texts.keys()].filter((token) => (words[token >> 5]! >> (token & 31)) & 1)
}

/** Draws tokens until the text may end; closing ones are likelier the longer it is, so that walks end. */
function walk(text: TextUnderConstraint, random: Random, tokensMax: number): string | undefined {
  const chunks: Uint8Array[] = []
  for (let count = 0; count < tokensMax; count++) {
    if (text.complete || (text.mayEnd && random.uniform() < 0.3)) return Buffer.concat(chunks).toString()
    const allowed = allowedBy(text)
    expect(allowed.length).toBeGreaterThan(0)
    const closing = allowed.filter((token) => '"}]0'.includes(Buffer.from(texts[token]!).toString()))
    const from = closing.length > 0 && random.uniform() < 0.2 + count / 200 ? closing : allowed
    const token = from[random.integer(from.length)]!
    text.take(token)
    chunks.push(texts[token]!)
  }
  return undefined
}

test('random walks under random schemas end in JSON that fits the schema', () => {
  let ended = 0
  for (let seed = 0; seed < 300; seed++) {
    const random = new Random(seed)
    const schema = randomSchema(random, 3)
    for (let round = 0; round < 4; round++) {
      const text = constraints.follow({ kind: 'json', schema })
      const said = walk(text!, random, 400)
      if (said === undefined) continue
      ended++
      const value: unknown = JSON.parse(said)
      expect(fits(schema, value), `seed ${seed}: ${said} under ${JSON.stringify(schema)}`).toBe(true)
      expect(said).not.toContain('\ufffd')
    }
  }
  expect(ended).toBeGreaterThan(400)
})

test('documents of another generator that a validator takes are taken too, under random schemas', () => {
  let written = 0
  for (let seed = 0; seed < 400; seed++) {
    const random = new Random(5000 + seed)
    const schema = randomSchema(random, 3)
    const compiled = compileSchema(schema)
    for (let round = 0; round < 3; round++) {
      const document = randomDocument(random, schema)
      if (document === undefined) continue
      written++
      const told = { seed, document, schema }
      expect({ ...told, fits: fits(schema, JSON.parse(document)) }).toEqual({ ...told, fits: true })
      if (!compiled.ok) throw new Error(`${JSON.stringify(schema)}: ${compiled.message}`)
      const automaton = new Automaton(compiled.grammar)
      const state = automaton.walk(automaton.start, Buffer.from(document))
      expect({ ...told, taken: state?.accepting }).toEqual({ ...told, taken: true })
    }
  }
  expect(written).toBeGreaterThan(800)
})

test('without a schema random walks end in any objects', () => {
  for (let seed = 0; seed < 30; seed++) {
    const said = walk(constraints.follow({ kind: 'json' })!, new Random(seed), 2000)
    if (said !== undefined) expect(typeof JSON.parse(said)).toBe('object')
  }
})

test('a mask allows a token exactly where the automaton takes its bytes', () => {
  for (let seed = 0; seed < 40; seed++) {
    const random = new Random(1000 + seed)
    const schema = randomSchema(random, 3)
    const compiled = compileSchema(schema)
    if (!compiled.ok) throw new Error(compiled.message)
    const automaton = new Automaton(compiled.grammar)
    const text = constraints.follow({ kind: 'json', schema })!
    let state = automaton.start
    for (let count = 0; count < 12 && !text.complete; count++) {
      const allowed = allowedBy(text)
      const taken = [...texts.keys()].filter(
        (token) => texts[token] !== undefined && automaton.walk(state, texts[token]) !== null,
      )
      expect(allowed).toEqual(taken)
      const token = allowed[random.integer(allowed.length)]!
      text.take(token)
      state = automaton.walk(state, texts[token]!)!
    }
  }
})

const accepts = (schema: unknown, said: string) => {
  const text = constraints.follow({ kind: 'json', schema }, [...Buffer.from(said)])
  return text?.mayEnd === true
}

test('within a string a mask is what walking every token gives, at any length that is left', () => {
  const tables = tablesOf(texts)
  for (const schema of [
    { type: 'string', minLength: 2, maxLength: 5 },
    { type: 'string', minLength: 3 },
    { type: 'object', additionalProperties: { type: 'string' } },
    { anyOf: [{ type: 'string', maxLength: 3 }, { enum: ['ab', 'abé'] }, { type: 'string', minLength: 6 }] },
  ]) {
    const compiled = compileSchema(schema)
    if (!compiled.ok) throw new Error(compiled.message)
    const automaton = new Automaton(compiled.grammar)
    const vocabulary = new Vocabulary(tables)
    let told = 0
    for (const text of ['"', '"a', '"ab', '"é日本', '"\\u00', '"abcde', '"\\n', '{"', '{"ab', '{"a":"é']) {
      const state = automaton.walk(automaton.start, Buffer.from(text))
      if (state === null) continue
      told += Number(state.charactersLeft !== undefined)
      const walked = vocabulary.maskOf(automaton, { ...state, charactersLeft: undefined })
      expect(vocabulary.maskOf(automaton, state), text).toEqual(walked)
    }
    expect(told).toBeGreaterThan(0)
  }
})

test('random walks stay between the bounds of integers, and reach both', () => {
  const random = new Random(6)
  for (const [low, high] of [
    [0, 0],
    [-3, 12],
    [7, 7],
    [95, 1203],
    [-1200, -95],
    [-1, 1],
    [10, 99],
    [0, 1e15],
  ] as const) {
    const constraint = { kind: 'json' as const, schema: { type: 'integer', minimum: low, maximum: high } }
    const takes = (value: number) => {
      const text = constraints.follow(constraint)!
      return [...Buffer.from(String(value))].every((byte) => text.advance(byte)) && text.mayEnd
    }
    expect([low - 1, low, high, high + 1].map(takes), `${low} to ${high}`).toEqual([false, true, true, false])
    for (let i = 0; i < 20; i++) {
      const value = walk(constraints.follow(constraint)!, random, 60)
      if (value === undefined) continue
      expect(Number(value)).toBeGreaterThanOrEqual(low)
      expect(Number(value)).toBeLessThanOrEqual(high)
    }
  }
  const odd = { type: 'integer', exclusiveMinimum: 1.5, exclusiveMaximum: 4 }
  const fit = [1, 2, 3, 4].filter((value) => {
    const text = constraints.follow({ kind: 'json', schema: odd })!
    return text.advance(48 + value)
  })
  expect(fit).toEqual([2, 3])
})

test('random walks under a format are what other readers take for it', () => {
  const isReal = (text: string) => !Number.isNaN(Date.parse(text))
  const readers: Record<string, (text: string) => boolean> = {
    date: (text) => new Date(`${text}T00:00:00Z`).toISOString().startsWith(text),
    time: (text) => isReal(`2026-01-01T${text}`),
    'date-time': isReal,
    uuid: (text) => z.guid().safeParse(text).success,
    ipv4: (text) => isIPv4(text),
    email: (text) => z.email().safeParse(text).success,
  }
  const random = new Random(8)
  for (const [format, reads] of Object.entries(readers)) {
    const constraint = { kind: 'json' as const, schema: { type: 'string', format } }
    for (let i = 0; i < 30; i++) {
      const text = JSON.parse(walk(constraints.follow(constraint)!, random, 200)!)
      expect(reads(text), `${format}: ${text}`).toBe(true)
    }
  }
  expect(compileSchema({ type: 'string', format: 'date', maxLength: 3 })).toMatchObject({
    ok: false,
    path: 'maxLength',
  })
  expect(compileSchema({ type: 'number', minimum: 3 })).toMatchObject({ ok: false, path: 'minimum' })
  expect(compileSchema({ type: 'integer', minimum: 3, maximum: 2 })).toMatchObject({
    ok: false,
    path: 'minimum',
  })
})

test('a text is taken or not as the schema says', () => {
  const person = {
    type: 'object',
    properties: { name: { type: 'string', maxLength: 3 }, age: { type: ['integer', 'null'] } },
    required: ['age'],
  }
  expect(accepts(person, '{"name": "añb","age":null}')).toBe(true)
  expect(accepts(person, '{"age":-5}')).toBe(true)
  expect(accepts(person, '{"name":"abcd","age":1}')).toBe(false)
  expect(accepts(person, '{"name":"abc"}')).toBe(false)
  expect(accepts(person, '{"age":1,"name":"a"}')).toBe(false)
  expect(accepts(person, '{"age":01}')).toBe(false)
  const open = { ...person, additionalProperties: { type: 'boolean' } }
  expect(accepts(open, '{"age":1,"agent":true,"ag":false}')).toBe(true)
  expect(accepts(open, '{"age":1,"age":true}')).toBe(false)
  expect(accepts(open, '{"age":1,"\\u0061ge":true}')).toBe(false)
  const list = {
    $ref: '#/$defs/node',
    $defs: {
      node: {
        anyOf: [
          { type: 'null' },
          { type: 'object', properties: { next: { $ref: '#/$defs/node' } }, required: ['next'] },
        ],
      },
    },
  }
  expect(accepts(list, '{"next":{"next":null}}')).toBe(true)
  expect(accepts(list, '{"next":{"next":{}}}')).toBe(false)
  expect(accepts({ type: 'array', items: { enum: [1, 'b'] }, minItems: 1, maxItems: 2 }, '[1, "b"]')).toBe(
    true,
  )
  expect(accepts({ type: 'array', items: { enum: [1, 'b'] }, minItems: 1, maxItems: 2 }, '[1,1,1]')).toBe(
    false,
  )
  expect(accepts({ type: 'string' }, '"\\ud83d\\ude00"')).toBe(false)
})

test('invalid UTF-8 is never part of a string', () => {
  for (const bytes of [[0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf5], [0x80], [0xf4, 0x90]]) {
    expect(constraints.follow({ kind: 'json', schema: { type: 'string' } }, [0x22, ...bytes])).toBeUndefined()
  }
})

test('what a schema cannot be kept for is refused with its path', () => {
  const cases: [unknown, string][] = [
    [{ type: 'object', properties: { a: { type: 'string', pattern: '(?=a)' } } }, 'properties.a.pattern'],
    [{ type: 'array', items: { type: 'number', minimum: 3 } }, 'items.minimum'],
    [{ anyOf: [{ type: 'text' }] }, 'anyOf.0.type'],
    [{ $ref: '#/$defs/none' }, '$ref'],
    [{ $ref: 'http://elsewhere/schema' }, '$ref'],
    [{ $ref: '#/$defs/a', $defs: { a: { not: {} } } }, '$defs.a.not'],
    [{ type: 'string', minLength: 3, maxLength: 2 }, 'maxLength'],
    [{ enum: [1], minimum: 0 }, 'minimum'],
    [{ $ref: '#' }, ''],
    [{ anyOf: [{ $ref: '#' }, { type: 'null' }] }, ''],
    [{ type: 'object', properties: { a: { $ref: '#' } }, required: ['a'] }, ''],
    [{ type: 'object', properties: {}, required: ['b'], additionalProperties: false }, ''],
    [{ type: 'string', enum: [1, 2] }, ''],
    [{ type: 'string', maxLength: 1e9 }, ''],
    [{ type: 'string', description: 'x'.repeat(70_000) }, ''],
  ]
  for (const [schema, path] of cases) expect(compileSchema(schema)).toMatchObject({ ok: false, path })
  let deep: object = { type: 'null' }
  for (let i = 0; i < 100; i++) deep = { type: 'array', items: deep }
  expect(compileSchema(deep)).toMatchObject({ ok: false })
})

test('states are forgotten at their limit and a text goes on', () => {
  const compiled = compileSchema({ type: 'object' })
  if (!compiled.ok) throw new Error(compiled.message)
  const automaton = new Automaton(compiled.grammar)
  const random = new Random(5)
  // Nested lists and objects in random order: each nesting is a stack of its own.
  for (let round = 0; round < 400; round++) {
    const opened: string[] = ['}']
    let said = '{"a":'
    for (let depth = 0; depth < 25; depth++) {
      const isList = random.uniform() < 0.5
      said += isList ? '[' : '{"b":'
      opened.push(isList ? ']' : '}')
    }
    said += `1${opened.reverse().join('')}`
    expect(automaton.walk(automaton.start, Buffer.from(said))).toMatchObject({ accepting: true, open: false })
  }
})

test('a mask that is made a little at a time, between others, is the one that is made at once', () => {
  const tables = tablesOf(texts)
  const random = new Random(77)
  for (let seed = 0; seed < 20; seed++) {
    const compiled = compileSchema(randomSchema(random, 3))
    if (!compiled.ok) throw new Error(compiled.message)
    const automaton = new Automaton(compiled.grammar)
    const states = [automaton.start]
    for (const byte of Buffer.from('[{"a1-tfn')) {
      const next = automaton.step(states[0]!, automaton.classOf[byte]!)
      if (next !== null) states.unshift(next)
    }
    const sliced = new Vocabulary(tables)
    const pending = new Set(states)
    for (let calls = 0; pending.size > 0; calls++) {
      expect(calls).toBeLessThan(100_000)
      for (const state of pending) {
        const mask = sliced.maskWithin(automaton, state, { left: 1 + random.integer(30) })
        if (mask === undefined) continue
        pending.delete(state)
        expect(mask).toEqual(new Vocabulary(tables).maskOf(automaton, state))
      }
    }
  }
})

test('a text waits until it is known what it may begin with, also where another of its schema waits already', async () => {
  const maker = {
    tables: async () => tablesOf(texts),
    compile: async (constraint: Constraint) => compileConstraint(constraint),
  }
  // One node of the vocabulary a turn.
  const slow = new Constraints(() => texts, maker, 1)
  const asked = () => slow.prepare({ kind: 'json', schema: { enum: ['a', 'b'] } })
  const first = asked()
  for (let turns = 0; turns < 5; turns++) await new Promise((resolve) => setImmediate(resolve))
  const second = asked()
  expect([first, second]).toEqual([expect.any(Promise), expect.any(Promise)])
  await Promise.all([first, second])
  expect(asked()).toBeUndefined()
})

test('a schema that calls itself in many ways at once costs a byte some milliseconds, and its texts end', () => {
  const itself = (minItems: number) => ({ type: 'array', items: { $ref: '#/$defs/any' }, minItems })
  const anyOf = [...Array.from({ length: 64 }, (_, i) => itself(i % 3)), { type: 'integer' }]
  const schema = { $defs: { any: { anyOf } }, $ref: '#/$defs/any' }
  const compiled = compileSchema(schema)
  if (!compiled.ok) throw new Error(compiled.message)
  const automaton = new Automaton(compiled.grammar)
  let state = automaton.start
  let meaningsMost = 0
  for (const byte of Buffer.from('[[[[[[[[1,[2,[[3')) {
    const before = automaton.looks
    state = automaton.step(state, automaton.classOf[byte]!)!
    meaningsMost = Math.max(meaningsMost, state.places.length)
    // What a place leads to is looked at whole; without a limit it were half a million.
    expect(automaton.looks - before).toBeLessThan(10_000)
  }
  expect(meaningsMost).toBeGreaterThan(3000)
  let ended = 0
  for (let seed = 0; seed < 10; seed++) {
    const said = walk(constraints.follow({ kind: 'json', schema })!, new Random(seed), 300)
    if (said === undefined) continue
    ended++
    expect(fits(schema, JSON.parse(said)), said).toBe(true)
  }
  expect(ended).toBeGreaterThan(5)
})

test('every one of many values and of many optional properties can be written; too many are refused', () => {
  const names = Array.from({ length: 1000 }, (_, i) => `value ${i}`)
  const accepts = (schema: object, value: unknown) => {
    const text = constraints.follow({ kind: 'json', schema })!
    return [...Buffer.from(JSON.stringify(value))].every((byte) => text.advance(byte)) && text.mayEnd
  }
  for (const name of names) expect(accepts({ enum: names }, name), name).toBe(true)
  const properties = Object.fromEntries(names.map((name) => [name, { type: 'null' }]))
  const object = { type: 'object', properties, additionalProperties: false }
  for (const name of names.slice(-300)) expect(accepts(object, { [name]: null }), name).toBe(true)
  const lists = { anyOf: [{ enum: names }, { enum: names.map((name) => `${name}!`) }] }
  expect(compileSchema(lists)).toMatchObject({ ok: false, path: 'anyOf.1.enum' })
})
