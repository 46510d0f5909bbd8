import { connect } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import OpenAI from 'openai'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { block, bytes } from './byte-tokenizer.ts'
import { events, harness, model, post } from './harness.ts'

const streamed = { model, prompt: 'hello', max_tokens: 8, temperature: 0, stream: true }

interface Chunk {
  choices: { index: number; text: string; finish_reason: string | null }[]
  error?: { code: string; message: string }
}

function textOf(chunks: readonly unknown[]): string {
  return (chunks as Chunk[]).map((chunk) => chunk.choices?.[0]?.text ?? '').join('')
}

describe('a stream', () => {
  test('brings one event for each iteration, whatever the number of tokens in it', async () => {
    await using server = await harness()
    server.engine.script = () => ({ tokens: bytes('abcdefghijkl'), tokensPerIteration: 4 })
    const chunks = await events(await post(`${server.url}/v1/completions`, { ...streamed, max_tokens: 12 }))
    expect(chunks.map((chunk) => (chunk as Chunk).choices?.[0]?.text)).toEqual([
      'abcd',
      'efgh',
      'ijkl',
      undefined,
    ])
    expect(chunks.at(-1)).toBe('[DONE]')
  })

  test('never cuts a character, and sends nothing while one is incomplete', async () => {
    await using server = await harness()
    server.engine.script = () => ({ tokens: bytes('한글👧') })
    const chunks = await events(await post(`${server.url}/v1/completions`, { ...streamed, max_tokens: 99 }))
    expect(chunks.slice(0, -1).map((chunk) => (chunk as Chunk).choices[0]!.text)).toEqual(['한', '글', '👧'])
    server.engine.script = () => ({ tokens: bytes('한글').slice(0, 5) })
    const cut = await events(await post(`${server.url}/v1/completions`, { ...streamed, max_tokens: 99 }))
    expect(textOf(cut)).toBe('한\ufffd')
  })

  test('ends at a stop string that straddles tokens, and the engine is told to stop', async () => {
    await using server = await harness()
    server.engine.script = () => ({ tokens: bytes('one two END and never this') })
    const body = { ...streamed, stop: ['END'], max_tokens: 99, stream_options: { include_usage: true } }
    const chunks = await events(await post(`${server.url}/v1/completions`, body))
    expect(textOf(chunks)).toBe('one two ')
    expect((chunks.at(-3) as Chunk).choices[0]!.finish_reason).toBe('stop')
    expect(chunks.at(-2)).toMatchObject({
      usage: { completion_tokens: 11, prompt_tokens_details: { cached_tokens: 2 } },
    })
    expect(server.engine.cancelled).toEqual([server.engine.submitted[0]!.id])
  })

  test('sends comments while there is nothing to say', async () => {
    await using server = await harness({ limits: { keepAliveMs: 1 } })
    server.engine.pace = 'manual'
    const response = await post(`${server.url}/v1/completions`, streamed)
    expect(response.headers.get('content-type')).toContain('text/event-stream')
    const reader = response.body!.getReader()
    expect(Buffer.from((await reader.read()).value!).toString()).toMatch(/^(: still here\n\n)+$/)
    await reader.cancel()
  })

  test('that fails says so as an event that the official client throws, and the other choices are cancelled', async () => {
    await using server = await harness()
    server.engine.script = ({ sampling }) =>
      sampling.seed === 5
        ? { tokens: bytes('abc'), end: { reason: 'failed', code: 'device' } }
        : { tokens: bytes('x'.repeat(400)) }
    const body = { ...streamed, n: 2, seed: 5, max_tokens: 300 }
    const chunks = await events(await post(`${server.url}/v1/completions`, body))
    expect(chunks.at(-1)).toMatchObject({ error: { code: 'device', type: 'server_error' } })
    await server.engine.until(() => server.engine.runningCount === 0)
    const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 })
    const read = async () => {
      for await (const chunk of await client.completions.create({ ...body, stream: true })) void chunk
    }
    await expect(read()).rejects.toMatchObject({ code: 'device' })
  })

  test('failed without a stream is a 500, and a wait that took too long is a 429 with Retry-After', async () => {
    await using server = await harness()
    server.engine.script = () => ({ tokens: [], end: { reason: 'failed', code: 'numerics' } })
    expect((await post(`${server.url}/v1/completions`, { ...streamed, stream: false })).status).toBe(500)
    server.engine.script = () => ({
      tokens: [],
      end: { reason: 'failed', code: 'queue_timeout', retryAfterMs: 2500 },
    })
    const late = await post(`${server.url}/v1/completions`, { ...streamed, stream: false })
    expect([late.status, late.headers.get('retry-after')]).toEqual([429, '3'])
  })
})

describe('a refusal by the engine', () => {
  test('is an HTTP status, also for a stream, and nothing of the request stays in the engine', async () => {
    await using server = await harness()
    server.engine.pace = 'manual'
    server.engine.admission = ({ sampling }) =>
      sampling.seed === 9 ? { ok: true } : { ok: false, code: 'queue_full', retryAfterMs: 1200 }
    const response = await post(`${server.url}/v1/completions`, { ...streamed, n: 3, seed: 9 })
    expect([response.status, response.headers.get('retry-after')]).toEqual([429, '2'])
    expect(await response.json()).toMatchObject({ error: { type: 'rate_limit_error', code: 'queue_full' } })
    await server.engine.until(() => server.engine.runningCount === 0)
    expect(server.engine.submitted).toHaveLength(3)
  })

  test('names the field of the endpoint that was asked', async () => {
    await using server = await harness()
    server.engine.admission = () => ({ ok: false, code: 'cache_too_small' })
    const completion = await post(`${server.url}/v1/completions`, streamed)
    expect(await completion.json()).toMatchObject({ error: { param: 'prompt' } })
    const messages = [{ role: 'user', content: 'x' }]
    const chat = await post(`${server.url}/v1/chat/completions`, { model, messages })
    expect(await chat.json()).toMatchObject({ error: { param: 'messages' } })
  })

  test('by dying is a 503, and the next request is served', async () => {
    await using server = await harness()
    server.engine.admission = () => Promise.reject(new Error('the engine is gone'))
    expect((await post(`${server.url}/v1/completions`, streamed)).status).toBe(503)
    server.engine.admission = () => ({ ok: true })
    expect((await post(`${server.url}/v1/completions`, streamed)).status).toBe(200)
  })
})

describe('a client that goes away', () => {
  const states = {
    'before the engine has taken the request': { iterations: 0, isTaken: false },
    'while it waits': { iterations: 0, isTaken: true },
    'in the middle of its prompt': { iterations: 2, isTaken: true },
    'while it decodes': { iterations: 5, isTaken: true },
  }
  for (const [when, { iterations, isTaken }] of Object.entries(states)) {
    for (const stream of [true, false]) {
      for (const n of [1, 3]) {
        test(`${when} is cancelled (stream ${stream}, n ${n})`, async () => {
          await using server = await harness()
          const { engine } = server
          engine.pace = 'manual'
          engine.script = () => ({ tokens: bytes('x'.repeat(300)), promptIterations: 4 })
          let admit: (() => void) | undefined
          const gate = new Promise<void>((resolve) => {
            admit = resolve
          })
          if (!isTaken) engine.admission = () => gate.then(() => ({ ok: true }))
          const client = new AbortController()
          const body = { ...streamed, stream, n, max_tokens: 300, temperature: 1 }
          const answer = post(`${server.url}/v1/completions`, body, { signal: client.signal })
          const outcome = answer.then((response) => response.text()).catch((error: Error) => error.name)
          await engine.until(() => (isTaken ? engine.runningCount : engine.submitted.length) === n)
          for (let count = 0; count < iterations; count++) engine.iterate()
          client.abort()
          await engine.until(() => engine.cancelled.length >= n)
          admit?.()
          if (!isTaken) await engine.until(() => engine.cancelled.length === 2 * n)
          await engine.until(() => engine.runningCount === 0)
          expect(new Set(engine.cancelled)).toEqual(new Set(engine.submitted.map(({ id }) => id)))
          expect(await outcome).toBe('AbortError')
          expect(server.errors).toEqual([])
        })
      }
    }
  }

  test('before the engine has taken the request leaves no timer that keeps the process', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    onTestFinished(() => void vi.useRealTimers())
    await using server = await harness()
    const { engine } = server
    let admit!: () => void
    const gate = new Promise<void>((resolve) => {
      admit = resolve
    })
    engine.admission = () => gate.then(() => ({ ok: true }))
    const client = new AbortController()
    const headers = { 'x-ropeway-queue': '1' }
    const answer = post(`${server.url}/v1/completions`, streamed, { headers, signal: client.signal })
    const outcome = answer.catch((error: Error) => error.name)
    await engine.until(() => engine.submitted.length === 1)
    client.abort()
    expect(await outcome).toBe('AbortError')
    await engine.until(() => engine.cancelled.length === 1)
    admit()
    await engine.until(() => engine.cancelled.length === 2 && engine.runningCount === 0)
    await turn()
    expect(vi.getTimerCount()).toBe(0)
    expect(server.errors).toEqual([])
  })

  test('is cancelled in all that it asked one behind the other on one connection', async () => {
    await using server = await harness()
    const { engine } = server
    engine.pace = 'manual'
    const body = JSON.stringify(streamed)
    const head = 'POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n'
    const request = `${head}content-length: ${body.length}\r\n\r\n${body}`
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1')
    socket.write(request.repeat(3))
    await engine.until(() => engine.runningCount === 3)
    socket.destroy()
    await engine.until(() => engine.cancelled.length === 3 && engine.runningCount === 0)
    // Nothing is left to answer: an hour's limit is not used.
    await server.server.close(3_600_000)
    expect(server.errors).toEqual([])
  })

  test('by not reading is cut at the limit, and its request is cancelled', async () => {
    await using server = await harness({ limits: { unreadBytesMax: 50_000 } })
    const { engine } = server
    engine.info = { ...engine.info, contextMax: 10_000, cacheTokens: 10_000 }
    engine.script = () => ({ tokens: Array(9000).fill(block) })
    const body = JSON.stringify({ ...streamed, max_tokens: 9000 })
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1')
    socket.pause()
    socket.write(
      'POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n' +
        `content-length: ${body.length}\r\n\r\n${body}`,
    )
    await engine.until(() => engine.cancelled.length === 1)
    await engine.until(() => engine.runningCount === 0)
    socket.destroy()
    expect((await post(`${server.url}/v1/completions`, { ...streamed, stream: false })).status).toBe(200)
  })

  test('by never taking a complete answer is cut after the wait that is allowed', async () => {
    await using server = await harness({ limits: { unreadMs: 20 } })
    const { engine } = server
    engine.info = { ...engine.info, contextMax: 10_000, cacheTokens: 10_000 }
    // More than the kernel's buffers between the two take.
    engine.script = () => ({ tokens: Array(8000).fill(block), tokensPerIteration: 8000 })
    const body = JSON.stringify({ ...streamed, stream: false, max_tokens: 9000 })
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1')
    socket.pause()
    const cut = new Promise<void>((resolve) => {
      server.server.server.once('connection', (accepted) => accepted.once('close', () => resolve()))
    })
    socket.write(
      'POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n' +
        `content-length: ${body.length}\r\n\r\n${body}`,
    )
    await cut
    socket.destroy()
  })
})
