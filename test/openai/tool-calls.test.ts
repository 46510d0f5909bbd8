/** Calls of tools in the forms that models write them in, whole and cut anywhere, and through the official client. */
import OpenAI from 'openai'
import { describe, expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import type { WrittenCall } from '../../src/openai/answer-reader.ts'
import { type CallForm, CallReader, callFormsOf } from '../../src/openai/tool-calls.ts'
import { ChatTemplate, templateMessage } from '../../src/tokenizer/chat-template.ts'
import { bytes } from './byte-tokenizer.ts'
import { harness, model } from './harness.ts'

const names = ['weather', 'time']
const weather = { name: 'weather', arguments: '{"city": "Seoul"}' }
const time = { name: 'time', arguments: '{}' }
const tagged = '<tool_call>\n{"name": "weather", "arguments": {"city": "Seoul"}}\n</tool_call>'

function read(forms: readonly CallForm[], pieces: readonly string[]) {
  const reader = new CallReader(forms, names)
  const found = [...pieces.map((piece) => reader.push(piece)), reader.flush()]
  expect(reader.isClear).toBe(true)
  return { text: found.map(({ text }) => text).join(''), calls: found.flatMap(({ calls }) => calls) }
}

/** Wherever the text is cut into pieces, the same is found. */
function readAnyhow(form: CallForm, text: string) {
  const whole = read([form], [text])
  const random = new Random(text.length)
  for (let round = 0; round < 20; round++) {
    const pieces: string[] = []
    for (let at = 0; at < text.length; ) {
      const length = 1 + random.integer(round < 2 ? 1 : 12)
      pieces.push(text.slice(at, at + length))
      at += length
    }
    expect(read([form], pieces)).toEqual(whole)
  }
  return whole
}

const cases: { name: string; form: CallForm; text: string; shown: string; calls: WrittenCall[] }[] = [
  { name: 'text alone', form: 'tagged', text: 'It is 3 < 4.', shown: 'It is 3 < 4.', calls: [] },
  { name: 'one call', form: 'tagged', text: tagged, shown: '', calls: [weather] },
  {
    name: 'text and two calls',
    form: 'tagged',
    text: `Let me see.\n\n${tagged}\n<tool_call>{"name": "time"}</tool_call>\n`,
    shown: 'Let me see.',
    calls: [weather, time],
  },
  {
    name: 'a last call that is not closed',
    form: 'tagged',
    text: tagged.replace('</tool_call>', ''),
    shown: '',
    calls: [weather],
  },
  {
    name: 'what is no JSON stays text',
    form: 'tagged',
    text: 'So: <tool_call>{"name": "weather", </tool_call> and on',
    shown: 'So: <tool_call>{"name": "weather", </tool_call> and on',
    calls: [],
  },
  {
    name: 'arguments in the words of the model',
    form: 'tagged',
    text: '<tool_call>{"arguments": {"id": 12345678901234567890, "s": "a \\"}, b"}, "name": "weather"}</tool_call>',
    shown: '',
    calls: [{ name: 'weather', arguments: '{"id": 12345678901234567890, "s": "a \\"}, b"}' }],
  },
  {
    name: 'a list of calls',
    form: 'listed',
    text: '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Seoul"}}, {"name": "time", "arguments": {}}]',
    shown: '',
    calls: [weather, time],
  },
  {
    name: 'named calls',
    form: 'listed',
    text: 'Wait.[TOOL_CALLS]weather[ARGS]{"city": "Seoul"}[TOOL_CALLS]time[CALL_ID]123456789[ARGS]{}',
    shown: 'Wait.',
    calls: [weather, time],
  },
  {
    name: 'a list that is cut off stays text',
    form: 'listed',
    text: '[TOOL_CALLS] [{"name": "weather", "argum',
    shown: '[TOOL_CALLS] [{"name": "weather", "argum',
    calls: [],
  },
  {
    name: 'an answer that is a call',
    form: 'bare',
    text: '{"name": "weather", "parameters": {"city": "Seoul"}}',
    shown: '',
    calls: [weather],
  },
  {
    name: 'calls behind the mark of code',
    form: 'bare',
    text: '<|python_tag|>{"name": "weather", "parameters": {"city": "Seoul"}}; {"name": "time", "parameters": {}}',
    shown: '',
    calls: [weather, time],
  },
  {
    name: 'JSON that calls nothing stays text',
    form: 'bare',
    text: ' {"name": "Seoul", "parameters": {}}',
    shown: ' {"name": "Seoul", "parameters": {}}',
    calls: [],
  },
  { name: 'plain words', form: 'bare', text: 'No {call} here. ', shown: 'No {call} here. ', calls: [] },
]

test.each(cases)('$form: $name', ({ form, text, shown, calls }) => {
  expect(readAnyhow(form, text)).toEqual({ text: shown, calls })
})

test('the form is read off the template', () => {
  const forms = (source: string) => callFormsOf(new ChatTemplate(source))
  expect(forms('{{ tools }}<tool_call>')).toEqual(['tagged'])
  expect(forms('{{ tools }}[TOOL_CALLS]')).toEqual(['listed'])
  expect(forms('{{ tools }}<|python_tag|>')).toEqual(['bare'])
  expect(forms('{{ tools }}')).toEqual(['tagged', 'bare'])
  const several = new ChatTemplate({ default: '{{ messages }}', tool_use: '[TOOL_CALLS]' })
  expect(callFormsOf(several)).toEqual(['listed'])
})

test('a template gets the arguments of earlier calls as an object, and what is no JSON as it is', () => {
  const message = (given: string) => ({
    role: 'assistant',
    content: null,
    tool_calls: [{ id: 'c', type: 'function', function: { name: 'f', arguments: given } }],
  })
  const rendered = (given: string) =>
    (templateMessage(message(given)).tool_calls as { function: { arguments: unknown } }[])[0]!.function
  expect(rendered('{"a": [1]}')).toEqual({ name: 'f', arguments: { a: [1] } })
  expect(rendered('not json')).toEqual({ name: 'f', arguments: 'not json' })
})

describe('through the official client', () => {
  const template = new ChatTemplate(
    '{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}\n{% endfor %}{{ tools | tojson if tools else "" }}',
  )
  const tools: OpenAI.ChatCompletionTool[] = names.map((name) => ({
    type: 'function',
    function: { name, parameters: { type: 'object' } },
  }))
  const messages: OpenAI.ChatCompletionMessageParam[] = [
    { role: 'user', content: 'What is it like in Seoul?' },
  ]

  test('an answer calls, its results go back, and a stream says the same', async () => {
    await using server = await harness({ template })
    const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none' })
    server.engine.script = () => ({ tokens: bytes(`Let me look.\n${tagged}`), tokensPerIteration: 3 })
    const body = { model, messages, tools, max_tokens: 200 }
    const { choices } = await client.chat.completions.create(body)
    const { message, finish_reason } = choices[0]!
    expect([finish_reason, message.content]).toEqual(['tool_calls', 'Let me look.'])
    expect(message.tool_calls).toEqual([
      { id: expect.stringMatching(/^call_\w{24}$/), type: 'function', function: weather },
    ])
    const runner = client.chat.completions.stream(body)
    const streamed = await runner.finalMessage()
    expect(streamed.content).toBe('Let me look.')
    expect(streamed.tool_calls).toMatchObject([{ type: 'function', function: weather }])
    // The call goes back as it came, with its result.
    const id = message.tool_calls![0]!.id
    server.engine.script = () => ({ tokens: bytes('Sunny.') })
    const next = await client.chat.completions.create({
      ...{ model, tools, max_tokens: 100 },
      messages: [...messages, message, { role: 'tool', tool_call_id: id, content: '{"sky": "clear"}' }],
    })
    expect(next.choices[0]).toMatchObject({ finish_reason: 'stop', message: { content: 'Sunny.' } })
    const prompt = Buffer.from(server.engine.submitted.at(-1)!.prompt).toString()
    expect(prompt).toContain('<tool_call>{"name": "weather", "arguments": {"city": "Seoul"}}</tool_call>')
    expect(prompt).toContain('tool:{"sky": "clear"}')
  })

  test('an answer of a call alone has no content, a cut one is text, and without tools all is text', async () => {
    await using server = await harness({ template })
    const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none' })
    server.engine.script = () => ({ tokens: bytes(tagged) })
    const ask = async (fields: object) =>
      (await client.chat.completions.create({ model, messages, max_tokens: 200, ...fields })).choices[0]!
    const alone = await ask({ tools })
    expect([alone.message.content, alone.message.tool_calls?.length]).toEqual([null, 1])
    const cut = await ask({ tools, max_tokens: 20 })
    expect([cut.finish_reason, cut.message.content, cut.message.tool_calls]).toEqual([
      ...['length', tagged.slice(0, 20), undefined],
    ])
    for (const fields of [{}, { tools, tool_choice: 'none' }]) {
      const plain = await ask(fields)
      expect([plain.finish_reason, plain.message.content]).toEqual(['stop', tagged])
    }
  })
})
