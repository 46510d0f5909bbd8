import Anthropic from '@anthropic-ai/sdk'
import OpenAI from 'openai'
import { expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { events, post } from '../openai/harness.ts'
import { bearer, gatewayOver, knows } from './harness.ts'
import { deployment, scriptedReplica, version } from './scripted-replica.ts'

const asked = { model: 'stories', prompt: 'Once', max_tokens: 12, temperature: 0 }

test("the OpenAI client gets through the gateway what it gets from the replica, under the deployment's name", async () => {
  await using replica = await scriptedReplica('a')
  await using through = await gatewayOver([deployment('stories', { versions: [version([replica.replica])] })])
  const client = new OpenAI({ baseURL: `${through.url}/v1`, apiKey: 'none' })
  const direct = new OpenAI({ baseURL: `${replica.url}/v1`, apiKey: replica.replica.key! })
  const own = await direct.completions.create({ ...asked, model: 'tiny/bytes' })
  const got = await client.completions.create(asked)
  expect(got.model).toBe('stories')
  expect(got.choices).toEqual(own.choices)
  expect(got.usage).toEqual(own.usage)
  const stream = await client.chat.completions.create({
    model: 'stories',
    messages: [{ role: 'user', content: 'Hello' }],
    max_tokens: 9,
    temperature: 0,
    stream: true,
  })
  const texts: string[] = []
  for await (const chunk of stream) {
    expect(chunk.model).toBe('stories')
    expect(chunk).not.toHaveProperty('usage')
    expect(JSON.stringify(chunk)).not.toContain('ropeway_tokens')
    texts.push(chunk.choices[0]?.delta.content ?? '')
  }
  expect(texts.join('')).toHaveLength(9)
  expect(through.errors).toEqual([])
})

test('an answer of /v1/responses comes through in its own words, is billed, and goes on elsewhere when its replica dies', async () => {
  await using a = await scriptedReplica('a')
  await using b = await scriptedReplica('b')
  const versions = [version([a.replica, { ...b.replica, state: 'draining' }])]
  await using through = await gatewayOver([deployment('stories', { versions })])
  const client = new OpenAI({ baseURL: `${through.url}/v1`, apiKey: 'none' })
  const body = { model: 'stories', input: 'Hello', max_output_tokens: 9, temperature: 0 }
  const whole = await client.responses.create(body)
  expect(whole).toMatchObject({ object: 'response', model: 'stories', status: 'incomplete' })
  expect(whole.output_text).toHaveLength(9)
  expect(whole.usage).toMatchObject({ output_tokens: 9 })
  expect(through.ledger.sums.rows()).toMatchObject([{ output: 9, requests: 1 }])
  a.engine.pace = 'manual'
  const stream = client.responses.stream(body)
  let types = new Set<string>()
  const over = (async () => {
    for await (const { type } of stream) types = types.add(type)
  })()
  await a.engine.until(() => a.engine.runningCount === 1)
  through.table.replaceDeployment(deployment('stories', { versions: [version([a.replica, b.replica])] }))
  for (let i = 0; i < 3; i++) {
    a.engine.iterate()
    await new Promise((resolve) => setImmediate(resolve))
  }
  await a.server.close(0)
  await over
  const last = await stream.finalResponse()
  expect(last.output_text).toBe(whole.output_text)
  expect(last.model).toBe('stories')
  expect(JSON.stringify(last)).not.toContain('ropeway')
  expect(types).toContain('response.incomplete')
  expect(through.ledger.sums.rows()).toMatchObject([{ output: 18, requests: 2 }])
  const refused = client.responses.create({ ...body, previous_response_id: 'resp_1' })
  await expect(refused).rejects.toMatchObject({ status: 400, param: 'previous_response_id' })
  const tooMuch = client.responses.create({ ...body, max_output_tokens: 100_000 })
  await expect(tooMuch).rejects.toMatchObject({ status: 400, param: 'input' })
  expect(through.errors).toEqual([])
})

test('an answer of /v1/messages comes through for a key that is sent as x-api-key', async () => {
  await using replica = await scriptedReplica('a')
  const versions = [version([replica.replica])]
  const deployments = [deployment('stories', { versions, public: false })]
  await using through = await gatewayOver(deployments, { verify: knows({ k: {} }) })
  const body = { model: 'stories', max_tokens: 9, messages: [{ role: 'user' as const, content: 'Hello' }] }
  const client = new Anthropic({ baseURL: through.url, apiKey: 'k', maxRetries: 0 })
  const whole = await client.messages.create(body)
  expect(whole).toMatchObject({ type: 'message', model: 'stories', stop_reason: 'max_tokens' })
  const streamed = await client.messages.stream(body).finalMessage()
  expect(streamed.usage).toMatchObject({ output_tokens: 9 })
  expect(through.ledger.sums.rows()).toMatchObject([{ output: 18, requests: 2 }])
  const stranger = new Anthropic({ baseURL: through.url, apiKey: 'x', maxRetries: 0 })
  await expect(stranger.messages.create(body)).rejects.toMatchObject({
    ...{ status: 401, error: { type: 'error', error: { type: 'authentication_error' } } },
  })
  expect(through.errors).toEqual([])
})

test("embeddings come through without a deployment's defaults, which are for answers, and are billed", async () => {
  await using replica = await scriptedReplica('a')
  const defaults = { temperature: 0.5, max_tokens: 5 }
  const versions = [version([replica.replica])]
  await using through = await gatewayOver([deployment('stories', { versions, defaults })])
  const client = new OpenAI({ baseURL: `${through.url}/v1`, apiKey: 'none' })
  const direct = new OpenAI({ baseURL: `${replica.url}/v1`, apiKey: replica.replica.key! })
  const input = ['Once', 'upon a time']
  const own = await direct.embeddings.create({ model: 'tiny/bytes', input })
  const got = await client.embeddings.create({ model: 'stories', input })
  expect(got).toEqual({ ...own, model: 'stories' })
  expect(through.ledger.sums.rows()).toMatchObject([
    { prompt: own.usage.prompt_tokens, output: 0, requests: 1 },
  ])
  const refused = client.embeddings.create({ model: 'stories', input: [] })
  await expect(refused).rejects.toMatchObject({ status: 400, param: 'input' })
  expect(through.errors).toEqual([])
})

test('a client that asks for usage in its stream gets it, and one that does not gets none', async () => {
  await using replica = await scriptedReplica('a')
  await using through = await gatewayOver([deployment('stories', { versions: [version([replica.replica])] })])
  const body = { ...asked, stream: true }
  const without = await events(await post(`${through.url}/v1/completions`, body))
  const withUsage = await events(
    await post(`${through.url}/v1/completions`, { ...body, stream_options: { include_usage: true } }),
  )
  expect(without.filter((event) => JSON.stringify(event).includes('usage'))).toEqual([])
  expect(withUsage.at(-2)).toMatchObject({ choices: [], usage: { completion_tokens: 12 } })
})

test('models lists deployments, their versions and their adapters, and finds each by its name', async () => {
  await using replica = await scriptedReplica('a', {
    models: [
      { id: 'tiny/bytes', created: 1 },
      { id: 'tiny/pirate', created: 1 },
    ],
  })
  const versions = [
    version([replica.replica], { id: 'v2', adapters: { pirate: 'tiny/pirate' } }),
    version(
      [replica.replica].map((one) => ({ ...one, id: 'b' })),
      { id: 'v1', share: 0 },
    ),
  ]
  await using through = await gatewayOver([deployment('stories', { versions })])
  const list = (await (await fetch(`${through.url}/v1/models`)).json()) as { data: { id: string }[] }
  const names = ['stories', 'stories:v2', 'stories:v1', 'stories:pirate']
  expect(list.data.map(({ id }) => id)).toEqual(names)
  for (const name of names) {
    expect((await fetch(`${through.url}/v1/models/${encodeURIComponent(name)}`)).status).toBe(200)
    const answer = await post(`${through.url}/v1/completions`, { ...asked, model: name })
    expect(await answer.json()).toMatchObject({ model: name, choices: [{ finish_reason: 'length' }] })
    expect(answer.headers.get('x-ropeway-version')).toBe(name === 'stories:v1' ? 'v1' : 'v2')
  }
})

test('an unknown model is a 404 in the shape that OpenAI has for it', async () => {
  await using through = await gatewayOver([deployment('stories')])
  for (const model of ['nothing', 'stories:nothing', 'stories:']) {
    const answer = await post(`${through.url}/v1/completions`, { ...asked, model })
    expect(answer.status).toBe(404)
    expect(await answer.json()).toMatchObject({
      error: { code: 'model_not_found', param: 'model', type: 'invalid_request_error' },
    })
  }
})

test('what a replica refuses because of the request is passed on as it is, and no other is asked', async () => {
  await using one = await scriptedReplica('a')
  await using other = await scriptedReplica('b')
  const replicas = [one.replica, other.replica]
  await using through = await gatewayOver([deployment('stories', { versions: [version(replicas)] })])
  const answer = await post(`${through.url}/v1/completions`, { ...asked, temperature: 9 })
  expect(answer.status).toBe(400)
  expect(await answer.json()).toMatchObject({ error: { code: 'invalid_value', param: 'temperature' } })
  expect((await post(`${through.url}/v1/completions`, { ...asked, ropeway_continue: [] })).status).toBe(400)
  expect((await post(`${through.url}/v1/completions`, '{"model":')).status).toBe(400)
  expect((await post(`${through.url}/v1/completions`, '[]')).status).toBe(400)
  expect((await post(`${through.url}/v1/completions`, 'x'.repeat(5_000_000))).status).toBe(413)
  expect(one.engine.submitted.length + other.engine.submitted.length).toBe(0)
})

test('defaults of a deployment fill what a request leaves out, and every request gets a seed', async () => {
  await using replica = await scriptedReplica('a')
  const defaults = { max_tokens: 5, temperature: 0.5 }
  const versions = [version([replica.replica])]
  await using through = await gatewayOver([deployment('stories', { versions, defaults })])
  const url = `${through.url}/v1/completions`
  await post(url, { model: 'stories', prompt: 'Once', max_tokens: null })
  await post(url, { model: 'stories', prompt: 'Once', max_tokens: 3, seed: 7 })
  const [first, second] = replica.engine.submitted
  expect(first).toMatchObject({ maxTokens: 5, sampling: { temperature: 0.5 } })
  expect(second).toMatchObject({ maxTokens: 3, sampling: { temperature: 0.5, seed: 7 } })
})

test('keys open the deployments of their project, public ones are open to all, the rest does not exist', async () => {
  await using replica = await scriptedReplica('a')
  const versions = [version([replica.replica])]
  const others = [version([{ ...replica.replica, id: 'b' }])]
  await using through = await gatewayOver(
    [
      deployment('stories', { versions }),
      deployment('open', { versions: others, public: true, project: 'other' }),
    ],
    { verify: knows({ mine: {}, theirs: { project: 'other' } }) },
  )
  const url = `${through.url}/v1/completions`
  const status = async (model: string, key?: string) =>
    (await post(url, { ...asked, model }, key === undefined ? {} : bearer(key))).status
  expect(await status('stories', 'mine')).toBe(200)
  expect(await status('stories', 'theirs')).toBe(404)
  expect(await status('stories', 'guessed')).toBe(401)
  expect(await status('stories')).toBe(401)
  const unknown = (await (await post(url, { ...asked, model: 'stories' })).json()) as {
    error: { message: string }
  }
  expect(unknown.error.message).toMatch(/^Nothing here answers for 'stories' without a key.*Bearer KEY\.$/)
  expect(await status('open')).toBe(200)
  expect(await status('open', 'mine')).toBe(200)
  const list = await fetch(`${through.url}/v1/models`, bearer('theirs'))
  expect(((await list.json()) as { data: { id: string }[] }).data.map(({ id }) => id)).toEqual([
    'open',
    'open:v1',
  ])
  expect((await fetch(`${through.url}/metrics`)).status).toBe(401)
  // The engine tells the keys apart, for its fairness and its cache.
  expect(replica.engine.submitted.map(({ tenant }) => tenant)).toEqual([
    'id-of-mine',
    'anonymous',
    'id-of-mine',
  ])
})

test('limits of a key refuse with 429 and say when to come again', async () => {
  await using replica = await scriptedReplica('a')
  const clock = new ManualClock(1_700_000_000_000)
  await using through = await gatewayOver(
    [deployment('stories', { versions: [version([replica.replica])] })],
    {
      clock,
      verify: knows({
        slow: { limits: { requestsPerMinute: 2 } },
        thrifty: { limits: { tokensPerMinute: 20 } },
        single: { limits: { concurrent: 1 } },
      }),
    },
  )
  const ask = (key: string) => post(`${through.url}/v1/completions`, asked, bearer(key))
  expect([(await ask('slow')).status, (await ask('slow')).status]).toEqual([200, 200])
  const refused = await ask('slow')
  expect([refused.status, refused.headers.get('retry-after')]).toEqual([429, '30'])
  expect(await refused.json()).toMatchObject({
    error: { code: 'rate_limit_exceeded', type: 'rate_limit_error' },
  })
  clock.advance(30_000)
  expect((await ask('slow')).status).toBe(200)

  // 4 tokens in and 12 out, twice: 12 more than the 20 of a minute, which take 36 s to come back.
  expect([(await ask('thrifty')).status, (await ask('thrifty')).status]).toEqual([200, 200])
  expect((await ask('thrifty')).headers.get('retry-after')).toBe('36')
  clock.advance(37_000)
  expect((await ask('thrifty')).status).toBe(200)

  replica.engine.pace = 'manual'
  const running = ask('single')
  await replica.engine.until(() => replica.engine.runningCount === 1)
  expect((await ask('single')).status).toBe(429)
  replica.engine.pace = 'auto'
  replica.engine.iterate()
  replica.engine.cancel('nothing')
  expect((await running).status).toBe(200)
  expect((await ask('single')).status).toBe(200)
})
