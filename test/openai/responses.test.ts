/** /v1/responses through the official client, and what is refused of it. */
import OpenAI from 'openai'
import { describe, expect, test } from 'vitest'
import { requestLimits } from '../../src/api/limits.ts'
import { chatOfResponses, fieldOfResponses, responsesRequest } from '../../src/api/responses.ts'
import { ThoughtSplitter } from '../../src/api/thought-splitter.ts'
import { Random } from '../../src/base/random.ts'
import { ChatTemplate } from '../../src/tokenizer/chat-template.ts'
import { bytes } from './byte-tokenizer.ts'
import { harness, model, post } from './harness.ts'

const template = new ChatTemplate(
  "{{ tools | tojson if tools else '' }}{% for m in messages %}[{{ m.role }}]{{ m.content }}" +
    '{% for c in m.tool_calls or [] %}<tool_call>{{ c | tojson }}</tool_call>{% endfor %}{% endfor %}',
)
const tagged = '<tool_call>\n{"name": "weather", "arguments": {"city": "Seoul"}}\n</tool_call>'
const tools = [{ type: 'function' as const, name: 'weather', parameters: { type: 'object' }, strict: false }]

/** The payloads of a stream's events, which each have their type as a name. */
async function events(response: Response): Promise<unknown[]> {
  const blocks = (await response.text()).split('\n\n').filter((block) => block.startsWith('event: '))
  return blocks.map((block) => {
    const [, name, data] = /^event: (.*)\ndata: (.*)$/.exec(block)!
    const payload = JSON.parse(data!)
    expect(payload.type).toBe(name)
    return payload
  })
}

async function open(said: string) {
  const server = await harness({ template })
  server.engine.script = () => ({ tokens: bytes(said), tokensPerIteration: 3 })
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none' })
  const promptOf = (index: number) => Buffer.from(server.engine.submitted[index]!.prompt).toString()
  return { server, client, promptOf, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
}

describe('through the official client', () => {
  test('an answer is whole, and its stream tells the same piece by piece', async () => {
    await using one = await open('Seoul is sunny.')
    const asked = { model, input: 'How is Seoul?', instructions: 'Be short.', temperature: 0 }
    const whole = await one.client.responses.create(asked)
    expect(one.promptOf(0)).toContain('[system]Be short.[user]How is Seoul?')
    expect(whole).toMatchObject({
      ...{ object: 'response', status: 'completed', model, instructions: 'Be short.', store: false },
      output: [{ type: 'message', role: 'assistant', status: 'completed' }],
      usage: { output_tokens: 15, input_tokens_details: { cached_tokens: 2 } },
    })
    expect(whole.output_text).toBe('Seoul is sunny.')
    expect(whole.id).toMatch(/^resp_\w+$/)
    const stream = one.client.responses.stream(asked)
    const types: string[] = []
    let text = ''
    let expected = 0
    for await (const event of stream) {
      expect(event.sequence_number).toBe(expected++)
      if (types.at(-1) !== event.type) types.push(event.type)
      if (event.type === 'response.output_text.delta') text += event.delta
    }
    expect(text).toBe('Seoul is sunny.')
    expect(types).toEqual([
      'response.created',
      'response.in_progress',
      'response.output_item.added',
      'response.content_part.added',
      'response.output_text.delta',
      'response.output_text.done',
      'response.content_part.done',
      'response.output_item.done',
      'response.completed',
    ])
    const last = await stream.finalResponse()
    const alike = ({ id: _, output, output_text }: typeof whole) => ({
      output: output.map(({ id: __, ...item }) => item),
      output_text,
    })
    expect(alike(last)).toMatchObject(alike(whole))
    expect(last.usage).toEqual(whole.usage)
    expect(one.server.errors).toEqual([])
  })

  test('an answer that is cut off by its limit is incomplete, and says why', async () => {
    await using one = await open('Seoul is sunny.')
    const asked = { model, input: 'How?', max_output_tokens: 5 }
    const whole = await one.client.responses.create(asked)
    expect(whole).toMatchObject({
      ...{ status: 'incomplete', incomplete_details: { reason: 'max_output_tokens' } },
      output: [{ status: 'incomplete' }],
      usage: { output_tokens: 5 },
    })
    const told = await events(await post(`${one.server.url}/v1/responses`, { ...asked, stream: true }))
    expect(told.at(-1)).toMatchObject({ type: 'response.incomplete', response: { status: 'incomplete' } })
  })

  test('a call of a function comes as an item, and its output goes back into the conversation', async () => {
    await using one = await open(`Let me look.\n${tagged}`)
    const input = [
      { role: 'user' as const, content: [{ type: 'input_text' as const, text: 'How is Seoul?' }] },
    ]
    const first = await one.client.responses.create({ model, input, tools })
    expect(first.output).toMatchObject([
      { type: 'message', content: [{ type: 'output_text', text: 'Let me look.' }] },
      { type: 'function_call', name: 'weather', arguments: '{"city": "Seoul"}', status: 'completed' },
    ])
    expect(one.promptOf(0)).toContain('"name": "weather"')
    const call = first.output[1] as OpenAI.Responses.ResponseFunctionToolCall
    const told: string[] = []
    for await (const event of one.client.responses.stream({ model, input, tools })) {
      if (event.type === 'response.function_call_arguments.done') told.push(event.arguments)
      if (event.type === 'response.output_item.done') told.push(event.item.type)
    }
    expect(told).toEqual(['message', '{"city": "Seoul"}', 'function_call'])
    one.server.engine.script = () => ({ tokens: bytes('Sunny.') })
    const output = { type: 'function_call_output' as const, call_id: call.call_id, output: '21 degrees' }
    const conversation = [...input, ...first.output, output] as OpenAI.Responses.ResponseInput
    const second = await one.client.responses.create({
      model,
      input: conversation,
      tools,
    })
    expect(second.output_text).toBe('Sunny.')
    expect(one.promptOf(2)).toMatch(
      /\[user\]How is Seoul\?\[assistant\]Let me look\.<tool_call>.*"weather".*\[tool\]21 degrees$/s,
    )
    expect(one.server.errors).toEqual([])
  })

  test('what is thought is an item of its own', async () => {
    await using one = await open('<think>\nSouth Korea.</think>\n\nSeoul.')
    const whole = await one.client.responses.create({ model, input: 'Capital?' })
    expect(whole.output).toMatchObject([
      { type: 'reasoning', summary: [], content: [{ type: 'reasoning_text', text: 'South Korea.' }] },
      { type: 'message', content: [{ type: 'output_text', text: 'Seoul.' }] },
    ])
    let thought = ''
    for await (const event of one.client.responses.stream({ model, input: 'Capital?' }))
      if (event.type === 'response.reasoning_text.delta') thought += event.delta
    expect(thought).toBe('South Korea.')
    const back = await one.client.responses.create({
      model,
      input: [
        { role: 'user', content: 'Capital?' },
        ...(whole.output as OpenAI.Responses.ResponseInput),
        { role: 'user', content: 'Sure?' },
      ],
    })
    expect(back.status).toBe('completed')
  })

  test('an answer is held to a schema', async () => {
    await using one = await open('{"a": 1}')
    const schema = { type: 'object', properties: { a: { type: 'integer' } } }
    const format = { type: 'json_schema' as const, name: 'a', schema, strict: true }
    const answer = await one.client.responses.create({ model, input: 'a?', text: { format } })
    expect(one.server.engine.submitted[0]!.constraint).toEqual({ kind: 'json', schema })
    expect(answer.text?.format).toMatchObject({ type: 'json_schema', name: 'a' })
  })

  test('a stream that breaks off ends with what failed', async () => {
    await using one = await open('x')
    one.server.engine.script = () => ({
      tokens: bytes('abc'),
      end: { reason: 'failed', code: 'device', message: 'the device broke' },
    })
    const told = await events(
      await post(`${one.server.url}/v1/responses`, { model, input: 'a', stream: true }),
    )
    expect(told.at(-1)).toMatchObject({
      type: 'response.failed',
      response: { status: 'failed', error: { code: 'device' } },
    })
  })
})

test.each([
  [{ previous_response_id: 'resp_1' }, 'previous_response_id', 'send the whole conversation'],
  [{ store: true }, 'store', 'not stored'],
  [{ tools: [{ type: 'web_search' }] }, 'tools.0.type', 'type function'],
  [
    { input: [{ role: 'user', content: [{ type: 'input_image', image_url: 'x' }] }] },
    'input.0.content.0.type',
    'text only',
  ],
  [{ input: [{ role: 'pilot', content: 'x' }] }, 'input.0.role', 'user, assistant'],
  [{ input: [{ type: 'item_reference', id: 'x' }] }, 'input.0.type', 'function_call_output'],
  [{ input: [] }, 'input', 'at least one message'],
  [{ temperature: 3 }, 'temperature', ''],
  [{ tools: [{ type: 'function', name: 'a b' }] }, 'tools.0.name', 'Letters'],
  [{ tool_choice: { type: 'function', name: 'nope' }, tools }, 'tool_choice', 'No function of this name'],
  [{ max_output_tokens: 100_000 }, 'input', 'exceed the model context'],
  [{ input: 'x'.repeat(2000) }, 'input', ''],
  [
    { text: { format: { type: 'json_schema', name: 'a', schema: { type: 'object', not: {} } } } },
    'text.format',
    '',
  ],
  [{ maxtokens: 5 }, 'maxtokens', 'Unknown field'],
])('what cannot be is refused under the name that it was asked by: %j', async (change, param, why) => {
  await using server = await harness({ template })
  const response = await post(`${server.url}/v1/responses`, { model, input: 'Hello', ...change })
  const { error } = (await response.json()) as { error: { param: string; message: string } }
  expect([response.status, error.param.startsWith(param), error.message]).toEqual([
    400,
    true,
    expect.stringContaining(why),
  ])
  expect(error.message).not.toMatch(/messages|max_completion_tokens|response_format/)
})

test('thought and answer come out the same wherever the text is cut', () => {
  const random = new Random(9)
  for (const [text, thought, said] of [
    ['<think>a < b</think>\n\nc </think> d', 'a < b', 'c </think> d'],
    ['  <think>\nnever ends </thin', 'never ends </thin', ''],
    ['<thinker> no', '', '<thinker> no'],
    ['<think></think>x', '', 'x'],
    ['<th', '', '<th'],
    [' plain', '', ' plain'],
  ] as const)
    for (let round = 0; round < 30; round++) {
      const splitter = new ThoughtSplitter()
      const got = { thought: '', said: '' }
      const take = (split: typeof got) => {
        got.thought += split.thought
        got.said += split.said
      }
      for (let at = 0; at < text.length; ) {
        const length = 1 + random.integer(4)
        take(splitter.push(text.slice(at, at + length)))
        at += length
      }
      take(splitter.end())
      expect(got, text).toEqual({ thought, said })
    }
})

test('calls one after the other, with what was thought before them, are one message of the assistant', () => {
  const call = (id: string) => ({ type: 'function_call', call_id: id, name: 'f', arguments: '{}' })
  const body = responsesRequest(requestLimits).parse({
    model: 'm',
    input: [
      { role: 'user', content: 'go' },
      { type: 'reasoning', id: 'r', summary: [], content: [{ type: 'reasoning_text', text: 'hm' }] },
      call('1'),
      call('2'),
      { type: 'function_call_output', call_id: '1', output: 'one' },
      { type: 'function_call_output', call_id: '2', output: [{ type: 'input_text', text: 'two' }] },
    ],
  })
  const { messages } = chatOfResponses(body) as { messages: object[] }
  expect(messages).toMatchObject([
    { role: 'user' },
    { role: 'assistant', content: null, reasoning_content: 'hm', tool_calls: [{ id: '1' }, { id: '2' }] },
    { role: 'tool', tool_call_id: '1', content: 'one' },
    { role: 'tool', tool_call_id: '2', content: 'two' },
  ])
  expect(fieldOfResponses('messages.1.content')).toBe('input.1.content')
})
