/** /v1/messages through Anthropic's own client, and what is refused of it. */
import Anthropic from '@anthropic-ai/sdk'
import { describe, expect, test } from 'vitest'
import { ChatTemplate } from '../../src/tokenizer/chat-template.ts'
import { bytes } from './byte-tokenizer.ts'
import { harness, model, post } from './harness.ts'

const template = new ChatTemplate(
  "{{ tools | tojson if tools else '' }}{{ '' if enable_thinking else '(no thinking)' }}{% for m in messages %}[{{ m.role }}]{{ m.content }}" +
    '{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{% endfor %}',
)
const tagged = '<tool_call>\n{"name": "weather", "arguments": {"city": "Seoul"}}\n</tool_call>'
const tools = [{ name: 'weather', description: 'The sky.', input_schema: { type: 'object' as const } }]
const question = [{ role: 'user' as const, content: 'How is Seoul?' }]

async function open(said: string) {
  const server = await harness({ template, apiKeys: ['secret'] })
  server.engine.script = () => ({ tokens: bytes(said), tokensPerIteration: 3 })
  const client = new Anthropic({ baseURL: server.url, apiKey: 'secret', maxRetries: 0 })
  const promptOf = (index: number) => Buffer.from(server.engine.submitted[index]!.prompt).toString()
  return { server, client, promptOf, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
}

describe("through Anthropic's client", () => {
  test('an answer is whole, and its stream tells the same piece by piece', async () => {
    await using one = await open('Seoul is sunny.')
    const asked = { model, max_tokens: 50, system: 'Be short.', messages: question, temperature: 0 }
    const whole = await one.client.messages.create(asked)
    expect(one.promptOf(0)).toBe('(no thinking)[system]Be short.[user]How is Seoul?')
    expect(whole).toMatchObject({
      ...{ type: 'message', role: 'assistant', model, stop_reason: 'end_turn', stop_sequence: null },
      content: [{ type: 'text', text: 'Seoul is sunny.' }],
      usage: { output_tokens: 15, cache_read_input_tokens: 2 },
    })
    expect(whole.usage.input_tokens + whole.usage.cache_read_input_tokens!).toBe(
      one.server.engine.submitted[0]!.prompt.length,
    )
    const stream = one.client.messages.stream(asked)
    const types: string[] = []
    stream.on('streamEvent', ({ type }) => types.at(-1) !== type && types.push(type))
    const last = await stream.finalMessage()
    expect(types).toEqual([
      'message_start',
      'content_block_start',
      'content_block_delta',
      'content_block_stop',
      'message_delta',
      'message_stop',
    ])
    expect(last).toMatchObject({ content: whole.content, stop_reason: 'end_turn', usage: whole.usage })
    expect(one.server.errors).toEqual([])
  })

  test('an answer that is cut off by its limit says so', async () => {
    await using one = await open('Seoul is sunny.')
    const cut = await one.client.messages.create({ model, max_tokens: 5, messages: question })
    expect(cut).toMatchObject({ stop_reason: 'max_tokens', content: [{ text: 'Seoul' }] })
  })

  test('a tool is used, and its result goes back into the conversation', async () => {
    await using one = await open(`Let me look.\n${tagged}`)
    const asked = { model, max_tokens: 200, messages: question, tools }
    const first = await one.client.messages.create(asked)
    expect(first.stop_reason).toBe('tool_use')
    expect(first.content).toMatchObject([
      { type: 'text', text: 'Let me look.' },
      { type: 'tool_use', name: 'weather', input: { city: 'Seoul' } },
    ])
    const streamed = await one.client.messages.stream(asked).finalMessage()
    expect(streamed.content).toMatchObject([{ type: 'text' }, { type: 'tool_use', input: { city: 'Seoul' } }])
    const use = first.content[1] as Anthropic.ToolUseBlock
    one.server.engine.script = () => ({ tokens: bytes('Sunny.') })
    const second = await one.client.messages.create({
      ...asked,
      messages: [
        ...question,
        { role: 'assistant', content: first.content },
        {
          role: 'user',
          content: [
            { type: 'tool_result', tool_use_id: use.id, content: [{ type: 'text', text: '21 degrees' }] },
            { type: 'text', text: 'Well?', cache_control: { type: 'ephemeral' } },
          ],
        },
      ],
    })
    expect(second.content).toMatchObject([{ text: 'Sunny.' }])
    expect(one.promptOf(2)).toContain(
      '[assistant]Let me look.<tool_call>{"name": "weather", "arguments": {"city": "Seoul"}}</tool_call>[tool]21 degrees[user]Well?',
    )
    expect(one.server.errors).toEqual([])
  })

  test('what is thought is a block of its own, and thinking can be asked for', async () => {
    await using one = await open('<think>\nSouth Korea.</think>\n\nSeoul.')
    const asked = { model, max_tokens: 100, messages: question }
    const thinking = { type: 'enabled', budget_tokens: 1024 } as const
    const whole = await one.client.messages.create({ ...asked, thinking })
    expect(one.promptOf(0)).not.toContain('(no thinking)')
    expect(whole.content).toMatchObject([
      { type: 'thinking', thinking: 'South Korea.' },
      { type: 'text', text: 'Seoul.' },
    ])
    const stream = await one.client.messages
      .stream({ ...asked, thinking: { type: 'disabled' } })
      .finalMessage()
    expect(stream.content).toMatchObject(whole.content)
    expect(one.promptOf(1)).toContain('(no thinking)')
    const back = { role: 'assistant' as const, content: whole.content }
    const again = await one.client.messages.create({
      ...{ ...asked, messages: [...question, back, { role: 'user', content: 'Sure?' }] },
    })
    expect(again.stop_reason).toBe('end_turn')
  })

  test('an answer is held to a schema', async () => {
    await using one = await open('{"a": 1}')
    const schema = { type: 'object', properties: { a: { type: 'integer' } } }
    await one.client.messages.create({
      ...{ model, max_tokens: 100, messages: question },
      output_config: { format: { type: 'json_schema', schema } },
    })
    expect(one.server.engine.submitted[0]!.constraint).toEqual({ kind: 'json', schema })
  })

  test('errors are those of its classes, before a stream and within one', async () => {
    await using one = await open('x')
    const asked = { model, max_tokens: 9, messages: question }
    await expect(one.client.messages.create({ ...asked, model: 'nope' })).rejects.toBeInstanceOf(
      Anthropic.NotFoundError,
    )
    const stranger = new Anthropic({ baseURL: one.server.url, apiKey: 'wrong', maxRetries: 0 })
    await expect(stranger.messages.create(asked)).rejects.toBeInstanceOf(Anthropic.AuthenticationError)
    one.server.engine.script = () => ({
      tokens: bytes('abc'),
      end: { reason: 'failed', code: 'device', message: 'the device broke' },
    })
    const broken = one.client.messages.stream(asked).finalMessage()
    await expect(broken).rejects.toThrow(/api_error/)
  })
})

test.each([
  [{ max_tokens: undefined }, 'max_tokens'],
  [{ messages: [{ role: 'system', content: 'x' }] }, 'user or assistant'],
  [
    { messages: [{ role: 'user', content: [{ type: 'image', source: {} }] }] },
    'messages.0.content.0.type: This model reads',
  ],
  [{ tools: [{ type: 'bash_20250124', name: 'bash' }] }, 'tools.0.type: Only tools of your own'],
  [{ tools: [{ name: 'a b' }] }, 'tools.0.name: Letters'],
  [{ tool_choice: { type: 'any' } }, 'tool_choice: There are no tools'],
  [{ temperature: 3 }, 'temperature'],
  [{ stop_sequences: 'x' }, 'stop_sequences: Expected a list'],
  [{ mcp_servers: [{}] }, 'mcp_servers: Only tools of the client'],
  [{ max_token: 3 }, 'max_token: Unknown field; did you mean max_tokens'],
  [{ messages: [] }, 'messages: Expected at least one message'],
])('what cannot be is refused under the name that it was asked by: %j', async (change, why) => {
  await using server = await harness({ template })
  const body = { model, max_tokens: 9, messages: question, ...change }
  const response = await post(`${server.url}/v1/messages`, body)
  expect([response.status, await response.json()]).toEqual([
    400,
    { type: 'error', error: { type: 'invalid_request_error', message: expect.stringContaining(why) } },
  ])
})
