import OpenAI, { BadRequestError, NotFoundError } from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { EngineClient } from '../../src/serve/messages.ts'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts'
import { sharedData } from '../shared.ts'
import { fuzzedBody } from './fuzz.ts'
import { OpenApi } from './openapi.ts'

/** A server under test: HTTP over an engine, whichever it is. */
export interface SuiteServer {
  url: string
  /** The one model that it serves. */
  model: string
  apiKey?: string
  engine: EngineClient
  tokenizer: Tokenizer
  hasChat: boolean
  close(): Promise<void>
}

const prompt = 'Once upon a time there was'
const document = sharedData('conformance', 'openai-openapi.yaml.gz')
const openapi = document === undefined ? undefined : new OpenApi(document)

/**
 * What every server of this surface does, whatever model answers, seen through the official client. Output is
 * compared only where temperature 0 or a seed fixes it.
 */
export function openAiSuite(name: string, makeServer: () => Promise<SuiteServer>): void {
  describe(name, () => {
    let server: SuiteServer
    let client: OpenAI
    const greedy = () =>
      ({ model: server.model, prompt, temperature: 0, max_tokens: 12, ignore_eos: true }) as const
    const complete = async (fields: object) =>
      await client.completions.create({ ...greedy(), stream: false, ...fields })
    const expectConforms = (schema: string, value: unknown) => {
      if (openapi === undefined) return
      expect(openapi.complaints(schema, JSON.parse(JSON.stringify(value)))).toEqual([])
    }
    const failure = async (fields: object) => {
      const error = await complete(fields).then(
        () => undefined,
        (thrown: unknown) => thrown,
      )
      expect(error).toBeInstanceOf(BadRequestError)
      return error as BadRequestError
    }

    beforeAll(async () => {
      server = await makeServer()
      client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: server.apiKey ?? 'none', maxRetries: 0 })
    })
    afterAll(async () => {
      await server.close()
    })

    test('the model is listed and can be looked up, another is not found', async () => {
      const models = (await client.models.list()).data
      expect(models.map(({ id }) => id)).toEqual([server.model])
      expectConforms('Model', await client.models.retrieve(server.model))
      const missing = await client.models.retrieve('no/such').catch((error: unknown) => error)
      expect(missing).toBeInstanceOf(NotFoundError)
      expect(missing).toMatchObject({ code: 'model_not_found', param: 'model' })
      await expect(complete({ model: 'no/such' })).rejects.toBeInstanceOf(NotFoundError)
    })

    test('a completion has the shape of the API description and a usage that adds up', async () => {
      const answer = await complete({ logprobs: 2 })
      expectConforms('CreateCompletionResponse', answer)
      expect(answer.choices[0]!.finish_reason).toBe('length')
      expect(answer.usage).toMatchObject({
        prompt_tokens: server.tokenizer.encode(prompt).length,
        completion_tokens: 12,
        total_tokens: server.tokenizer.encode(prompt).length + 12,
      })
    })

    test('a completion is sixteen tokens long unless told otherwise', async () => {
      expect((await complete({ max_tokens: null })).usage!.completion_tokens).toBe(16)
    })

    test('a streamed completion is the same text as one at once, and ends with its usage', async () => {
      const atOnce = await complete({})
      const chunks: OpenAI.Completion[] = []
      const stream = await client.completions.create({
        ...greedy(),
        stream: true,
        stream_options: { include_usage: true },
      })
      for await (const chunk of stream) chunks.push(chunk)
      const last = chunks.at(-1)!
      expectConforms('CompletionUsage', last.usage)
      expect(chunks.map((chunk) => chunk.choices[0]?.text ?? '').join('')).toBe(atOnce.choices[0]!.text)
      expect(chunks.at(-2)!.choices[0]!.finish_reason).toBe('length')
      expect(last.choices).toEqual([])
      expect(last.usage!.completion_tokens).toBe(12)
      expect(chunks.slice(0, -1).every(({ usage }) => usage === null)).toBe(true)
    })

    test('a prompt of token ids is the same prompt as its text', async () => {
      const asText = await complete({})
      const asTokens = await complete({ prompt: server.tokenizer.encode(prompt) })
      expect(asTokens.choices[0]!.text).toBe(asText.choices[0]!.text)
      expect(asTokens.usage!.prompt_tokens).toBe(asText.usage!.prompt_tokens)
    })

    test('an embedding has the shape of the API description and length 1, in either encoding', async () => {
      const ask = { model: server.model, input: [prompt, 'The dog'] }
      const floats = await client.embeddings.create({ ...ask, encoding_format: 'float' })
      expectConforms('CreateEmbeddingResponse', floats)
      // Base64 is what the client asks for by itself, to turn it into numbers again.
      const bytes = await client.embeddings.create(ask)
      expect(bytes.data).toEqual(floats.data)
      expect(floats.data.map(({ index }) => index)).toEqual([0, 1])
      const tokens = ask.input.map((text) => server.tokenizer.encode(text))
      const count = tokens[0]!.length + tokens[1]!.length
      expect(floats.usage).toEqual({ prompt_tokens: count, total_tokens: count })
      for (const { embedding } of floats.data) expect(Math.hypot(...embedding)).toBeCloseTo(1, 5)
      const alone = await client.embeddings.create({ ...ask, input: tokens[1]! })
      expect(alone.data[0]!.embedding).toEqual(floats.data[1]!.embedding)
      const short = await client.embeddings.create({ ...ask, dimensions: 2 })
      expect(short.data.map(({ embedding }) => embedding.length)).toEqual([2, 2])
      expect(Math.hypot(...short.data[0]!.embedding)).toBeCloseTo(1, 5)
    })

    test('embeddings that cannot be made are refused by the field', async () => {
      const refused = async (fields: object) =>
        await client.embeddings
          .create({ model: server.model, input: prompt, ...fields })
          .catch((error: unknown) => error)
      expect(await refused({ input: [] })).toMatchObject({ status: 400, param: 'input' })
      expect(await refused({ dimensions: 1_000_000 })).toMatchObject({ status: 400, param: 'dimensions' })
      expect(await refused({ encoding_format: 'int8' })).toMatchObject({ param: 'encoding_format' })
      expect(await refused({ input: [[1_000_000]] })).toMatchObject({ code: 'token_out_of_range' })
      expect(await refused({ temperature: 1 })).toMatchObject({ code: 'unknown_parameter' })
      const long = Array.from({ length: server.engine.info.contextMax + 1 }, () => 5)
      expect(await refused({ input: long })).toMatchObject({ code: 'context_length_exceeded' })
    })

    test('several prompts are answered in their order, each as it is alone', async () => {
      const prompts = [prompt, 'The dog', 'One day']
      const alone = await Promise.all(prompts.map((text) => complete({ prompt: text })))
      const together = await complete({ prompt: prompts })
      expect(together.choices.map(({ index }) => index)).toEqual([0, 1, 2])
      expect(together.choices.map(({ text }) => text)).toEqual(alone.map(({ choices }) => choices[0]!.text))
      const asTokens = await complete({ prompt: prompts.map((text) => server.tokenizer.encode(text)) })
      expect(asTokens.choices.map(({ text }) => text)).toEqual(together.choices.map(({ text }) => text))
    })

    test('a seed fixes all n answers, which differ from one another', async () => {
      const fields = { temperature: 1.5, seed: 7, n: 3, max_tokens: 20 }
      const [first, again] = await Promise.all([complete(fields), complete(fields)])
      const texts = first.choices.map(({ text }) => text)
      expect(again.choices.map(({ text }) => text)).toEqual(texts)
      expect(new Set(texts).size).toBe(3)
      const { prompt_tokens } = first.usage!
      expect(prompt_tokens).toBe(server.tokenizer.encode(prompt).length)
      expect((await complete({ ...fields, n: 1 })).choices[0]!.text).toBe(texts[0])
    })

    test('a stop string ends the text before itself and is never shown, streamed or not', async () => {
      const whole = (await complete({})).choices[0]!.text
      const stop = whole.slice(4, 7)
      const upToStop = whole.slice(0, whole.indexOf(stop))
      const atOnce = await complete({ stop: ['never said by anyone', stop] })
      expect(atOnce.choices[0]).toMatchObject({ text: upToStop, finish_reason: 'stop' })
      const stream = await client.completions.create({ ...greedy(), stop, stream: true })
      let streamed = ''
      for await (const chunk of stream) streamed += chunk.choices[0]!.text
      expect(streamed).toBe(upToStop)
    })

    test('echo puts the prompt before the text, and log-probabilities say where each token begins', async () => {
      const plain = await complete({})
      const echoed = (await complete({ echo: true, logprobs: 1 })).choices[0]!
      expect(echoed.text).toBe(prompt + plain.choices[0]!.text)
      const { tokens, text_offset, token_logprobs, top_logprobs } = echoed.logprobs!
      const count = server.tokenizer.encode(prompt).length + 12
      for (const list of [tokens, text_offset, token_logprobs, top_logprobs]) expect(list).toHaveLength(count)
      expect(token_logprobs![0]).toBeNull()
      const shown = server.tokenizer.encode(prompt).length
      for (const [index, token] of tokens!.entries()) {
        if (index < shown) continue
        expect(echoed.text.startsWith(token, text_offset![index])).toBe(true)
      }
      const measured = await complete({ echo: true, logprobs: 0, max_tokens: 0 })
      expect(measured.choices[0]!.text).toBe(prompt)
      expect(measured.choices[0]!.logprobs!.tokens).toHaveLength(shown)
      expect(measured.usage!.completion_tokens).toBe(0)
    })

    test('chat streams the role first, then the text that it gives at once, then the usage', async (context) => {
      if (!server.hasChat) context.skip('the model has no chat template')
      const body = {
        model: server.model,
        messages: [
          { role: 'developer' as const, content: 'Be brief.' },
          { role: 'user' as const, content: [{ type: 'text' as const, text: 'Tell me a story.' }] },
        ],
        temperature: 0,
        max_completion_tokens: 12,
        logprobs: true,
        top_logprobs: 2,
      }
      const atOnce = await client.chat.completions.create(body)
      expectConforms('CreateChatCompletionResponse', atOnce)
      const stream = await client.chat.completions.create({
        ...body,
        stream: true,
        stream_options: { include_usage: true },
      })
      const chunks: OpenAI.ChatCompletionChunk[] = []
      for await (const chunk of stream) chunks.push(chunk)
      for (const chunk of chunks) expectConforms('CreateChatCompletionStreamResponse', chunk)
      expect(chunks[0]!.choices[0]!.delta).toEqual({ role: 'assistant', content: '' })
      const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')
      expect(text).toBe(atOnce.choices[0]!.message.content)
      const logprobs = chunks.flatMap((chunk) => chunk.choices[0]?.logprobs?.content ?? [])
      expect(logprobs).toEqual(atOnce.choices[0]!.logprobs!.content)
      expect(chunks.at(-1)!.usage!.completion_tokens).toBe(atOnce.usage!.completion_tokens)
      expect(atOnce.usage!.prompt_tokens_details!.cached_tokens).toBeGreaterThanOrEqual(0)
    })

    test('a client that breaks off leaves nothing running in the engine', async () => {
      for (const n of [1, 3]) {
        const stream = await client.completions.create({
          ...greedy(),
          max_tokens: server.engine.info.contextMax - 40,
          n,
          temperature: 1,
          stream: true,
        })
        for await (const _ of stream) break
        await idle(server.engine)
      }
    })

    test('a wrong field is refused by its name, and the engine goes on', async () => {
      const cases: [object, string][] = [
        [{ temperature: 2.5 }, 'temperature'],
        [{ top_p: 0 }, 'top_p'],
        [{ max_tokens: -1 }, 'max_tokens'],
        [{ n: 0 }, 'n'],
        [{ stop: ['a', ''] }, 'stop.1'],
        [{ stop: 5 }, 'stop'],
        [{ prompt: { text: 'x' } }, 'prompt'],
        [{ prompt: [1, 'x'] }, 'prompt.1'],
        [{ prompt: [server.engine.info.vocabularySize] }, 'prompt'],
        [{ prompt: [[]] }, 'prompt'],
        [{ logprobs: 1000 }, 'logprobs'],
        [{ logit_bias: { x: 1 } }, 'logit_bias.x'],
        [{ logit_bias: { '2000000000': 1 } }, 'logit_bias.2000000000'],
        [{ best_of: 3 }, 'best_of'],
        [{ suffix: 'end' }, 'suffix'],
        [{ seed: 0.5 }, 'seed'],
        [{ stream_options: { include_usage: true } }, 'stream_options'],
        [{ tempreature: 1 }, 'tempreature'],
        [{ prompt: 'a '.repeat(server.engine.info.contextMax + 1) }, 'prompt'],
        [{ max_tokens: server.engine.info.contextMax }, 'prompt'],
      ]
      for (const [fields, param] of cases) expect(await failure(fields)).toMatchObject({ status: 400, param })
      expect((await complete({})).usage!.completion_tokens).toBe(12)
    })

    test('no body, however strange, is answered with a server error', async () => {
      for (let seed = 0; seed < 150; seed++) {
        const { path, body } = fuzzedBody(seed, server.model)
        const response = await fetch(server.url + path, {
          method: 'POST',
          headers: { 'content-type': 'application/json', authorization: `Bearer ${server.apiKey ?? 'none'}` },
          body,
        })
        const text = await response.text()
        expect(response.status, `seed ${seed}: ${body.slice(0, 300)}\n${text}`).toBeLessThan(500)
        if (response.status >= 400) expectConforms('ErrorResponse', JSON.parse(text))
      }
      expect((await fetch(`${server.url}/health`)).status).toBe(200)
      expect((await complete({})).usage!.completion_tokens).toBe(12)
      await idle(server.engine)
    })
  })
}

/** Resolves when the engine holds no request; asking takes a turn of the engine each time. */
async function idle(engine: EngineClient): Promise<void> {
  for (let asked = 0; asked < 100_000; asked++) {
    const { running, waiting } = await engine.gauges()
    if (running + waiting === 0) return
    await new Promise<void>((resolve) => setImmediate(resolve))
  }
  throw new Error('the engine still holds requests')
}
