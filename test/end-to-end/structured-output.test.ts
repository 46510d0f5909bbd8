import { cpSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { ChatTemplate } from '../../src/tokenizer/chat-template.ts'
import { fits } from '../constrain/schemas.ts'
import { sharedData } from '../shared.ts'
import { servedModel as model, type Served, serveReal } from './served.ts'

const stories = sharedData('models', 'stories260K', 'hf')
const template = new ChatTemplate(
  '{{ bos_token }}{% if tools %}{{ tools[0].function.name }}<tool_call>\n{% endif %}{% for message in messages %}{{ message.content }}\n{% endfor %}',
  { bos_token: '<s>' },
)

const schema = {
  type: 'object',
  properties: {
    name: { type: 'string', maxLength: 12 },
    mood: { enum: ['glad', 'sad', null] },
    friends: {
      type: 'array',
      items: { type: 'string', minLength: 1, maxLength: 5 },
      minItems: 1,
      maxItems: 3,
    },
    age: { type: 'integer' },
  },
  required: ['name', 'mood', 'friends', 'age'],
  additionalProperties: false,
}
const messages = [{ role: 'user' as const, content: 'Once upon a time' }]
const bySchema = {
  type: 'json_schema' as const,
  json_schema: { name: 'person', strict: true, schema },
}

/** stories260K knows nothing of JSON: whatever it says, the constraint makes it. */
describe.skipIf(stories === undefined)('structured output of a real engine', () => {
  let served: Served
  let client: OpenAI
  const chat = async (fields: object = {}) => {
    const body = { model, messages, max_tokens: 200, temperature: 1, response_format: bySchema }
    return (await client.chat.completions.create({ ...body, ...fields, stream: false })).choices[0]!
  }

  beforeAll(async () => {
    served = await serveReal(stories!, { scheduler: { guessesMax: 4 } }, { template })
    client = new OpenAI({ baseURL: `${served.url}/v1`, apiKey: 'none', maxRetries: 0 })
  })
  afterAll(async () => {
    await served[Symbol.asyncDispose]()
  })

  test('fits its schema at any seed, greedily too, and streams the same text', async () => {
    const wishes = [0, 1, 2, 3, 4, 5].map((seed) => ({ seed, temperature: seed === 0 ? 0 : 1 }))
    const answers = await Promise.all(wishes.map((wish) => chat(wish)))
    for (const { message, finish_reason } of answers) {
      expect(finish_reason).toBe('stop')
      expect(fits(schema, JSON.parse(message.content!)), message.content!).toBe(true)
    }
    const body = { model, messages, max_tokens: 200, response_format: bySchema, stream: true } as const
    let text = ''
    for await (const { choices } of await client.chat.completions.create({ ...body, ...wishes[1]! }))
      text += choices[0]?.delta.content ?? ''
    expect(text).toBe(answers[1]!.message.content)
  })

  test('is whatever JSON object the model makes of json_object, and says when it was cut', async () => {
    const free = { response_format: { type: 'json_object' } }
    const answers = await Promise.all([1, 2, 3, 4].map((seed) => chat({ ...free, seed, max_tokens: 150 })))
    for (const { message, finish_reason } of answers) {
      expect(message.content!.trimStart()[0]).toBe('{')
      if (finish_reason === 'stop') expect(typeof JSON.parse(message.content!)).toBe('object')
    }
    expect(await chat({ max_tokens: 3 })).toMatchObject({ finish_reason: 'length' })
  })

  test('leaves the texts of others in the batch as they are alone', async () => {
    const plain = { response_format: { type: 'text' }, max_tokens: 40, temperature: 0.8, seed: 9 }
    const alone = await chat(plain)
    const [beside] = await Promise.all([chat(plain), chat({ seed: 1 }), chat({ seed: 2, temperature: 0 })])
    expect(beside!.message.content).toBe(alone.message.content)
  })

  test('goes on from another server with the text it would have had there', async () => {
    const request = {
      id: 'whole',
      prompt: [1, 403, 407],
      sampling: {
        temperature: 1,
        topP: 1,
        topK: 0,
        minP: 0,
        seed: 5,
        presencePenalty: 0,
        frequencyPenalty: 0,
        repetitionPenalty: 1,
      },
      maxTokens: 200,
      minTokens: 0,
      ignoreEos: false,
      stopTokens: [2],
      tenant: 'tenant',
      priority: 0,
      constraint: { kind: 'json' as const, schema },
    }
    const tokensOf = async (wish: typeof request & { generated?: number[] }) => {
      const tokens: number[] = []
      const reason = await new Promise((resolve) => {
        void served.engine.submit(wish, (progress) => {
          tokens.push(...progress.tokens)
          if (progress.finish !== undefined) resolve(progress.finish.reason)
        })
      })
      return { tokens, reason }
    }
    const whole = await tokensOf(request)
    expect(whole.reason).toBe('stop')
    const generated = whole.tokens.slice(0, 10)
    expect(await tokensOf({ ...request, id: 'rest', generated })).toEqual({
      tokens: whole.tokens.slice(10),
      reason: 'stop',
    })
    expect(await tokensOf({ ...request, id: 'ended', generated: whole.tokens })).toEqual({
      tokens: [],
      reason: 'stop',
    })
  })

  test('calls a tool because it has to, with arguments that fit, streamed too', async () => {
    const tool = { type: 'function' as const, function: { name: 'meet', parameters: schema } }
    const must = { tools: [tool], tool_choice: 'required' as const, parallel_tool_calls: false }
    const free = { response_format: undefined, max_tokens: 400 }
    const answers = await Promise.all([1, 2].map((seed) => chat({ ...must, ...free, seed })))
    const callOf = (message: OpenAI.ChatCompletionMessage) =>
      (message.tool_calls as OpenAI.ChatCompletionMessageFunctionToolCall[])[0]!.function
    for (const { message, finish_reason } of answers) {
      expect([finish_reason, message.content, callOf(message).name]).toEqual(['tool_calls', null, 'meet'])
      expect(fits(schema, JSON.parse(callOf(message).arguments))).toBe(true)
    }
    const wish = { model, messages, max_tokens: 400, temperature: 1, ...must, seed: 1 }
    const streamed = await client.chat.completions.stream(wish).finalMessage()
    expect(streamed.tool_calls).toMatchObject([{ function: callOf(answers[0]!.message) }])
  })

  test('is there for completions, and refuses what cannot be kept before anything is queued', async () => {
    const body = { model, prompt: 'Once', max_tokens: 200, seed: 3, response_format: bySchema }
    const answer = await client.completions.create({ ...body, stream: false })
    expect(fits(schema, JSON.parse(answer.choices[0]!.text))).toBe(true)
    const wrong = { type: 'object', properties: { a: { type: 'string', pattern: '(a)\\1' } } }
    const response_format = { type: 'json_schema', json_schema: { name: 'wrong', schema: wrong } }
    await expect(chat({ response_format })).rejects.toMatchObject({
      status: 400,
      param: 'response_format.json_schema.schema',
      message: expect.stringContaining('properties.a.pattern'),
    })
    await expect(chat({ ignore_eos: true })).rejects.toMatchObject({ status: 400, param: 'ignore_eos' })
  })
})

describe.skipIf(stories === undefined)('where the model folder went while it is served', () => {
  test('requests with a form are refused, others go on, and the folder may come back', async () => {
    const place = mkdtempSync(join(tmpdir(), 'ropeway-structured-'))
    onTestFinished(() => rmSync(place, { recursive: true }))
    const [folder, away] = [join(place, 'model'), join(place, 'away')]
    cpSync(stories!, folder, { recursive: true, dereference: true })
    await using served = await serveReal(folder, {}, { template })
    const client = new OpenAI({ baseURL: `${served.url}/v1`, apiKey: 'none', maxRetries: 0 })
    const ask = async (fields: object = {}) =>
      await client.chat.completions.create({ model, messages, max_tokens: 200, ...fields, stream: false })
    renameSync(folder, away)
    await expect(ask({ response_format: bySchema })).rejects.toMatchObject({
      status: 500,
      code: 'constraint_unavailable',
      message: expect.stringContaining('cannot be read any more'),
    })
    expect((await ask({ max_tokens: 8 })).choices[0]!.finish_reason).toBe('length')
    renameSync(away, folder)
    const { message } = (await ask({ response_format: bySchema, seed: 1 })).choices[0]!
    expect(fits(schema, JSON.parse(message.content!)), message.content!).toBe(true)
  })
})
