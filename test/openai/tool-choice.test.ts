/** Answers that must call tools, or may call strict ones: what they are held to is what is read out of them. */
import OpenAI from 'openai'
import { describe, expect, test } from 'vitest'
import { chatRequest } from '../../src/api/chat.ts'
import { requestLimits } from '../../src/api/limits.ts'
import { Random } from '../../src/base/random.ts'
import { Constraints, type TokenTexts } from '../../src/constrain/constraint.ts'
import { specialBytes, textBytes } from '../../src/constrain/token-bytes.ts'
import { ConstraintChecks } from '../../src/openai/constraint-checks.ts'
import { CallReader, callFormsOf } from '../../src/openai/tool-calls.ts'
import { callConstraint } from '../../src/openai/tool-choice.ts'
import { ChatTemplate } from '../../src/tokenizer/chat-template.ts'
import { fits } from '../constrain/schemas.ts'
import { bytes, byteTokenizer } from './byte-tokenizer.ts'
import { harness, model, post } from './harness.ts'

const city = { type: 'object', properties: { city: { enum: ['Seoul', 'Rome'] } }, required: ['city'] }
const span = {
  type: 'object',
  properties: { from: { type: 'integer' }, note: { type: 'string', maxLength: 4 } },
  required: ['from', 'note'],
}
const schemas: Record<string, Record<string, unknown>> = {
  weather: city,
  days: span,
  now: { type: 'object', properties: {} },
}
const functionOf = (name: string, parameters?: Record<string, unknown>, strict?: boolean) => ({
  type: 'function' as const,
  function: { name, ...(parameters && { parameters }), ...(strict !== undefined && { strict }) },
})
const tools = [functionOf('weather', city), functionOf('days', span), functionOf('now')]
const strictTools = tools.map((tool) => ({ ...tool, function: { ...tool.function, strict: true } }))
const marks = ['<tool_call>', '</tool_call>', '[TOOL_CALLS]', '[ARGS]', '<|python_tag|>']
const families = [
  { family: 'tagged', source: '{{ tools }}<tool_call>' },
  { family: 'listed', source: '{{ tools }}[TOOL_CALLS]' },
  { family: 'listed by name', source: '{{ tools }}[TOOL_CALLS][ARGS]' },
  { family: 'bare', source: '{{ tools }}<|python_tag|>' },
  { family: 'unknown', source: '{{ tools }}' },
]

const schema = chatRequest(requestLimits)
const messages = [{ role: 'user' as const, content: 'hi' }]

/** A text under what the fields ask for; tokens are bytes, and the marks where `known`. */
async function texts(fields: object, source: string, known: boolean) {
  const tokenizer = byteTokenizer(known ? marks : [])
  const body = schema.parse({ model, messages, ...fields })
  const template = new ChatTemplate(source)
  const constraint = await callConstraint(body, template, tokenizer, new ConstraintChecks())
  const spelt = Array.from({ length: tokenizer.vocabularySize }, (_, token) => tokenizer.textOf(token) ?? '')
  const vocabulary: TokenTexts = spelt.map((text, token) => {
    if (token < 256) return textBytes(Uint8Array.of(token))
    return marks.includes(text) ? specialBytes(text) : undefined
  })
  const constraints = new Constraints(() => vocabulary)
  const begin = () => constraints.follow(constraint!)!
  const spellingOf = (token: number) => (token < 256 ? Buffer.of(token) : Buffer.from(spelt[token]!))
  const read = (said: string) => {
    const reader = new CallReader(callFormsOf(template), Object.keys(schemas))
    const found = [reader.push(said), reader.flush()]
    return { text: found.map(({ text }) => text).join(''), calls: found.flatMap(({ calls }) => calls) }
  }
  /** Whether the text may be said, to its end; each mark as its token where there is one. */
  const takes = (said: string) => {
    const text = begin()
    const parts = known ? said.split(/(<\/?tool_call>|\[TOOL_CALLS\]|\[ARGS\]|<\|python_tag\|>)/) : [said]
    const ids = parts.flatMap((part) => (marks.includes(part) ? [tokenizer.idOf(part)!] : bytes(part)))
    return ids.every((id) => text.advance(id)) && text.mayEnd
  }
  return { constraint, begin, spellingOf, read, takes }
}

/** Says something at random to its end, sooner or later; undefined when it does not come. */
function walk({ begin, spellingOf }: Awaited<ReturnType<typeof texts>>, random: Random): string | undefined {
  const text = begin()
  const said: Buffer[] = []
  for (let count = 0; count < 500; count++) {
    if (text.complete || (text.mayEnd && random.uniform() < 0.3)) return Buffer.concat(said).toString()
    const { words } = text.mask()
    const allowed: number[] = []
    for (let token = 0; token < words.length * 32; token++) {
      if ((words[token >> 5]! >> (token & 31)) & 1) allowed.push(token)
    }
    expect(allowed.length).toBeGreaterThan(0)
    const closing = allowed.filter((token) => '"}]'.includes(spellingOf(token).toString()))
    const from = closing.length > 0 && random.uniform() < 0.3 ? closing : allowed
    const token = from[random.integer(from.length)]!
    text.take(token)
    said.push(spellingOf(token))
  }
  return undefined
}

const cases = families.flatMap((family) => [true, false].map((known) => ({ ...family, known })))

describe.each(cases)('in the form $family (marks as tokens: $known)', ({ source, known }) => {
  test('whatever an answer that must call says, it is calls and nothing else, and their arguments fit', async () => {
    const wishes = [
      { fields: { tool_choice: 'required' }, most: 100, names: Object.keys(schemas) },
      {
        fields: { tool_choice: 'required', parallel_tool_calls: false },
        most: 1,
        names: Object.keys(schemas),
      },
      { fields: { tool_choice: functionOf('days'), parallel_tool_calls: false }, most: 1, names: ['days'] },
    ]
    for (const { fields, most, names } of wishes) {
      const held = await texts({ tools, ...fields }, source, known)
      const seen = new Set<string>()
      for (let seed = 0; seed < 25; seed++) {
        const said = walk(held, new Random(seed))
        if (said === undefined) continue
        const { text, calls } = held.read(said)
        expect(text, said).toBe('')
        expect(calls.length, said).toBeGreaterThan(0)
        expect(calls.length, said).toBeLessThanOrEqual(most)
        for (const call of calls) {
          seen.add(call.name)
          expect(fits(schemas[call.name], JSON.parse(call.arguments)), said).toBe(true)
        }
      }
      expect([...seen].sort()).toEqual([...names].sort())
    }
  })

  test('an answer that may call strict functions says anything, but no call that does not fit', async () => {
    const held = await texts({ tools: strictTools }, source, known)
    for (const said of ['', 'Hello.', '3 < 4, <tool', ' a [1] {b} '])
      expect(held.takes(said), said).toBe(true)
    for (let seed = 0; seed < 25; seed++) {
      const said = walk(held, new Random(seed))
      if (said === undefined) continue
      for (const call of held.read(said).calls)
        expect(fits(schemas[call.name], JSON.parse(call.arguments)), said).toBe(true)
    }
    const call = (given: string, name = 'weather') => callIn(source, name, given)
    expect(held.read(call('{"city": "Rome"}')).calls).toHaveLength(1)
    expect(held.takes(call('{"city": "Rome"}'))).toBe(true)
    expect(held.takes(call('{"city": "Paris"}'))).toBe(false)
    expect(held.takes(call('{"city": "Rome"}', 'climate'))).toBe(false)
  })
})

function callIn(source: string, name: string, given: string): string {
  if (source.includes('[ARGS]')) return `Well.[TOOL_CALLS]${name}[ARGS]${given}`
  if (source.includes('[TOOL_CALLS]')) return `[TOOL_CALLS] [{"name": "${name}", "arguments": ${given}}]`
  if (source.includes('<|python_tag|>')) return `{"name": "${name}", "parameters": ${given}}`
  return `Well.\n<tool_call>\n{"name": "${name}", "arguments": ${given}}\n</tool_call>`
}

test('nothing is held where the model is free, and a single call of any arguments where only their number is asked', async () => {
  const { source } = families[0]!
  expect((await texts({ tools }, source, true)).constraint).toBeUndefined()
  expect((await texts({ tools: strictTools, tool_choice: 'none' }, source, true)).constraint).toBeUndefined()
  const single = await texts({ tools, parallel_tool_calls: false }, source, true)
  const call = callIn(source, 'weather', '{"any": [1]}')
  expect(single.takes(call)).toBe(true)
  expect(single.takes(`${call}\n${call}`)).toBe(false)
  expect(
    (await texts({ tools: strictTools }, source, true)).takes(callIn(source, 'now', '{}').repeat(2)),
  ).toBe(false)
})

test('a function that is not strict is held as far as its schema can be, and to an object at least', async () => {
  const loosely = (parameters: Record<string, unknown>) =>
    texts({ tools: [functionOf('f', parameters)], tool_choice: 'required' }, families[3]!.source, true)
  const bounded = await loosely({
    type: 'object',
    properties: { a: { type: 'integer', multipleOf: 3 } },
    required: ['a'],
  })
  expect(bounded.takes('{"name": "f", "parameters": {"a": 1}}')).toBe(true)
  expect(bounded.takes('{"name": "f", "parameters": {"a": "1"}}')).toBe(false)
  for (const parameters of [{}, { $ref: '#/$defs/none' }, { enum: [1] }, { allOf: [{}, {}] }]) {
    const free = await loosely(parameters)
    expect(free.takes('{"name": "f", "parameters": {"b": []}}')).toBe(true)
    expect(free.takes('{"name": "f", "parameters": 1}')).toBe(false)
  }
})

test('beside response_format an answer is that JSON or calls', async () => {
  const response_format = { type: 'json_schema', json_schema: { name: 'n', schema: { type: 'integer' } } }
  const { source } = families[0]!
  const either = await texts({ tools, response_format }, source, true)
  expect(either.takes('12')).toBe(true)
  expect(either.takes('twelve')).toBe(false)
  expect(either.takes('<tool_call>{"name": "now", "arguments": {}}</tool_call>')).toBe(true)
  expect((await texts({ tools, response_format, tool_choice: 'required' }, source, true)).takes('12')).toBe(
    false,
  )
})

describe('through the official client', () => {
  const template = new ChatTemplate(
    '{{ messages[0].content }}{{ tools | length if tools else "" }}<tool_call>',
  )
  const said = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'

  test('an answer that chose its call ends for tool_calls, one that was told which for stop, streamed or not', async () => {
    await using server = await harness({ template })
    const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none' })
    server.engine.script = () => ({ tokens: bytes(said) })
    const wishes = [
      { tool_choice: 'required' as const, finish: 'tool_calls' },
      { tool_choice: functionOf('now'), finish: 'stop' },
    ]
    for (const { tool_choice, finish } of wishes) {
      const body = { model, messages, tools, tool_choice, max_tokens: 100 }
      const { choices } = await client.chat.completions.create(body)
      expect(choices[0]).toMatchObject({ finish_reason: finish, message: { content: null } })
      expect(choices[0]!.message.tool_calls).toMatchObject([{ function: { name: 'now', arguments: '{}' } }])
      const streamed = await client.chat.completions.stream(body).finalChatCompletion()
      expect(streamed.choices[0]).toMatchObject({ finish_reason: finish })
      expect(streamed.choices[0]!.message.tool_calls).toHaveLength(1)
      expect(server.engine.submitted.at(-1)!.constraint).toMatchObject({ kind: 'text' })
    }
  })

  test('what cannot be kept is refused with its place before anything is queued', async () => {
    await using server = await harness({ template })
    const strict = (parameters: Record<string, unknown>) => ({
      tools: [functionOf('a'), functionOf('f', parameters, true)],
    })
    const named = { tools, tool_choice: functionOf('other') }
    const refusals: [object, string, string][] = [
      [{ tool_choice: 'required' }, 'tool_choice', 'no tools'],
      [named, 'tool_choice', 'other'],
      [{ tools, tool_choice: 'any' }, 'tool_choice', 'Expected'],
      [{ tools, tool_choice: { type: 'function' } }, 'tool_choice.function', 'expected'],
      [{ tools: strictTools, ignore_eos: true }, 'ignore_eos', 'tools'],
      [{ tools: strictTools, stop_token_ids: [3] }, 'stop_token_ids', 'tools'],
      [strict({ type: 'string' }), 'tools.1.function.parameters', 'object'],
      [
        strict({ type: 'object', properties: { a: { type: 'integer', multipleOf: 3 } } }),
        'tools.1.function.parameters',
        'properties.a.multipleOf',
      ],
      [
        strict({ type: 'object', required: ['a'], additionalProperties: false }),
        'tools.1.function.parameters',
        '',
      ],
    ]
    for (const [fields, param, message] of refusals) {
      const response = await post(`${server.url}/v1/chat/completions`, { model, messages, ...fields })
      const { error } = (await response.json()) as { error: { param: string; message: string } }
      expect([response.status, error.param], error.message).toEqual([400, param])
      expect(error.message).toContain(message)
    }
    expect(server.engine.submitted).toEqual([])
  })
})
