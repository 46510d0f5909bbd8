import { describe, expect, test } from 'vitest'
import { ChatTemplate } from '../../src/tokenizer/chat-template.ts'
import { bytes, byteTokenizer, special } from './byte-tokenizer.ts'
import { harness, model, post } from './harness.ts'

const completion = { model, prompt: 'hello', max_tokens: 4 }
const chat = { model, messages: [{ role: 'user', content: 'hi' }] }

/** What the engine is asked for `body`. */
async function asked(path: string, body: object, options: Parameters<typeof harness>[0] = {}) {
  await using server = await harness(options)
  const response = await post(`${server.url}/v1/${path}`, body)
  expect(response.status, await response.text()).toBe(200)
  return server.engine.submitted
}

async function refused(path: string, body: object, options: Parameters<typeof harness>[0] = {}) {
  await using server = await harness(options)
  const response = await post(`${server.url}/v1/${path}`, body)
  expect(server.engine.submitted).toEqual([])
  return { status: response.status, ...((await response.json()) as { error: { param: string } }).error }
}

describe('a completion asks the engine', () => {
  test("for OpenAI's defaults, with the model's own in between", async () => {
    const [plain] = await asked('completions', { model, prompt: 'hello' })
    expect(plain).toMatchObject({
      prompt: bytes('hello'),
      maxTokens: 16,
      minTokens: 0,
      ignoreEos: false,
      stopTokens: [special.end],
      priority: 0,
      tenant: 'anonymous',
      sampling: { temperature: 1, topP: 1, topK: 0, minP: 0, presencePenalty: 0, repetitionPenalty: 1 },
    })
    const defaults = { temperature: 0.7, topP: 0.9, topK: 40, repetitionPenalty: 1.1 }
    const [own] = await asked('completions', { ...completion, top_p: 0.5, top_k: null }, { defaults })
    expect(own!.sampling).toMatchObject({ temperature: 0.7, topP: 0.5, topK: 40, repetitionPenalty: 1.1 })
  })

  test('for every field that a client may set', async () => {
    const [request] = await asked('completions', {
      ...completion,
      temperature: 0.5,
      top_k: -1,
      min_p: 0.1,
      seed: 5,
      logit_bias: { '65': -100 },
      presence_penalty: 0.2,
      frequency_penalty: -0.3,
      repetition_penalty: 1.2,
      min_tokens: 2,
      stop_token_ids: [66],
      priority: 3,
      cache_salt: 'mine',
      logprobs: 0,
      user: 'somebody',
    })
    expect(request).toMatchObject({
      minTokens: 2,
      stopTokens: [special.end, 66],
      priority: 3,
      cacheSalt: 'mine',
      logprobs: 0,
      sampling: {
        temperature: 0.5,
        topK: 0,
        minP: 0.1,
        seed: 5,
        logitBias: { 65: -100 },
        presencePenalty: 0.2,
        frequencyPenalty: -0.3,
        repetitionPenalty: 1.2,
      },
    })
  })

  test("for a penalty by llama.cpp's and Ollama's name too, and for one where both are given", async () => {
    const defaults = { repetitionPenalty: 1.3 }
    for (const [path, body] of [
      ['completions', completion],
      ['chat/completions', chat],
    ] as const) {
      for (const more of [{}, { repetition_penalty: 1.2 }, { repetition_penalty: null }]) {
        const [request] = await asked(path, { ...body, ...more, repeat_penalty: 1.2 }, { defaults })
        expect(request!.sampling.repetitionPenalty).toBe(1.2)
      }
      const [without] = await asked(path, { ...body, repeat_penalty: null }, { defaults })
      expect(without!.sampling.repetitionPenalty).toBe(1.3)
      const error = await refused(path, { ...body, repetition_penalty: 1.1, repeat_penalty: 1.2 })
      expect(error).toMatchObject({ status: 400, param: 'repeat_penalty', code: 'invalid_value' })
    }
  })

  test('to go past the end of the model but not past the stop tokens of the client', async () => {
    const [alone] = await asked('completions', { ...completion, ignore_eos: true })
    expect(alone).toMatchObject({ ignoreEos: true })
    const [both] = await asked('completions', { ...completion, ignore_eos: true, stop_token_ids: [66] })
    expect(both).toMatchObject({ ignoreEos: false, stopTokens: [66] })
  })

  test('with seeds in range, whatever integer the client sent', async () => {
    for (const seed of [-1, 2 ** 60, -(2 ** 63)]) {
      const [request] = await asked('completions', { ...completion, seed })
      expect(Number.isSafeInteger(request!.sampling.seed)).toBe(true)
      expect(request!.sampling.seed).toBeGreaterThanOrEqual(0)
    }
  })

  test('for no more prompts and choices than one request may have', async () => {
    const error = await refused('completions', { ...completion, prompt: ['a', 'b', 'c'], n: 50 })
    expect(error).toMatchObject({ status: 400, param: 'n' })
  })

  test('for nothing with a value of one form that breaks its rules, and says which', async () => {
    const cases: [unknown, string][] = [
      [Array(17).fill('a'), 'stop: Too big: expected array to have <=16 items'],
      ['', 'stop: A stop string has at least one character.'],
      [5, 'stop: Expected a string or a list of strings.'],
      [{}, 'stop: Expected a string or a list of strings.'],
    ]
    for (const [stop, message] of cases)
      expect(await refused('completions', { ...completion, stop })).toMatchObject({ param: 'stop', message })
    const choice = { ...chat, tool_choice: 'any' }
    expect(await refused('chat/completions', choice)).toMatchObject({
      message: expect.stringContaining("Expected 'auto', 'none', 'required' or a function"),
    })
  })

  test('for nothing when the text is certainly too long, before it is encoded', async () => {
    const tokenizer = byteTokenizer()
    tokenizer.encode = () => {
      throw new TypeError('encoded')
    }
    const error = await refused(
      'completions',
      { ...completion, prompt: 'x'.repeat(3_000_000) },
      { tokenizer },
    )
    expect(error).toMatchObject({ status: 400, code: 'context_length_exceeded', param: 'prompt' })
  })
})

test('an embedding of more numbers than there are asks the engine for nothing', async () => {
  const input = [[1], [2]]
  const error = await refused('embeddings', { model, input, dimensions: 5 })
  expect(error).toMatchObject({ status: 400, param: 'dimensions' })
  expect(error).toMatchObject({ message: "dimensions: This model's embeddings have 4 numbers." })
  expect(await asked('embeddings', { model, input, dimensions: 4 })).toHaveLength(2)
})

test('an embedding of a text as long as the context is asked for, one of a longer text is refused as that', async () => {
  const long = 'x'.repeat(513)
  const facts = 'The input has 513 tokens, more than the model context of 512.'
  const cases: [unknown, string, string][] = [
    [long, 'input', facts],
    [bytes(long), 'input', facts],
    [['x', long], 'input.1', facts],
    [[[1], bytes(long)], 'input.1', facts],
    ['x'.repeat(3_000_000), 'input', 'The input of 3000000 characters exceeds the model context.'],
  ]
  for (const [input, param, message] of cases)
    expect(await refused('embeddings', { model, input })).toMatchObject({
      ...{ status: 400, code: 'context_length_exceeded', param, message },
    })
  expect(await asked('embeddings', { model, input: ['x'.repeat(512), 'x'] })).toHaveLength(2)
  expect(await asked('embeddings', { model, input: bytes(long.slice(1)) })).toHaveLength(1)
})

describe('a chat asks the engine', () => {
  test('for the rest of the context, behind the rendered template', async () => {
    const [request] = await asked('chat/completions', {
      model,
      messages: [
        { role: 'developer', content: 'a' },
        {
          role: 'user',
          content: [
            { type: 'text', text: 'b' },
            { type: 'text', text: 'c' },
          ],
        },
      ],
    })
    const { user, end, assistant } = special
    expect(request!.prompt).toEqual([
      ...[user, ...bytes('system: a'), end],
      ...[user, ...bytes('user: b\nc'), end],
      assistant,
    ])
    expect(request!.maxTokens).toBe(512 - request!.prompt.length)
  })

  test('with messages as other clients and servers write them', async () => {
    const written =
      "{% for m in messages %}{{ m.role }} {{ m.name if m.name else '-' }} {{ m.content }} " +
      "{{ m.reasoning_content if m.reasoning_content is defined else '-' }}\n{% endfor %}"
    const calls = [{ id: 'a', type: 'function', function: { name: 'f', arguments: '{}' } }]
    const refusal = { type: 'refusal', refusal: 'No.' }
    const messages = [
      { role: 'user', content: 'Ask f' },
      { role: 'assistant', content: null, reasoning_content: 'f it is', tool_calls: calls },
      { role: 'tool', name: 'f', content: '5', tool_call_id: 'a' },
      { role: 'assistant', content: [{ type: 'text', text: 'Five.' }, refusal], reasoning_content: null },
    ]
    const template = new ChatTemplate(written)
    const [request] = await asked('chat/completions', { model, messages }, { template })
    expect(Buffer.from(request!.prompt).toString()).toBe(
      'user - Ask f -\nassistant -  f it is\ntool f 5 -\nassistant - Five.\nNo. -\n',
    )
    const said = { model, messages: [{ role: 'user', content: [refusal] }] }
    expect(await refused('chat/completions', said)).toMatchObject({ param: 'messages.0.content.0.type' })
  })

  test('for nothing when the text is certainly too long, before what it spells is looked at', async () => {
    const conversations = [
      [{ role: 'user', content: '<|end|>'.repeat(400_000) }],
      Array.from({ length: 4000 }, () => ({ role: 'user', content: '<|end|>'.repeat(100) })),
    ]
    for (const messages of conversations) {
      const template = new ChatTemplate('{% for message in messages %}{{ message.content }}{% endfor %}')
      const render = template.render.bind(template)
      let renderings = 0
      template.render = (conversation) => {
        renderings++
        return render(conversation)
      }
      const error = await refused('chat/completions', { model, messages }, { template })
      expect(error).toMatchObject({ status: 400, code: 'context_length_exceeded', param: 'messages' })
      expect(error).toMatchObject({ message: 'The prompt of 2800000 characters exceeds the model context.' })
      expect(renderings).toBe(1)
    }
  })

  test('for no more of chat_template_kwargs than is looked through in no time', async () => {
    const entries = (count: number) =>
      Array.from({ length: count }, (_, i) => [`k${i}`, '<|end|>'.repeat(50)])
    const given = (count: number) => ({ ...chat, chat_template_kwargs: Object.fromEntries(entries(count)) })
    const error = await refused('chat/completions', given(200))
    expect(error).toMatchObject({ status: 400, code: 'invalid_value', param: 'chat_template_kwargs' })
    expect(error).toMatchObject({
      message: 'chat_template_kwargs: Expected at most 65536 characters of JSON.',
    })
    expect(await asked('chat/completions', given(100))).toHaveLength(1)
  })

  test('for nothing that is not done here, and says which field it was', async () => {
    const tools = [{ type: 'function', function: { name: 'f', parameters: {} } }]
    const image = { type: 'image_url', image_url: { url: 'x' } }
    const cases: [object, string][] = [
      [{ response_format: { type: 'grammar' } }, 'response_format.type'],
      [{ tool_choice: 'required' }, 'tool_choice'],
      [{ tools }, 'tools'],
      [{ tools, tool_choice: 'any' }, 'tool_choice'],
      [{ tools, tool_choice: { type: 'function', function: { name: 'g' } } }, 'tool_choice'],
      [{ audio: {} }, 'audio'],
      [{ functions: [] }, 'functions'],
      [{ messages: [{ role: 'user', content: [image] }] }, 'messages.0.content.0.type'],
      [{ top_logprobs: 2 }, 'top_logprobs'],
    ]
    for (const [fields, param] of cases) {
      expect(await refused('chat/completions', { ...chat, ...fields })).toMatchObject({ status: 400, param })
    }
  })

  test('for nothing with a field that is none, and says which was meant, at any depth', async () => {
    const cases: [object, string, string][] = [
      [{ max_token: 3 }, 'max_token', 'Unknown field; did you mean max_tokens?'],
      [
        { stream: true, stream_options: { include_usge: true } },
        'stream_options.include_usge',
        'include_usage?',
      ],
      [{ include_usage: true }, 'include_usage', 'stream_options.include_usage?'],
      [{ messages: [{ role: 'user', content: 'x', nane: 'y' }] }, 'messages.0.nane', 'did you mean name?'],
      [{ colour: 'red' }, 'colour', 'colour: Unknown field.'],
    ]
    for (const [fields, param, message] of cases)
      expect(await refused('chat/completions', { ...chat, ...fields })).toMatchObject({
        ...{ status: 400, param, code: 'unknown_parameter' },
        message: expect.stringContaining(message),
      })
    const prompt = { model, prompt: 'x', max_tokenz: 3 }
    expect(await refused('completions', prompt)).toMatchObject({
      message: expect.stringContaining('did you mean max_tokens?'),
    })
    expect(await refused('embeddings', { model, input: 'x', inputs: 'x' })).toMatchObject({
      message: expect.stringContaining('did you mean input?'),
    })
  })

  test('for nothing with a message that is wrong, and says where', async () => {
    const cases: [unknown, string][] = [
      [[], 'messages'],
      ['hello', 'messages'],
      [[{ role: 'user' }], 'messages.0.content'],
      [[{ role: 'user', content: 5 }], 'messages.0.content'],
      [
        [
          { role: 'user', content: 'x' },
          { role: 'king', content: 'x' },
        ],
        'messages.1.role',
      ],
      [[{ role: 'user', content: [{ type: 'text' }] }], 'messages.0.content.0.text'],
      [[{ role: 'tool', content: 'x' }], 'messages.0.tool_call_id'],
    ]
    for (const [messages, param] of cases) {
      expect(await refused('chat/completions', { model, messages })).toMatchObject({ status: 400, param })
    }
  })

  test('for nothing when the template refuses the messages, or when there is none', async () => {
    const tool = { ...chat, messages: [{ role: 'tool', content: 'x', tool_call_id: 'y' }] }
    const error = await refused('chat/completions', tool)
    expect(error).toMatchObject({ status: 400, param: 'messages', code: 'chat_template_refused' })
    expect(JSON.stringify(error)).toContain('no tool messages here')
    const without = await refused('chat/completions', chat, { template: undefined as never })
    expect(without).toMatchObject({ status: 400, code: 'no_chat_template' })
  })

  test('with tools only when the template shows them to the model', async () => {
    const template = new ChatTemplate('{{ tools | tojson if tools else "none" }}')
    const tools = [{ type: 'function', function: { name: 'f' } }]
    const decode = (tokens: readonly number[]) => Buffer.from(tokens).toString()
    const [shown] = await asked('chat/completions', { ...chat, tools }, { template })
    expect(decode(shown!.prompt)).toContain('"name": "f"')
    const [hidden] = await asked('chat/completions', { ...chat, tools, tool_choice: 'none' }, { template })
    expect(decode(hidden!.prompt)).toBe('none')
  })
})
