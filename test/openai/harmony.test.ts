/** Answers in the channels of gpt-oss: read whole and cut anywhere, through the official client, and held to schemas and tools. */
import OpenAI from 'openai'
import { describe, expect, test } from 'vitest'
import { chatRequest } from '../../src/api/chat.ts'
import { requestLimits } from '../../src/api/limits.ts'
import { Random } from '../../src/base/random.ts'
import { Constraints, type TokenTexts } from '../../src/constrain/constraint.ts'
import { specialBytes, textBytes } from '../../src/constrain/token-bytes.ts'
import type { WrittenCall } from '../../src/openai/answer-reader.ts'
import { ConstraintChecks } from '../../src/openai/constraint-checks.ts'
import { HarmonyReader, harmonyMarks, openAnswer, speaksHarmony } from '../../src/openai/harmony.ts'
import { ShownStops } from '../../src/openai/shown-stops.ts'
import { callFormsOf } from '../../src/openai/tool-calls.ts'
import { callConstraint, formatInChannels } from '../../src/openai/tool-choice.ts'
import { ChatTemplate } from '../../src/tokenizer/chat-template.ts'
import { tokenizerFromJson } from '../../src/tokenizer/tokenizer.ts'
import { bytes, byteTokenizer } from './byte-tokenizer.ts'
import { harness, info, model, post } from './harness.ts'

const marks = Object.values(harmonyMarks)
const weather: WrittenCall = { name: 'weather', arguments: '{"city": "Seoul"}' }
const thought = '<|channel|>analysis<|message|>They want 3 < 4.<|end|>'
const final = (text: string) => `<|start|>assistant<|channel|>final<|message|>${text}`
const call = (json = '{"city": "Seoul"}') =>
  `<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>${json}`

function read(pieces: readonly string[], calls = true) {
  const reader = new HarmonyReader(calls)
  const found = [...pieces.map((piece) => reader.push(piece)), reader.flush()]
  expect(reader.isClear).toBe(true)
  return { text: found.map(({ text }) => text).join(''), calls: found.flatMap(({ calls }) => calls) }
}

/** Wherever the text is cut into pieces, the same is found. */
function readAnyhow(text: string, calls = true) {
  const whole = read([text], calls)
  const random = new Random(text.length)
  for (let round = 0; round < 20; round++) {
    const pieces: string[] = []
    for (let at = 0; at < text.length; ) {
      const length = 1 + random.integer(round < 2 ? 1 : 12)
      pieces.push(text.slice(at, at + length))
      at += length
    }
    expect(read(pieces, calls)).toEqual(whole)
  }
  return whole
}

const cases: { name: string; text: string; shown: string; calls?: WrittenCall[] }[] = [
  {
    name: 'thinking and an answer',
    text: `${thought}${final('It is so.<|return|>')}`,
    shown: '<think>They want 3 < 4.</think>It is so.',
  },
  { name: 'an answer alone', text: '<|channel|>final<|message|>Yes <b>.', shown: 'Yes <b>.' },
  {
    name: 'thinking and a call',
    text: `${thought}${call()}<|call|>`,
    shown: '<think>They want 3 < 4.</think>',
    calls: [weather],
  },
  {
    name: 'a recipient in front of the channel',
    text: ' to=functions.weather<|channel|>commentary json<|message|>{"city": "Seoul"}<|call|>',
    shown: '',
    calls: [weather],
  },
  {
    name: 'words in front of a call',
    text: `<|channel|>commentary<|message|>Let me look.<|end|>${call()}`,
    shown: 'Let me look.',
    calls: [weather],
  },
  {
    name: 'thinking in two messages',
    text: `${thought}<|start|>assistant${thought}${final('Yes')}`,
    shown: '<think>They want 3 < 4.\n\nThey want 3 < 4.</think>Yes',
  },
  {
    name: 'a message that the next one ends',
    text: `<|channel|>analysis<|message|>So${final('Yes')}`,
    shown: '<think>So</think>Yes',
  },
  { name: 'thinking that is cut off', text: '<|channel|>analysis<|message|>They w', shown: '<think>They w' },
  { name: 'thinking that nothing follows', text: thought, shown: '<think>They want 3 < 4.</think>' },
  {
    name: 'a header that is cut off',
    text: `${thought}<|start|>assis`,
    shown: '<think>They want 3 < 4.</think>',
  },
  { name: 'a call that is cut off', text: call('{"city": "Se'), shown: '{"city": "Se' },
  {
    name: 'a call without arguments',
    text: call(''),
    shown: '',
    calls: [{ name: 'weather', arguments: '{}' }],
  },
  { name: 'an answer without a header', text: '{"a": 1}', shown: '{"a": 1}' },
  { name: 'one that begins like a header', text: 'assume', shown: 'assume' },
  { name: 'one that is the beginning of one', text: 'ass', shown: 'ass' },
  { name: 'nothing', text: '', shown: '' },
]

test.each(cases)('$name', ({ text, shown, calls = [] }) => {
  expect(readAnyhow(text)).toEqual({ text: shown, calls })
})

test('an answer ends at the first stop string of what is shown of it, wherever it is cut', () => {
  const random = new Random(8)
  for (const { text, shown } of cases.filter(({ shown }) => shown !== ''))
    for (let round = 0; round < 30; round++) {
      const from = random.integer(shown.length)
      const stop = shown.slice(from, from + 1 + random.integer(8))
      const at = shown.indexOf(stop)
      // Of the tags that a reader adds, none is shown in part.
      if (
        [...shown.matchAll(/<\/?think>|\n\n/g)].some(
          ({ index, 0: { length } }) => at > index && at < index + length,
        )
      )
        continue
      const stops = new ShownStops([stop], new HarmonyReader(true))
      const pieces: string[] = []
      let isOver = false
      for (let begin = 0; begin < text.length && !isOver; ) {
        const end = begin + 1 + random.integer(9)
        const found = stops.push(text.slice(begin, end))
        pieces.push(found.text)
        isOver = found.stopped !== undefined
        begin = end
      }
      if (!isOver) pieces.push(stops.flush())
      expect(read(pieces).text, JSON.stringify({ text, stop })).toBe(shown.slice(0, at))
    }
})

test('without tools a call is text', () => {
  expect(readAnyhow(`${thought}${call()}<|call|>`, false)).toEqual({
    text: '<think>They want 3 < 4.</think>{"city": "Seoul"}',
    calls: [],
  })
})

/** Of a talk with calls, as gpt-oss's own template writes it. */
const template = new ChatTemplate(
  `<|start|>system<|message|>Current date: {{ strftime_now("%Y") }}<|end|>
{%- for message in messages -%}
{%- if message.role == 'assistant' and 'tool_calls' in message -%}
{%- if message.content %}<|start|>assistant<|channel|>analysis<|message|>{{ message.content }}<|end|>{% endif -%}
{%- set call = message.tool_calls[0].function -%}
<|start|>assistant to=functions.{{ call.name }}<|channel|>commentary json<|message|>{{ call.arguments | tojson }}<|call|>
{%- elif message.role == 'assistant' -%}<|start|>assistant<|channel|>final<|message|>{{ message.content }}<|end|>
{%- else -%}<|start|>{{ message.role }}<|message|>{{ message.content }}<|end|>{%- endif -%}
{%- endfor -%}
{%- if tools -%}# Tools {{ tools | tojson }}{%- endif -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}`,
)

test('the form is read off the template', () => {
  expect(speaksHarmony(template)).toBe(true)
  expect(callFormsOf(template)).toEqual(['channels'])
  expect(speaksHarmony(new ChatTemplate('<|im_start|>{{ messages }}<|channel|>'))).toBe(false)
})

test('a call ends an answer, also where the files of a model do not say so', () => {
  const added = [...marks, '<|endoftext|>'].map((content, i) => ({
    ...{ id: i, content, special: true },
    ...{ single_word: false, lstrip: false, rstrip: false, normalized: false },
  }))
  const json = { added_tokens: added, model: { type: 'BPE', vocab: {}, merges: [] }, decoder: null }
  const tokenizer = tokenizerFromJson(json, { eos_token: '<|return|>' })
  const ends = tokenizer.eosTokens.map((id) => tokenizer.textOf(id)).sort()
  expect(ends).toEqual(['<|call|>', '<|return|>'])
})

describe('through the official client', () => {
  const tokenizer = byteTokenizer(marks)
  const engineInfo = { ...info, vocabularySize: tokenizer.vocabularySize }
  const idsOf = (text: string) =>
    text
      .split(/(<\|\w+\|>)/)
      .flatMap((part) => (marks.some((mark) => mark === part) ? [tokenizer.idOf(part)!] : bytes(part)))
  const tools: OpenAI.ChatCompletionTool[] = [
    {
      type: 'function',
      function: { name: 'weather', description: 'Tells.', parameters: { type: 'object' } },
    },
  ]
  const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: 'user', content: 'Seoul?' }]
  const promptOf = (prompt: readonly number[]) =>
    prompt.map((id) => (id < 256 ? String.fromCharCode(id) : tokenizer.textOf(id))).join('')

  async function serving() {
    const server = await harness({ template, tokenizer })
    server.engine.info = engineInfo
    return { server, client: new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none' }) }
  }

  test('what is thought stands between tags, a call is a call, and its result goes back', async () => {
    const { server, client } = await serving()
    await using _ = server
    server.engine.script = () => ({ tokens: idsOf(`${thought}${call()}<|call|>`), tokensPerIteration: 3 })
    const body = { model, messages, tools, max_tokens: 200 }
    const { choices } = await client.chat.completions.create(body)
    const { message, finish_reason } = choices[0]!
    expect([finish_reason, message.content]).toEqual(['tool_calls', '<think>They want 3 < 4.</think>'])
    expect(message.tool_calls).toMatchObject([{ type: 'function', function: weather }])
    const streamed = await client.chat.completions.stream(body).finalMessage()
    expect(streamed.content).toBe(message.content)
    expect(streamed.tool_calls).toMatchObject([{ type: 'function', function: weather }])
    const id = message.tool_calls![0]!.id
    server.engine.script = () => ({ tokens: idsOf(`${thought}${final('Sunny.')}<|return|>`) })
    const asked = {
      ...{ model, tools, max_tokens: 100 },
      messages: [...messages, message, { role: 'tool', tool_call_id: id, content: 'clear' } as const],
    }
    const next = await client.chat.completions.create(asked)
    expect(next.choices[0]).toMatchObject({
      finish_reason: 'stop',
      message: { content: '<think>They want 3 < 4.</think>Sunny.' },
    })
    // What was thought in front of the call is told again as that, and in front of an answer no more.
    expect(promptOf(server.engine.submitted.at(-1)!.prompt)).toContain(
      '<|channel|>analysis<|message|>They want 3 < 4.<|end|><|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{"city": "Seoul"}<|call|>',
    )
    const last = { ...next.choices[0]!.message }
    await client.chat.completions.create({ ...asked, messages: [...messages, last, messages[0]!] })
    expect(promptOf(server.engine.submitted.at(-1)!.prompt)).toContain(
      '<|channel|>final<|message|>Sunny.<|end|>',
    )
  })

  const said = `${thought}${final('It is so: a final analysis.')}<|return|>`
  const whole = '<think>They want 3 < 4.</think>It is so: a final analysis.'
  for (const { stop, shown } of [
    { stop: 'final', shown: '<think>They want 3 < 4.</think>It is so: a ' },
    { stop: 'analysis', shown: '<think>They want 3 < 4.</think>It is so: a final ' },
    { stop: 'assistant', shown: whole },
    { stop: '|>', shown: whole },
    { stop: 'They want', shown: '<think>' },
    { stop: ' 4.', shown: '<think>They want 3 <' },
    { stop: '</think>', shown: '<think>They want 3 < 4.' },
    { stop: '.</think>It', shown: '<think>They want 3 < 4' },
    { stop: 'a final analysis.', shown: '<think>They want 3 < 4.</think>It is so: ' },
    { stop: 'analysis. And', shown: whole },
  ])
    for (const tokensPerIteration of [1, 7, 1000])
      test(`an answer ends at ${stop} where that is shown (${tokensPerIteration} at a time)`, async () => {
        const { server, client } = await serving()
        await using _ = server
        server.engine.script = () => ({ tokens: idsOf(said), tokensPerIteration })
        const body = { model, messages, stop, max_tokens: 200 }
        const { choices, usage } = await client.chat.completions.create(body)
        expect([choices[0]!.message.content, choices[0]!.finish_reason]).toEqual([shown, 'stop'])
        const streamed = await client.chat.completions.stream(body).finalMessage()
        expect(streamed.content).toBe(shown)
        if (shown === whole) expect(usage!.completion_tokens).toBe(idsOf(said).length)
        else expect(usage!.completion_tokens).toBeLessThan(idsOf(said).length)
      })

  test('a stop string that stands in a call is none', async () => {
    const { server, client } = await serving()
    await using _ = server
    server.engine.script = () => ({ tokens: idsOf(`${thought}${call()}<|call|>`) })
    const body = { model, messages, tools, stop: ['Seoul', 'commentary'], max_tokens: 200 }
    const { choices } = await client.chat.completions.create(body)
    expect(choices[0]!.finish_reason).toBe('tool_calls')
    expect(choices[0]!.message.tool_calls).toMatchObject([{ type: 'function', function: weather }])
  })

  test('an answer goes on in its words, or in its thinking', async () => {
    const { server, client } = await serving()
    await using _ = server
    const goOn = async (content: string, said: string) => {
      server.engine.script = () => ({ tokens: idsOf(said) })
      const body = { continue_final_message: true, model, max_tokens: 100 }
      const { choices } = await client.chat.completions.create({
        ...body,
        messages: [...messages, { role: 'assistant', content }],
      })
      return [
        promptOf(server.engine.submitted.at(-1)!.prompt).split('Seoul?<|end|>')[1],
        choices[0]!.message.content,
      ]
    }
    expect(await goOn('It is', ' so.<|return|>')).toEqual([
      '<|start|>assistant<|channel|>final<|message|>It is',
      ' so.',
    ])
    expect(await goOn('<think>Well', `, yes.<|end|>${final('So.')}`)).toEqual([
      '<|start|>assistant<|channel|>analysis<|message|>Well',
      ', yes.</think>So.',
    ])
    expect(await goOn('<think>Well</think>So', '.')).toEqual([
      '<|start|>assistant<|channel|>analysis<|message|>Well<|end|><|start|>assistant<|channel|>final<|message|>So',
      '.',
    ])
    expect(openAnswer('<think>a').opened).toBe('thought')
  })

  test('a stream goes on behind what another server showed', async () => {
    const said = idsOf(`${thought}${final('It is so, surely.')}<|return|>`)
    const whole = '<think>They want 3 < 4.</think>It is so, surely.'
    await using server = await harness({ template, tokenizer, gatewayKeys: ['inner'] })
    server.engine.info = engineInfo
    server.engine.script = () => ({ tokens: said })
    for (const [count, characters, stop] of [
      [10, 14],
      [24, 30],
      [30, 31],
      [40, 35],
      [10, 14, 'surely'],
      // Within what ends the thought, in the header behind it, and where a stop string may have begun.
      [20, 23, 'surely'],
      [30, 23, 'surely'],
      [39, 23, ' so, s'],
      [51, 36, ' so, s'],
    ] as const) {
      const ends = stop === undefined ? whole : whole.slice(0, whole.indexOf(stop))
      const response = await post(
        `${server.url}/v1/chat/completions`,
        {
          ...{ model, messages, stream: true, max_tokens: 200 },
          ...(stop !== undefined && { stop }),
          ropeway_continue: [{ tokens: said.slice(0, count), characters }],
        },
        { headers: { authorization: 'Bearer inner' } },
      )
      const lines = (await response.text()).split('\n').filter((line) => line.startsWith('data: {'))
      const text = lines.map((line) => JSON.parse(line.slice(6)).choices[0]?.delta.content ?? '').join('')
      expect(whole.slice(0, characters) + text, `${count} tokens, stop ${stop}`).toBe(ends)
    }
  })
})

describe('held', () => {
  const tokenizer = byteTokenizer(marks)
  const schema = { type: 'object', properties: { city: { enum: ['Seoul', 'Rome'] } }, required: ['city'] }
  const vocabulary: TokenTexts = Array.from({ length: tokenizer.vocabularySize }, (_, token) => {
    if (token < 256) return textBytes(Uint8Array.of(token))
    const spelt = tokenizer.textOf(token) ?? ''
    return marks.some((mark) => mark === spelt) ? specialBytes(spelt) : undefined
  })
  const parse = (fields: object) =>
    chatRequest(requestLimits).parse({ model, messages: [{ role: 'user', content: 'hi' }], ...fields })
  const tool = (strict: boolean) => [
    { type: 'function', function: { name: 'weather', parameters: schema, strict } },
  ]
  const takesOf = (constraint: Awaited<ReturnType<typeof callConstraint>>) => (said: string) => {
    const text = new Constraints(() => vocabulary).follow(constraint!)!
    const ids = said
      .split(/(<\|\w+\|>)/)
      .flatMap((part) => (marks.some((mark) => mark === part) ? [tokenizer.idOf(part)!] : bytes(part)))
    return ids.every((id) => text.advance(id)) && text.mayEnd
  }
  const held = (fields: object) => callConstraint(parse(fields), template, tokenizer, new ConstraintChecks())
  const bare = (text: string) => text.replace('<|start|>assistant', '')

  test('to calls: thinking may come first, arguments fit the schema', async () => {
    const takes = takesOf(await held({ tools: tool(false), tool_choice: 'required' }))
    expect(takes(bare(call()))).toBe(true)
    expect(takes(`${thought}${call()}`)).toBe(true)
    expect(takes(bare(call('{"city": "Bonn"}')))).toBe(false)
    expect(takes(bare(final('no')))).toBe(false)
    expect(takes('{"city": "Seoul"}')).toBe(false)
  })

  test('to strict functions: an answer is free, a call is not', async () => {
    const takes = takesOf(await held({ tools: tool(true) }))
    expect(takes(`${thought}${final('Anything, {"city": 1}.')}`)).toBe(true)
    expect(takes(`${thought}${call()}`)).toBe(true)
    expect(takes(`${thought}${call('{"city": 1}')}`)).toBe(false)
    // One call ends the answer, so nothing is held for that.
    expect(await held({ tools: tool(false), parallel_tool_calls: false })).toBeUndefined()
  })

  test('to JSON: on the final channel, behind free thinking', () => {
    const takes = takesOf({ kind: 'text', pattern: formatInChannels({ json: schema }, tokenizer) })
    expect(takes(`${thought}${final('{"city": "Rome"}')}`)).toBe(true)
    expect(takes(bare(final('{"city":"Rome"}')))).toBe(true)
    expect(takes(bare(final('Rome')))).toBe(false)
    expect(takes('{"city":"Rome"}')).toBe(false)
  })
})
