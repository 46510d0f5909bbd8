import { describe, expect, test } from 'vitest'
import { bytes } from './byte-tokenizer.ts'
import { events, harness, model, post } from './harness.ts'

const completion = { model, prompt: 'hello', max_tokens: 4, temperature: 0 }
const chat = { model, messages: [{ role: 'user', content: 'hi' }], max_tokens: 4, temperature: 0 }
const estimate = { position: 3, expectedStartMs: 1200.4, lowMs: 300, highMs: 5000 }
const asks = { headers: { 'x-ropeway-queue': '1' } }

interface Answer {
  usage?: { ropeway_timing?: Record<string, number> } | null
}

describe('an explanation', () => {
  const timing = {
    queue_ms: 0,
    prompt_ms: 1,
    decode_ms: 1,
    waiting_for_budget_ms: 0,
    preempted_ms: 0,
    total_ms: 2,
  }

  test('stands in the usage of both endpoints, and in the last chunk of their streams', async () => {
    await using server = await harness()
    for (const [path, body] of [
      ['completions', completion],
      ['chat/completions', chat],
    ] as const) {
      const url = `${server.url}/v1/${path}`
      const atOnce = (await (await post(url, { ...body, explain: true })).json()) as Answer
      expect(atOnce.usage!.ropeway_timing).toEqual(timing)
      const chunks = await events(await post(url, { ...body, explain: true, stream: true }))
      expect((chunks.at(-2) as Answer).usage!.ropeway_timing).toEqual(timing)
      const without = (await (await post(url, body)).json()) as Answer
      expect(without.usage).not.toHaveProperty('ropeway_timing')
    }
  })

  test('of several answers is that of the one that took longest', async () => {
    await using server = await harness()
    server.engine.script = ({ sampling }) => ({
      tokens: bytes('abc'),
      end: {
        timing: {
          queueMs: sampling.seed === 5 ? 40 : 1,
          promptMs: 1,
          decodeMs: 2,
          waitingForBudgetMs: 3,
          preemptedMs: 4,
        },
      },
    })
    const body = { ...completion, n: 3, seed: 5, explain: true }
    const answer = (await (await post(`${server.url}/v1/completions`, body)).json()) as Answer
    expect(answer.usage!.ropeway_timing).toMatchObject({ queue_ms: 40, total_ms: 50 })
  })
})

test('a prompt is pinned for the seconds that the client names, up to a limit', async () => {
  await using server = await harness()
  await post(`${server.url}/v1/completions`, { ...completion, pin_prefix_seconds: 1.5 })
  await post(`${server.url}/v1/chat/completions`, { ...chat, pin_prefix_seconds: 60 })
  expect(server.engine.submitted.map(({ pinPrefixMs }) => pinPrefixMs)).toEqual([1500, 60_000])
  const refused = await post(`${server.url}/v1/completions`, { ...completion, pin_prefix_seconds: 1e6 })
  expect(await refused.json()).toMatchObject({ error: { param: 'pin_prefix_seconds' } })
})

describe('the place in the queue', () => {
  test('is in the headers of an answer, streamed or not, for who asked for it', async () => {
    await using server = await harness()
    server.engine.admission = () => ({ ok: true, queue: estimate })
    for (const stream of [true, false]) {
      for (const [path, body] of [
        ['completions', completion],
        ['chat/completions', chat],
      ] as const) {
        const { headers } = await post(`${server.url}/v1/${path}`, { ...body, stream }, asks)
        expect(headers.get('x-ropeway-queue-position')).toBe('3')
        expect(headers.get('x-ropeway-queue-expected-start-ms')).toBe('1200')
        expect(headers.get('x-ropeway-queue-low-ms')).toBe('300')
        expect(headers.get('x-ropeway-queue-high-ms')).toBe('5000')
        const silent = await post(`${server.url}/v1/${path}`, { ...body, stream })
        expect(silent.headers.has('x-ropeway-queue-position')).toBe(false)
      }
    }
  })

  test('is told again in comments while the stream waits, and no more once it has begun', async () => {
    await using server = await harness({ limits: { queueReportMs: 1 } })
    const { engine } = server
    engine.pace = 'manual'
    engine.script = () => ({ tokens: bytes('abcd'), promptIterations: 0 })
    let asked = 0
    engine.estimate = (id) => {
      expect(id).toBe(engine.submitted[0]!.id)
      return { ...estimate, position: 3 - ++asked }
    }
    const answer = await post(`${server.url}/v1/completions`, { ...completion, stream: true }, asks)
    while (asked < 3) await new Promise((resolve) => setImmediate(resolve))
    while (engine.runningCount > 0) engine.iterate()
    const askedInAll = asked
    const text = await answer.text()
    expect(text).toMatch(/^: queue position=2 expected_start_ms=1200 low_ms=300 high_ms=5000\n\n/)
    expect(text).toContain(': queue position=0 ')
    expect(text.slice(text.indexOf('data:'))).not.toContain(': queue')
    expect(asked).toBe(askedInAll)
  })

  test('is told at most once in the interval, and not at all to who did not ask', async () => {
    await using server = await harness({ limits: { queueReportMs: 60_000 } })
    server.engine.estimate = () => estimate
    server.engine.script = () => ({ tokens: bytes('abcd'), promptIterations: 50 })
    const url = `${server.url}/v1/completions`
    const asking = await (await post(url, { ...completion, stream: true }, asks)).text()
    expect(asking.match(/: queue/g)).toHaveLength(1)
    expect(await (await post(url, { ...completion, stream: true })).text()).not.toContain(': queue')
  })

  test('lost by waiting too long ends a stream with an error that says when to come again', async () => {
    await using server = await harness()
    server.engine.script = () => ({
      tokens: [],
      end: { reason: 'failed', code: 'queue_timeout', retryAfterMs: 2500 },
    })
    const chunks = await events(await post(`${server.url}/v1/completions`, { ...completion, stream: true }))
    expect(chunks).toEqual([
      {
        error: {
          message: 'The request waited too long for its turn. Retry in 3 s.',
          type: 'rate_limit_error',
          param: null,
          code: 'queue_timeout',
        },
      },
    ])
  })
})

test('an answer carries the x-request-id of its request when that is fit for logs, else one of its own', async () => {
  await using server = await harness()
  const idFor = async (id: string) =>
    (await fetch(`${server.url}/v1/models`, { headers: { 'x-request-id': id } })).headers.get('x-request-id')
  expect(await idFor('trace-7:a.b')).toBe('trace-7:a.b')
  expect(await idFor('x'.repeat(200))).toMatch(/^[0-9a-f-]{36}$/)
  expect(await idFor('with "quotes"')).toMatch(/^[0-9a-f-]{36}$/)
  const refused = await fetch(`${server.url}/none`, { headers: { 'x-request-id': 'mine' } })
  expect(refused.headers.get('x-request-id')).toBe('mine')
})
