import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, test } from 'vitest'
import { ChatTemplate } from '../../src/tokenizer/chat-template.ts'
import { bytes } from '../openai/byte-tokenizer.ts'
import { events, post } from '../openai/harness.ts'
import type { Script } from '../openai/scripted-engine.ts'
import { type GatewayHarness, gatewayOver } from './harness.ts'
import { deployment, type ScriptedReplica, scriptedReplica, version } from './scripted-replica.ts'

interface Event {
  id: string
  choices: {
    index: number
    text?: string
    delta?: { role?: string; content?: string }
    logprobs?: unknown
    finish_reason: string | null
  }[]
  usage?: unknown
  error?: { code: string }
}

interface Delta {
  content?: string
  tool_calls?: object[]
}

/** A stream as its client sees it in the end, however it was cut into chunks. */
function joined(list: readonly unknown[]) {
  const chunks = list.filter((event): event is Event => event !== '[DONE]')
  const choices: Record<number, { text: string; roles: number; finish: string | null; logprobs: string }> = {}
  for (const { index, text, delta, finish_reason, logprobs } of chunks.flatMap((chunk) => chunk.choices)) {
    const choice = (choices[index] ??= { text: '', roles: 0, finish: null, logprobs: '' })
    choice.text += text ?? delta?.content ?? ''
    if (delta?.role !== undefined) choice.roles++
    if (finish_reason !== null) choice.finish = finish_reason
    const { content, tokens, text_offset } = (logprobs ?? {}) as Record<string, unknown[]>
    for (const [i, entry] of (content ?? tokens ?? []).entries()) {
      choice.logprobs += `${JSON.stringify(entry)}@${text_offset?.[i]};`
    }
  }
  const usage = chunks.at(-1)?.usage as { prompt_tokens: number; completion_tokens: number } | undefined
  return {
    choices,
    tokens: usage && [usage.prompt_tokens, usage.completion_tokens],
    ids: new Set(chunks.map(({ id }) => id)).size,
    done: list.at(-1),
  }
}

const kinds = {
  'a greedy completion': { path: 'completions', temperature: 0 },
  'a seeded completion': { path: 'completions', temperature: 1, seed: 5 },
  'three choices of two prompts': {
    path: 'completions',
    prompt: ['Once', 'Twice'],
    n: 3,
    temperature: 1,
    seed: 5,
  },
  'an echoed prompt with log-probabilities': { path: 'completions', echo: true, logprobs: 2, temperature: 0 },
  'a completion that a stop string ends': { path: 'completions', temperature: 0, stop: ['zzz', 'e s', 'tt'] },
  'a chat with log-probabilities': {
    path: 'chat/completions',
    n: 2,
    logprobs: true,
    top_logprobs: 1,
    seed: 9,
  },
} as const

function bodyOf({ path, ...fields }: { path: string; [field: string]: unknown }) {
  const prompt =
    path === 'completions' ? { prompt: 'Once' } : { messages: [{ role: 'user', content: 'Hello' }] }
  return {
    model: 'stories',
    max_tokens: 24,
    ...prompt,
    ...fields,
    stream: true,
    stream_options: { include_usage: true },
  }
}

/** As a crash does it: the port is dead and connections are cut. */
async function kill(replica: ScriptedReplica): Promise<void> {
  await replica.server.close(0)
}

/** Lets `a` compute until behind iteration `cut`, then die, when `b` has come. */
async function dieAt(cut: number, a: ScriptedReplica, b: ScriptedReplica, { table }: GatewayHarness) {
  await a.engine.until(() => a.engine.runningCount === 1)
  table.replaceDeployment(deployment('stories', { versions: [version([a.replica, b.replica])] }))
  for (let i = 0; i <= cut; i++) {
    a.engine.iterate()
    await new Promise((resolve) => setImmediate(resolve))
  }
  await kill(a)
}

async function pair() {
  const [a, b] = [await scriptedReplica('a'), await scriptedReplica('b')]
  return { a, b, versions: [version([a.replica, { ...b.replica, state: 'draining' }])] }
}

describe('a stream whose replica dies goes on elsewhere and reads as if nothing had happened', () => {
  for (const [kind, fields] of Object.entries(kinds)) {
    test(`${kind}, wherever it was cut`, async () => {
      for (const iterations of [0, 1, 2, 3, 7, 15, 24, 25]) {
        const { a, b, versions } = await pair()
        await using _a = a
        await using _b = b
        await using through = await gatewayOver([deployment('stories', { versions })])
        const url = `${through.url}/v1/${fields.path}`
        const undisturbed = joined(await events(await post(url, bodyOf(fields))))
        a.engine.pace = 'manual'
        const before = a.engine.submitted.length
        const answer = post(url, bodyOf(fields)).then(events)
        await a.engine.until(
          () => a.engine.submitted.length - before === before && a.engine.runningCount === before,
        )
        through.table.replaceDeployment(
          deployment('stories', { versions: [version([a.replica, b.replica])] }),
        )
        for (let i = 0; i < iterations; i++) {
          a.engine.iterate()
          // The pieces have to leave the server before it dies, or nothing would have been streamed.
          await new Promise((resolve) => setImmediate(resolve))
        }
        await kill(a)
        const got = joined(await answer)
        expect(got).toEqual(undisturbed)
        expect(got.ids).toBe(1)
        expect(got.done).toBe('[DONE]')
        expect(through.errors).toEqual([])
      }
    })
  }
})

test('tokens that were streamed are not computed again by the replica that goes on', async () => {
  const { a, b, versions } = await pair()
  await using _a = a
  await using _b = b
  await using through = await gatewayOver([deployment('stories', { versions })])
  a.engine.pace = 'manual'
  const response = await post(`${through.url}/v1/completions`, bodyOf(kinds['a greedy completion']))
  const reader = response.body!.getReader()
  let text = ''
  for (let i = 0; i < 8; i++) a.engine.iterate()
  while (text.split('data: ').length < 6) text += new TextDecoder().decode((await reader.read()).value)
  through.table.replaceDeployment(deployment('stories', { versions: [version([a.replica, b.replica])] }))
  await kill(a)
  for (let part = await reader.read(); !part.done; part = await reader.read())
    text += new TextDecoder().decode(part.value)
  expect(text.endsWith('data: [DONE]\n\n')).toBe(true)
  expect(b.engine.submitted[0]!.generated!.length).toBeGreaterThanOrEqual(4)
  expect(await through.gateway.metrics.render()).toContain(
    'retries_total{deployment="stories",kind="failover"} 1',
  )
})

test('a text that holds a half character or the beginning of a stop string goes on behind all of it', async () => {
  const said = [...bytes('a한b한'), ...bytes(' the en'), ...bytes('d of it')]
  const script = (): Script => ({ tokens: said })
  for (let cut = 0; cut <= said.length; cut++) {
    const { a, b } = await pair()
    await using _a = a
    await using _b = b
    a.engine.script = b.engine.script = script
    a.engine.pace = 'manual'
    await using through = await gatewayOver([deployment('stories', { versions: [version([a.replica])] })])
    const body = { ...bodyOf({ path: 'completions', stop: ['end of all'] }), max_tokens: 60 }
    const answer = post(`${through.url}/v1/completions`, body).then(events)
    await dieAt(cut, a, b, through)
    expect(joined(await answer).choices[0]!.text).toBe('a한b한 the end of it')
  }
})

test('a call that is being written goes on elsewhere; behind one that was passed on the stream ends with an error', async () => {
  const template = new ChatTemplate(
    '{{ tools | tojson if tools else "" }}<tool_call>{{ messages[0].content }}',
  )
  const tool = { type: 'function', function: { name: 'f', parameters: {} } }
  const call = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
  const said = bytes(`I look. ${call}Done`)
  const seen = { whole: 0, broken: 0 }
  for (let cut = 0; cut <= said.length; cut += 3) {
    const [a, b] = [await scriptedReplica('a', { template }), await scriptedReplica('b', { template })]
    await using _a = a
    await using _b = b
    a.engine.script = b.engine.script = (): Script => ({ tokens: said })
    a.engine.pace = 'manual'
    await using through = await gatewayOver([deployment('stories', { versions: [version([a.replica])] })])
    const body = { ...bodyOf({ path: 'chat/completions', tools: [tool] }), max_tokens: 99 }
    const answer = post(`${through.url}/v1/chat/completions`, body).then(events)
    await dieAt(cut, a, b, through)
    const chunks = (await answer) as {
      error?: unknown
      choices: { delta: Delta; finish_reason: unknown }[]
    }[]
    const deltas = chunks.flatMap(({ choices }) => choices ?? []).map(({ delta }) => delta)
    const calls = deltas.flatMap(({ tool_calls }) => tool_calls ?? [])
    expect(calls).toMatchObject([{ index: 0, function: { name: 'f', arguments: '{"a": 1}' } }])
    const text = deltas.map(({ content }) => content ?? '').join('')
    const isBroken = chunks.some(({ error }) => error !== undefined)
    if (isBroken) expect('I look.Done'.startsWith(text)).toBe(true)
    else expect(text).toBe('I look.Done')
    seen[isBroken ? 'broken' : 'whole']++
  }
  expect(seen.whole).toBeGreaterThan(15)
  expect(seen.broken).toBeGreaterThan(0)
})

test('a request is asked again where a replica refuses connections, answers 503, or breaks off before any text', async () => {
  await using well = await scriptedReplica('well')
  const faults: Record<string, Server> = {
    busy: createServer((_, response) => response.writeHead(503, { 'retry-after': '3' }).end('{}')),
    torn: createServer((_, response) => {
      response.writeHead(200, { 'content-length': 100 }).write('{"id"')
      setImmediate(() => response.destroy())
    }),
    mute: createServer((_, response) => void response.writeHead(200).end('not JSON')),
  }
  const replicas = [{ id: 'gone', url: 'http://127.0.0.1:9', state: 'ready' as const }]
  for (const [id, server] of Object.entries(faults)) {
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    replicas.push({ id, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, state: 'ready' })
  }
  await using through = await gatewayOver([
    deployment('stories', { versions: [version([...replicas, well.replica])] }),
  ])
  for (let i = 0; i < 20; i++) {
    const stream = i % 2 === 0
    const answer = await post(`${through.url}/v1/completions`, {
      model: 'stories',
      prompt: `Once ${i}`,
      max_tokens: 3,
      stream,
    })
    expect(answer.status).toBe(200)
    expect(await answer.text()).toContain('length')
  }
  expect(through.gateway.roster.isEjected('gone')).toBe(true)
  for (const server of Object.values(faults)) server.close().closeAllConnections()
})

test('without any replica that works, the client hears what the last one said, once the time for it is over', async () => {
  await using through = await gatewayOver(
    [
      deployment('stories', {
        versions: [version([{ id: 'gone', url: 'http://127.0.0.1:9', state: 'ready' }])],
      }),
    ],
    { limits: { attemptsMax: 3 } },
  )
  const answer = await post(`${through.url}/v1/completions`, { model: 'stories', prompt: 'Once' })
  expect(answer.status).toBe(502)
  expect(await answer.json()).toMatchObject({ error: { code: 'replica_lost', type: 'server_error' } })
})

test("a full queue at every replica is the client's answer, with the time after which to come again", async () => {
  await using a = await scriptedReplica('a')
  await using b = await scriptedReplica('b')
  for (const { engine } of [a, b])
    engine.admission = () => ({ ok: false, code: 'queue_full', retryAfterMs: 4000 })
  await using through = await gatewayOver([
    deployment('stories', { versions: [version([a.replica, b.replica])] }),
  ])
  const answer = await post(`${through.url}/v1/completions`, { model: 'stories', prompt: 'Once' })
  expect([answer.status, answer.headers.get('retry-after')]).toEqual([429, '4'])
  expect([a.engine.submitted.length, b.engine.submitted.length]).toEqual([1, 1])
  expect(through.gateway.roster.isEjected('a')).toBe(false)
})

test('a stream of a server that names no tokens ends with an error when it breaks off behind some text', async () => {
  const server = createServer((_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write('data: {"choices":[{"index":0,"text":"Once","finish_reason":null}]}\n\n')
    setTimeout(() => response.destroy(), 20)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  await using through = await gatewayOver([
    deployment('stories', { versions: [version([{ id: 'a', url, state: 'ready' }])] }),
  ])
  const list = await events(await post(`${through.url}/v1/completions`, bodyOf(kinds['a greedy completion'])))
  expect(list.at(-1)).toMatchObject({ error: { code: 'replica_lost' } })
  server.close().closeAllConnections()
})

test('a client that leaves takes its request out of the engine', async () => {
  await using a = await scriptedReplica('a')
  a.engine.pace = 'manual'
  await using through = await gatewayOver([deployment('stories', { versions: [version([a.replica])] })])
  for (const stream of [true, false]) {
    const leaving = new AbortController()
    const asked = post(
      `${through.url}/v1/completions`,
      { ...bodyOf(kinds['a greedy completion']), stream, stream_options: null },
      { signal: leaving.signal },
    ).then((response) => response.text())
    await a.engine.until(() => a.engine.runningCount === 1)
    leaving.abort()
    await expect(asked).rejects.toThrow()
    await a.engine.until(() => a.engine.runningCount === 0)
  }
  expect(a.engine.cancelled).toHaveLength(2)
  expect(through.errors).toEqual([])
})
