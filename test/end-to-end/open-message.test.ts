import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ChatTemplate } from '../../src/tokenizer/chat-template.ts'
import { sharedData } from '../shared.ts'
import { servedModel as model, type Served, serveReal } from './served.ts'

const stories = sharedData('models', 'stories260K', 'hf')
const template = new ChatTemplate(
  '{{ bos_token }}{% for m in messages %}{% if m.role == "user" %}{{ m.content }}\n{% else %}{{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}',
  { bos_token: '<s>', eos_token: '</s>' },
)
const question = { role: 'user' as const, content: 'Once upon a time, there was a little girl named Lily.' }

describe.skipIf(stories === undefined)('an answer that a real engine goes on with', () => {
  let served: Served
  let client: OpenAI
  const ask = async (begun: string | undefined, fields: object = {}) => {
    const open =
      begun === undefined
        ? { messages: [question] }
        : {
            messages: [question, { role: 'assistant' as const, content: begun }],
            add_generation_prompt: false,
            continue_final_message: true,
          }
    const body = { model, ...open, temperature: 0, ...fields, stream: false as const }
    return await client.chat.completions.create(body)
  }
  const textOf = (answer: OpenAI.ChatCompletion) => answer.choices[0]!.message.content!

  beforeAll(async () => {
    served = await serveReal(stories!, {}, { template })
    client = new OpenAI({ baseURL: `${served.url}/v1`, apiKey: 'none', maxRetries: 0 })
  })
  afterAll(async () => {
    await served[Symbol.asyncDispose]()
  })

  test('is the answer that it would have been in one piece, and its beginning comes from the cache', async () => {
    const whole = textOf(await ask(undefined, { max_tokens: 60 }))
    const begun = textOf(await ask(undefined, { max_tokens: 40 }))
    expect(whole.startsWith(begun)).toBe(true)
    const rest = await ask(begun, { max_tokens: 20 })
    // The space between two words is the second one's: it may not be lost where the answer begins.
    expect(begun + textOf(rest)).toBe(whole)
    const { prompt_tokens, completion_tokens, prompt_tokens_details } = rest.usage!
    expect(completion_tokens).toBe(20)
    expect(prompt_tokens_details!.cached_tokens).toBeGreaterThanOrEqual(32)
    expect(prompt_tokens_details!.cached_tokens).toBeLessThan(prompt_tokens)
    const streamed = await client.chat.completions.create({
      ...{ model, temperature: 0, max_tokens: 20, stream: true },
      messages: [question, { role: 'assistant', content: begun }],
      ...{ continue_final_message: true },
    })
    let text = ''
    for await (const { choices } of streamed) text += choices[0]?.delta.content ?? ''
    expect(begun + text).toBe(whole)
  })

  test('is held to its response_format alone, whatever the message began with', async () => {
    const schema = { type: 'object', properties: { name: { enum: ['Lily', 'Tom'] } }, required: ['name'] }
    const response_format = { type: 'json_schema', json_schema: { name: 'child', schema } }
    for (const begun of ['Here it is:\n```json\n', '<think>\nLily.\n</think>\n\n', '{"name": '])
      expect(JSON.parse(textOf(await ask(begun, { max_tokens: 60, response_format })))).toEqual({
        name: expect.stringMatching(/^(Lily|Tom)$/),
      })
  })
})
