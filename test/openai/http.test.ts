import { connect } from 'node:net'
import { describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { UserError } from '../../src/base/errors.ts'
import type { Exchange } from '../../src/http/exchange.ts'
import { Calls } from '../../src/openai/calls.ts'
import { Generations } from '../../src/openai/generations.ts'
import { Metrics } from '../../src/openai/metrics.ts'
import { byteTokenizer } from './byte-tokenizer.ts'
import { events, harness, info, model, post } from './harness.ts'
import { babble, ScriptedEngine } from './scripted-engine.ts'

const completion = { model, prompt: 'hello', max_tokens: 4, temperature: 0 }

async function refusal(response: Response) {
  const body = (await response.json()) as { error: Record<string, unknown> }
  expect(Object.keys(body)).toEqual(['error'])
  expect(Object.keys(body.error).sort()).toEqual(['code', 'message', 'param', 'type'])
  return { status: response.status, ...body.error }
}

/** Writes raw bytes and returns everything that comes back until the server closes. */
async function raw(url: string, text: string): Promise<string> {
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  socket.setEncoding('utf8')
  let answer = ''
  socket.on('data', (chunk: string) => {
    answer += chunk
  })
  socket.write(text)
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject)
    socket.once('close', () => resolve())
  })
  return answer
}

describe('what is not a request for a generation', () => {
  test('a path that does not exist is 404 and a method that it does not take is 405 with Allow', async () => {
    await using server = await harness()
    expect(await refusal(await fetch(`${server.url}/v2/nothing`))).toMatchObject({ status: 404 })
    expect(await refusal(await fetch(`${server.url}/v1/models/%zz`))).toMatchObject({ status: 404 })
    const response = await fetch(`${server.url}/v1/completions`)
    expect(response.headers.get('allow')).toBe('POST')
    expect(await refusal(response)).toMatchObject({ status: 405, code: 'method_not_allowed' })
  })

  test('a body of another type, or compressed, is 415', async () => {
    await using server = await harness()
    const plain = await post(`${server.url}/v1/completions`, 'x', {
      headers: { 'content-type': 'text/plain' },
    })
    expect(await refusal(plain)).toMatchObject({ status: 415 })
    const packed = await post(`${server.url}/v1/completions`, 'x', {
      headers: { 'content-encoding': 'gzip' },
    })
    expect(await refusal(packed)).toMatchObject({ status: 415 })
  })

  test('a body that is not JSON, not UTF-8 or nested too deep is 400 without an echo of the body', async () => {
    await using server = await harness()
    const torn = await refusal(await post(`${server.url}/v1/completions`, '{"prompt": "my secret'))
    expect(torn).toMatchObject({ status: 400, code: 'invalid_json' })
    expect(JSON.stringify(torn)).not.toContain('secret')
    const deep = '['.repeat(100_000) + ']'.repeat(100_000)
    expect(await refusal(await post(`${server.url}/v1/completions`, deep))).toMatchObject({
      status: 400,
      code: 'json_too_deep',
    })
    const latin = await fetch(`${server.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: new Uint8Array([0x22, 0xe9, 0x22]),
    })
    expect(await refusal(latin)).toMatchObject({ status: 400, code: 'invalid_utf8' })
  })

  test('a body beyond the limit is 413, said in advance or not, and the server goes on', async () => {
    await using server = await harness({ limits: { bodyBytesMax: 10_000 } })
    const large = JSON.stringify({ ...completion, prompt: 'x'.repeat(3_000_000) })
    expect(await refusal(await post(`${server.url}/v1/completions`, large))).toMatchObject({ status: 413 })
    const unsaid = await fetch(`${server.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: new Blob([large]).stream(),
      duplex: 'half',
    } as RequestInit)
    expect(await refusal(unsaid)).toMatchObject({ status: 413, code: 'body_too_large' })
    expect((await post(`${server.url}/v1/completions`, completion)).status).toBe(200)
  })

  test('a client that closes its connection behind a body beyond the limit reads the 413, too', async () => {
    await using server = await harness({ limits: { bodyBytesMax: 10_000, discardBytesMax: 20_000_000 } })
    const head = ['POST /v1/completions HTTP/1.1', 'host: x', 'content-type: application/json']
    const large = (bytes: number) =>
      `${[...head, 'connection: close', `content-length: ${bytes}`].join('\r\n')}\r\n\r\n${'x'.repeat(bytes)}`
    // More than the buffers between the two hold.
    const answer = await raw(server.url, large(15_000_000))
    expect(answer).toMatch(/^HTTP\/1\.1 413 /)
    expect(answer).toContain('The body exceeds 10000 bytes.')
    // Nobody reads everything: this one hears of it at once, if at all.
    const headOnly = large(21_000_000).slice(0, 1000)
    expect(await raw(server.url, headOnly)).toMatch(/^HTTP\/1\.1 413 /)
    const unsaid = [...head, 'connection: close', 'transfer-encoding: chunked', '', '1406f3f'].join('\r\n')
    await raw(server.url, `${unsaid}\r\n${'x'.repeat(20_999_999)}`).catch(() => undefined)
    expect((await post(`${server.url}/v1/completions`, completion)).status).toBe(200)
  })

  test('a million wrong items in a body are refused as quickly as one', async () => {
    await using server = await harness()
    const many = `[${'0,'.repeat(1_000_000)}0]`
    for (const [path, field] of [
      ['completions', 'stop'],
      ['completions', 'prompt'],
      ['chat/completions', 'messages'],
      ['chat/completions', 'tools'],
    ]) {
      const rest = { model, prompt: 'x', messages: [{ role: 'user', content: 'x' }] }
      delete (rest as Record<string, unknown>)[path === 'completions' ? 'messages' : 'prompt']
      delete (rest as Record<string, unknown>)[field!]
      const body = `{"${field}":${many},${JSON.stringify(rest).slice(1)}`
      expect(await refusal(await post(`${server.url}/v1/${path}`, body))).toMatchObject({
        status: 400,
        param: field,
      })
    }
  })

  test('bytes that are not HTTP get an answer in the same shape', async () => {
    await using server = await harness()
    const answer = await raw(server.url, 'hello?\r\n\r\n')
    expect(answer).toMatch(/^HTTP\/1\.1 400 /)
    expect(JSON.parse(answer.slice(answer.indexOf('{')))).toMatchObject({ error: { code: 'invalid_http' } })
    const long = await raw(server.url, `GET / HTTP/1.1\r\nhost: x\r\nx: ${'y'.repeat(50_000)}\r\n\r\n`)
    expect(long).toMatch(/^HTTP\/1\.1 431 /)
  })

  test('a header that does not arrive in time is 408', async () => {
    await using server = await harness({ limits: { headerMs: 20, requestMs: 20 } })
    expect(await raw(server.url, 'GET /health HTTP/1.1\r\n')).toMatch(/^HTTP\/1\.1 408 /)
  })
})

describe('who may ask', () => {
  test('without the key there is only the health, and a key may be given as its hash', async () => {
    const hash = 'sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b'
    await using server = await harness({ apiKeys: ['other', hash] })
    expect((await fetch(`${server.url}/health`)).status).toBe(200)
    for (const path of ['/v1/models', '/metrics']) {
      const response = await fetch(server.url + path)
      expect(response.headers.get('www-authenticate')).toBe('Bearer')
      expect(await refusal(response)).toMatchObject({ status: 401, code: 'invalid_api_key' })
    }
    const as = async (key: string) =>
      (await fetch(`${server.url}/v1/models`, { headers: { authorization: `Bearer ${key}` } })).status
    expect(await as('secret')).toBe(200)
    expect(await as('other')).toBe(200)
    expect(await as('secret2')).toBe(401)
    expect(await as(hash)).toBe(401)
  })

  test('the tenant of a request is told by its key and does not tell the key', async () => {
    await using server = await harness({ apiKeys: ['secret', 'other'] })
    for (const key of ['secret', 'other', 'secret']) {
      await post(`${server.url}/v1/completions`, completion, { headers: { authorization: `Bearer ${key}` } })
    }
    const tenants = server.engine.submitted.map(({ tenant }) => tenant)
    expect(tenants[0]).toBe('key-2bb80d537b1d')
    expect(tenants[2]).toBe(tenants[0])
    expect(tenants[1]).not.toBe(tenants[0])
  })

  test('a web page of another origin is refused unless it was allowed', async () => {
    await using closed = await harness()
    const from = (url: string, origin: string) =>
      fetch(`${url}/v1/models`, { headers: { origin, 'sec-fetch-mode': 'cors' } })
    expect(await refusal(await from(closed.url, 'https://evil.example'))).toMatchObject({ status: 403 })
    expect((await from(closed.url, 'null')).status).toBe(403)
    expect((await from(closed.url, closed.url)).status).toBe(200)
    const cross = await fetch(`${closed.url}/metrics`, { headers: { 'sec-fetch-site': 'cross-site' } })
    expect(cross.status).toBe(403)
    await using open = await harness({ origins: ['https://app.example'] })
    const allowed = await from(open.url, 'https://app.example')
    expect(allowed.headers.get('access-control-allow-origin')).toBe('https://app.example')
    const preflight = await fetch(`${open.url}/v1/completions`, {
      method: 'OPTIONS',
      headers: { origin: 'https://app.example', 'access-control-request-method': 'POST' },
    })
    expect(preflight.status).toBe(204)
    expect(preflight.headers.get('access-control-allow-methods')).toContain('POST')
  })

  test('a name that was pointed at this machine is no origin of its own', async () => {
    await using server = await harness()
    const { port } = new URL(server.url)
    const host = `rebound.example:${port}`
    const answer = await raw(
      server.url,
      `GET /v1/models HTTP/1.1\r\nhost: ${host}\r\norigin: http://${host}\r\nconnection: close\r\n\r\n`,
    )
    expect(answer).toMatch(/^HTTP\/1\.1 403 /)
  })
})

describe('the state of the server', () => {
  test('health is 503 and generations are refused while the engine does not take any', async () => {
    await using server = await harness()
    expect(await (await fetch(`${server.url}/health`)).json()).toEqual({ status: 'ready' })
    server.engine.accepting = false
    const health = await fetch(`${server.url}/health`)
    expect([health.status, await health.json()]).toEqual([503, { status: 'unavailable' }])
    const response = await post(`${server.url}/v1/completions`, completion)
    expect(response.headers.get('retry-after')).toBe('1')
    expect(await refusal(response)).toMatchObject({ status: 503, type: 'server_error' })
    server.engine.accepting = true
    expect((await post(`${server.url}/v1/completions`, completion)).status).toBe(200)
  })

  test('closing lets a stream finish, refuses what is new and then returns', async () => {
    await using server = await harness()
    server.engine.pace = 'manual'
    const response = await post(`${server.url}/v1/completions`, { ...completion, stream: true })
    server.server.drain()
    expect((await fetch(`${server.url}/health`)).status).toBe(503)
    expect(await refusal(await post(`${server.url}/v1/completions`, completion))).toMatchObject({
      status: 503,
      code: 'shutting_down',
    })
    const closed = server.server.close(60_000)
    // The listener is open to the end, for connections that are there as for new ones.
    for (const connection of ['keep-alive', 'close']) {
      const late = await post(`${server.url}/v1/completions`, completion, { headers: { connection } })
      expect(late.headers.get('connection')).toBe('close')
      expect(await refusal(late)).toMatchObject({ status: 503, code: 'shutting_down' })
    }
    for (let count = 0; count < 6; count++) server.engine.iterate()
    expect(await response.text()).toContain('[DONE]')
    await closed
    await expect(fetch(`${server.url}/health`)).rejects.toThrow()
  })

  test('closing ends with an error what does not finish in time, and cancels it', async () => {
    await using server = await harness()
    server.engine.pace = 'manual'
    const streamed = await post(`${server.url}/v1/completions`, { ...completion, stream: true })
    const whole = post(`${server.url}/v1/completions`, { ...completion, n: 2 })
    await server.engine.until(() => server.engine.runningCount === 3)
    await server.server.close(0)
    const error = { code: 'aborted', message: expect.stringMatching(/^The server ended .* Retry in 1 s\.$/) }
    expect((await events(streamed)).at(-1)).toMatchObject({ error })
    expect((await whole).headers.get('retry-after')).toBe('1')
    expect(await refusal(await whole)).toMatchObject({ status: 503, ...error })
    await server.engine.until(() => server.engine.runningCount === 0)
    expect(server.engine.cancelled).toHaveLength(3)
  })

  test('what is still encoded when the time is up is told the same', async () => {
    const calls = new Calls()
    calls.endAll()
    const engine = new ScriptedEngine(info, babble)
    const host = { engine, calls, metrics: new Metrics(), clock: systemClock, usageLog: undefined }
    const exchange = { signal: new AbortController().signal } as Exchange
    const about = { exchange, promptField: 'prompt', choices: 1, tenant: 't', model, call: undefined }
    const start = new Generations([], about, host).start()
    await expect(start).rejects.toMatchObject({ status: 503, code: 'aborted' })
  })

  test('metrics count outcomes, tokens and times, and show a silent engine as down', async () => {
    await using server = await harness({ limits: { gaugesMs: 5 } })
    await post(`${server.url}/v1/completions`, completion)
    await post(`${server.url}/v1/completions`, { ...completion, prompt: [] })
    await post(`${server.url}/v1/completions`, { ...completion, prompt: [[]] })
    const text = await (await fetch(`${server.url}/metrics`)).text()
    expect(text).toContain('ropeway_requests_total{outcome="length"} 1')
    expect(text).toContain('ropeway_requests_total{outcome="empty_prompt"} 1')
    expect(text).toContain('ropeway_http_answers_total{method="POST",path="/v1/completions",status="400"} 2')
    expect(text).toContain('ropeway_time_to_first_token_seconds_count 1')
    expect(text).toContain('ropeway_time_per_output_token_seconds_count 3')
    expect(text).toContain('ropeway_compute_seconds_total 1.5')
    expect(text).toContain('ropeway_cache_blocks{state="cached"} 2')
    expect(text).toContain('ropeway_engine_up 1')
    server.engine.gauges = () => new Promise(() => undefined)
    const silent = await (await fetch(`${server.url}/metrics`)).text()
    expect(silent).toContain('ropeway_engine_up 0')
    expect(silent).toContain('ropeway_iterations_total 5')
  })

  test('a text that the tokenizer refuses is a 400, and a tokenizer that is gone a 503', async () => {
    const tokenizer = byteTokenizer()
    for (const [failure, status] of [
      ['failed', 400],
      ['unreachable', 503],
    ] as const) {
      tokenizer.encode = () => {
        throw new UserError('no such text', { failure })
      }
      await using server = await harness({ tokenizer })
      expect(await refusal(await post(`${server.url}/v1/completions`, completion))).toMatchObject({ status })
      expect(server.errors).toEqual([])
    }
  })

  test('a bug is a 500 that keeps its details to the log', async () => {
    const tokenizer = byteTokenizer()
    tokenizer.encode = () => {
      throw new TypeError('inner workings')
    }
    await using server = await harness({ tokenizer })
    const answer = await refusal(await post(`${server.url}/v1/completions`, completion))
    expect(answer).toMatchObject({ status: 500, code: 'internal_error' })
    expect(JSON.stringify(answer)).not.toContain('inner workings')
    expect(server.errors.join()).toContain('inner workings')
  })
})
