import { connect, type Socket } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { EngineGauges } from '../../src/serve/messages.ts'
import { events, post } from '../openai/harness.ts'
import { sharedData } from '../shared.ts'
import { type Served, servedModel, serveEngine, serveReal } from './served.ts'

const stories = sharedData('models', 'stories260K', 'hf')
const endless = {
  model: servedModel,
  prompt: 'Once upon a time',
  max_tokens: 480,
  ignore_eos: true,
  temperature: 1,
}

/** Asks for the gauges until they are as wanted. */
async function until({ engine }: Served, wanted: (gauges: EngineGauges) => boolean): Promise<EngineGauges> {
  for (;;) {
    const gauges = await engine.gauges()
    if (wanted(gauges)) return gauges
  }
}

const isEmpty = ({ running, waiting }: EngineGauges) => running + waiting === 0

/** Asks for the gauges behind the next cancel, in the order of the messages: at most one iteration lies between. */
function gaugesBehindCancel({ engine }: Served): Promise<EngineGauges> {
  return new Promise((resolve) => {
    engine.cancel = (id) => {
      Reflect.deleteProperty(engine, 'cancel')
      engine.cancel(id)
      resolve(engine.gauges())
    }
  })
}

describe.skipIf(stories === undefined)('one request at a time, two tokens an iteration', () => {
  let served: Served
  beforeAll(async () => {
    const scheduler = { stepTokensMax: 2, runningMax: 1, prefixCache: false }
    served = await serveReal(stories!, { scheduler }, { limits: { queueReportMs: 5 } })
  })
  afterAll(async () => await served[Symbol.asyncDispose]())

  for (const stream of [true, false]) {
    test(`a client that goes away frees its blocks within one iteration: decoding, stream ${stream}`, async () => {
      const { generatedTokens } = await served.engine.gauges()
      const client = new AbortController()
      const answer = post(`${served.url}/v1/completions`, { ...endless, stream }, { signal: client.signal })
      const outcome = answer.then((response) => response.text()).catch((error: Error) => error.name)
      await until(served, (gauges) => gauges.generatedTokens > generatedTokens + 3)
      const behind = gaugesBehindCancel(served)
      client.abort()
      expect(await behind).toMatchObject({ running: 0, waiting: 0, blocksHeld: 0 })
      expect(await outcome).toBe('AbortError')
    })

    test(`a client that goes away frees its blocks within one iteration: mid-prompt, stream ${stream}`, async () => {
      const before = await served.engine.gauges()
      const client = new AbortController()
      const body = { ...endless, prompt: Array(500).fill(403), max_tokens: 10, stream }
      const answer = post(`${served.url}/v1/completions`, body, { signal: client.signal })
      const outcome = answer.then((response) => response.text()).catch((error: Error) => error.name)
      const during = await until(served, ({ running, blocksHeld }) => running === 1 && blocksHeld > 0)
      expect(during.generatedTokens).toBe(before.generatedTokens)
      const behind = gaugesBehindCancel(served)
      client.abort()
      expect(await behind).toMatchObject({ running: 0, waiting: 0, blocksHeld: 0 })
      expect(await outcome).toBe('AbortError')
    })

    test(`a client that goes away leaves the queue at once, and who runs is not disturbed: stream ${stream}`, async () => {
      const first = post(`${served.url}/v1/completions`, { ...endless, seed: 3 })
      await until(served, ({ running }) => running === 1)
      const client = new AbortController()
      const answer = post(`${served.url}/v1/completions`, { ...endless, stream }, { signal: client.signal })
      const outcome = answer.then((response) => response.text()).catch((error: Error) => error.name)
      await until(served, ({ waiting }) => waiting === 1)
      const behind = gaugesBehindCancel(served)
      client.abort()
      expect(await behind).toMatchObject({ waiting: 0 })
      expect(await outcome).toBe('AbortError')
      const text = (await (await first).json()) as { usage: object }
      expect(text.usage).toMatchObject({ completion_tokens: 480 })
    })
  }

  test('a waiting client hears its place in headers and comments, and its times add up to its latency', async () => {
    const running = post(`${served.url}/v1/completions`, endless)
    await until(served, (gauges) => gauges.running === 1)
    const ahead = post(`${served.url}/v1/completions`, { ...endless, max_tokens: 5 })
    await until(served, ({ waiting }) => waiting === 1)
    const sentMs = performance.now()
    const body = { ...endless, max_tokens: 5, stream: true, explain: true }
    const answer = await post(`${served.url}/v1/completions`, body, { headers: { 'x-ropeway-queue': '1' } })
    const headers = (name: string) => Number(answer.headers.get(`x-ropeway-queue-${name}`))
    expect(headers('position')).toBe(1)
    expect(headers('expected-start-ms')).toBeGreaterThan(0)
    expect(headers('low-ms')).toBeLessThanOrEqual(headers('expected-start-ms'))
    expect(headers('high-ms')).toBeGreaterThanOrEqual(headers('expected-start-ms'))
    const text = await answer.text()
    const latencyMs = performance.now() - sentMs
    expect(text).toMatch(/^: queue position=1 expected_start_ms=\d+ low_ms=\d+ high_ms=\d+\n\n/)
    const chunks = await events(new Response(text))
    const { ropeway_timing } = (chunks.at(-2) as { usage: { ropeway_timing: Record<string, number> } }).usage
    const { total_ms, ...parts } = ropeway_timing
    expect(Object.values(parts).reduce((sum, ms) => sum + ms, 0)).toBeCloseTo(total_ms!, 6)
    expect(total_ms).toBeLessThanOrEqual(latencyMs)
    expect(parts.queue_ms).toBeGreaterThan(latencyMs / 2)
    await Promise.all([running, ahead])
  })
})

describe.skipIf(stories === undefined)('an engine with no patience', () => {
  test('refuses with 429 and Retry-After what finds the queue full, and what waits too long', async () => {
    const scheduler = { stepTokensMax: 2, runningMax: 1, waitingMax: 2, queueLimitMs: 50 }
    await using served = await serveReal(stories!, { scheduler })
    const url = `${served.url}/v1/completions`
    const running = post(url, endless)
    await until(served, (gauges) => gauges.running === 1)
    const crowd = await post(url, { ...endless, n: 4 })
    expect(crowd.status).toBe(429)
    expect(Number(crowd.headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
    expect(await crowd.json()).toMatchObject({ error: { code: 'queue_full', type: 'rate_limit_error' } })
    await until(served, ({ waiting }) => waiting === 0)
    const [late, streamed] = await Promise.all([post(url, endless), post(url, { ...endless, stream: true })])
    expect(late.status).toBe(429)
    expect(Number(late.headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
    expect(await late.json()).toMatchObject({ error: { code: 'queue_timeout', type: 'rate_limit_error' } })
    expect(await events(streamed)).toMatchObject([{ error: { code: 'queue_timeout' } }])
    expect((await running).status).toBe(200)
  })
})

describe.skipIf(stories === undefined)('many requests at a time', () => {
  let served: Served
  beforeAll(async () => {
    served = await serveReal(stories!, { cacheTokens: 16_384 }, { limits: { unreadBytesMax: 100_000 } })
  })
  afterAll(async () => await served[Symbol.asyncDispose]())

  test('a client that stops reading is cut at the limit, and what it asked for leaves the engine', async () => {
    let accepted: Socket | undefined
    served.server.server.once('connection', (socket) => {
      accepted = socket
    })
    const body = JSON.stringify({ ...endless, n: 32, logprobs: 20, stream: true })
    const socket = connect(Number(new URL(served.url).port), '127.0.0.1')
    socket.pause()
    socket.write(
      'POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n' +
        `content-length: ${body.length}\r\n\r\n${body}`,
    )
    const before = await until(served, ({ running }) => running > 0)
    let mostUnread = 0
    const after = await until(served, (gauges) => {
      mostUnread = Math.max(mostUnread, accepted?.writableLength ?? 0)
      return isEmpty(gauges)
    })
    expect(accepted!.destroyed).toBe(true)
    expect(mostUnread).toBeLessThan(200_000)
    expect(after.blocksHeld).toBe(0)
    // It was cut and did not come to its end: the answer is larger than all buffers on the way.
    expect(after.generatedTokens - before.generatedTokens).toBeLessThan(32 * 480)
    socket.destroy()
  })

  test('a pinned prompt keeps its blocks, and the next request with it finds them', async () => {
    const prompt = Array.from({ length: 200 }, (_, index) => 300 + (index % 100))
    const url = `${served.url}/v1/completions`
    await post(url, { ...endless, prompt, max_tokens: 1, pin_prefix_seconds: 60 })
    expect((await served.engine.gauges()).blocksPinned).toBeGreaterThan(0)
    const again = (await (await post(url, { ...endless, prompt, max_tokens: 1 })).json()) as { usage: object }
    expect(again.usage).toMatchObject({ prompt_tokens_details: { cached_tokens: expect.any(Number) } })
    expect(JSON.stringify(again.usage)).not.toContain('"cached_tokens":0')
  })

  test('eight streams come through a native abort of the engine with the text that they would have had', async () => {
    await using other = await serveEngine(served.engine, stories!)
    const bodies = Array.from({ length: 8 }, (_, index) => ({
      ...endless,
      prompt: `Once upon a time ${index}`,
      max_tokens: 200,
      stream: true,
      explain: true,
      ...(index % 2 === 0 ? { temperature: 0 } : { seed: index }),
    }))
    const run = async (onText: (length: number) => void) =>
      await Promise.all(
        bodies.map(async (body) => {
          const answer = await post(`${other.url}/v1/completions`, body)
          let text = ''
          for await (const bytes of answer.body!) {
            text += Buffer.from(bytes).toString()
            onText(text.length)
          }
          const chunks = (await events(new Response(text))) as {
            choices?: { text: string; finish_reason: string | null }[]
            usage?: { ropeway_timing: { preempted_ms: number } }
          }[]
          return {
            text: chunks.map((chunk) => chunk.choices?.[0]?.text ?? '').join(''),
            end: chunks.at(-3)!.choices![0]!.finish_reason,
            preemptedMs: chunks.at(-2)!.usage!.ropeway_timing.preempted_ms,
          }
        }),
      )
    const undisturbed = await run(() => undefined)
    const { pid } = served.engine
    const disturbed = await run((length) => {
      if (length > 4000 && served.engine.pid === pid && served.engine.accepting) process.kill(pid!, 'SIGABRT')
    })
    expect(served.engine.pid).not.toBe(pid)
    expect(disturbed.map(({ text }) => text)).toEqual(undisturbed.map(({ text }) => text))
    expect(disturbed.map(({ end }) => end)).toEqual(Array(8).fill('length'))
    for (const { preemptedMs } of disturbed) expect(preemptedMs).toBeGreaterThan(0)
    expect(other.errors).toEqual([])
  })
})
