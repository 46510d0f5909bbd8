import { appendFileSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { AnswerRecord } from '../../src/control/gateway/answer-record.ts'
import type { DeploymentReport } from '../../src/control/gateway/report.ts'
import { type LoggedRequest, RequestLog, trainingLine } from '../../src/control/gateway/request-log.ts'
import { bytes } from '../openai/byte-tokenizer.ts'
import { events, post } from '../openai/harness.ts'
import { bearer, gatewayOver, knows } from './harness.ts'
import { deployment, scriptedReplica, version } from './scripted-replica.ts'

const scratch = mkdtempSync(join(tmpdir(), 'ropeway-copies-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true, maxRetries: 9 }))

const chat = (content: string, fields: object = {}) => ({
  model: 'stories',
  messages: [{ role: 'user', content }],
  max_tokens: 6,
  seed: 4,
  ...fields,
})

test('a shadow gets copies, its answers are compared and reach nobody, and nobody is billed for them', async () => {
  await using a = await scriptedReplica('a')
  await using b = await scriptedReplica('b')
  const versions = [version([a.replica]), version([b.replica], { id: 'v2', share: 0 })]
  await using through = await gatewayOver([
    deployment('stories', { versions, shadow: { version: 'v2', share: 1 } }),
  ])
  const ask = async (body: object) => await (await post(`${through.url}/v1/chat/completions`, body)).text()
  const own = await ask(chat('Hello'))
  await ask(chat('Hello again', { stream: true }))
  b.engine.script = () => ({ tokens: bytes('other') })
  expect(JSON.parse(await ask(chat('Hello'))).choices).toEqual(JSON.parse(own).choices)
  b.engine.admission = () => ({ ok: false, code: 'queue_full' })
  await ask(chat('Hello'))
  // Who names a version gets that one, and no copy is made.
  await ask(chat('Hello', { model: 'stories:v1' }))
  await expect
    .poll(async () => {
      const text = await through.gateway.metrics.render()
      return [...text.matchAll(/^ropeway_gateway_shadow_total\{.*outcome="(\w+)"\} (\d+)$/gm)]
        .map(([, outcome, count]) => `${outcome} ${count}`)
        .sort()
    })
    .toEqual(['different 1', 'failed 1', 'same 2'])
  expect([a.engine.submitted.length, b.engine.submitted.length]).toEqual([5, 4])
  expect(through.gateway.metrics.counters('stories', 'v2')).toEqual({ requests: 4, failures: 1 })
  const billed = through.ledger.sums.rows().reduce((sum, row) => sum + row.requests, 0)
  expect([billed, through.errors]).toEqual([5, []])
})

test('a deployment that asks for it has its requests in a file an hour, and they become training data', async () => {
  await using a = await scriptedReplica('a')
  a.engine.script = () => ({ tokens: bytes('Yes.') })
  const clock = new ManualClock(Date.UTC(2026, 10, 26, 9, 59))
  const folder = join(scratch, 'log')
  const faults: string[] = []
  const requestLog = new RequestLog(folder, clock, {
    limits: { hoursMax: 2 },
    onFault: (message) => faults.push(message),
  })
  const versions = [version([a.replica])]
  await using through = await gatewayOver(
    [
      deployment('stories', { versions, logged: true }),
      deployment('silent', { versions: [version([{ ...a.replica, id: 'a2' }])] }),
    ],
    { requestLog, clock },
  )
  const ask = async (path: string, body: object) =>
    await events(await post(`${through.url}/v1/${path}`, body))
  await ask('chat/completions', chat('Is it?', { stream: true }))
  await ask('completions', { model: 'stories', prompt: 'It is', max_tokens: 9 })
  await ask('completions', { model: 'stories', prompt: 'Cut', max_tokens: 2 })
  await ask('completions', { model: 'silent', prompt: 'Secret', max_tokens: 9 })
  clock.advance(3_600_000)
  await ask('chat/completions', chat('Two?', { n: 2 }))
  await requestLog.flush()
  expect(requestLog.hours('stories')).toEqual(['2026-11-26T09', '2026-11-26T10'])
  expect(requestLog.hours('silent')).toEqual([])
  // What a kill left of a line is passed over.
  appendFileSync(join(folder, 'stories', '2026-11-26T10.ndjson'), '{"at":1,"bo')
  const logged: LoggedRequest[] = []
  for await (const one of requestLog.read('stories')) logged.push(one)
  expect(logged).toHaveLength(4)
  expect(logged[0]).toMatchObject({ key: 'anonymous', version: 'v1', answers: ['Yes.'], finishes: ['stop'] })
  expect(logged.map(trainingLine)).toEqual([
    {
      messages: [
        { role: 'user', content: 'Is it?' },
        { role: 'assistant', content: 'Yes.' },
      ],
    },
    { prompt: 'It is', completion: 'Yes.' },
    undefined,
    undefined,
  ])
  clock.advance(3 * 3_600_000)
  await ask('completions', { model: 'stories', prompt: 'Late', max_tokens: 9 })
  await requestLog.flush()
  expect(requestLog.hours('stories')).toEqual(['2026-11-26T13'])
  expect([faults, requestLog.lost, through.errors]).toEqual([[], 0, []])
})

test('the metrics of a deployment are latencies and gauges by version and replica, for its own project', async () => {
  await using a = await scriptedReplica('a')
  await using through = await gatewayOver([deployment('stories', { versions: [version([a.replica])] })], {
    verify: knows({ ours: {}, theirs: { project: 'other' } }),
    limits: { gaugesMs: 20 },
  })
  for (const stream of [true, false])
    await (await post(`${through.url}/v1/chat/completions`, chat('Hello', { stream }), bearer('ours'))).text()
  const url = `${through.url}/v1/deployments/stories/metrics`
  const report = async () =>
    (await (await fetch(`${url}?window=60`, bearer('ours'))).json()) as DeploymentReport
  await expect.poll(async () => (await report()).replicas[0]!.gauges?.running).toBe(0)
  const { deployment: name, firstTokenMs, perTokenMs, versions, replicas } = await report()
  expect([name, firstTokenMs!.count, perTokenMs!.count]).toEqual(['stories', 1, 2])
  expect(versions).toMatchObject([
    { version: 'v1', share: 1, requests: 2, failures: 0, queueMs: { count: 2 } },
  ])
  expect(replicas).toMatchObject([
    {
      ...{ replica: 'a', state: 'ready', inFlight: 0, isEjected: false, firstTokenMs: { count: 1 } },
      gauges: { running: 0, waiting: 0, cacheBlocks: { free: 10, cached: 2, held: 0 }, cacheUsed: 0 },
    },
  ])
  expect(firstTokenMs!.p50).toBeLessThanOrEqual(firstTokenMs!.p99)
  expect((await fetch(`${url}?window=5`, bearer('ours'))).status).toBe(400)
  expect((await fetch(url, bearer('theirs'))).status).toBe(404)
  expect((await fetch(url)).status).toBe(401)
})

test('an answer that called a tool is logged, compared and learned from with its calls', () => {
  const call = (id: string) => ({ id, type: 'function', function: { name: 'f', arguments: '{"a": 1}' } })
  const streamed = new AnswerRecord()
  const delta = { tool_calls: [{ index: 0, ...call('one') }] }
  for (const choice of [
    { delta: { content: 'I ' } },
    { delta: { content: 'look.' } },
    { delta, finish_reason: 'tool_calls' },
  ])
    streamed.add({ choices: [{ index: 0, ...choice }] })
  const whole = new AnswerRecord()
  const message = { content: 'I look.', tool_calls: [call('two')] }
  whole.add({ choices: [{ index: 0, message, finish_reason: 'tool_calls' }] })
  expect(streamed.said).toBe(whole.said)
  const tools = [{ type: 'function', function: { name: 'f' } }]
  const messages = [{ role: 'user', content: 'Look.' }]
  const logged = (answers: readonly string[]): LoggedRequest => ({
    ...{ at: 0, request: 'r', key: 'k', version: 'v1', path: '/v1/chat/completions', ms: 1 },
    ...{ body: { messages, tools }, answers, calls: streamed.calls, finishes: streamed.finishes },
  })
  const said = { role: 'assistant', content: 'I look.', tool_calls: [call('one')] }
  expect(trainingLine(logged(streamed.texts))).toEqual({ messages: [...messages, said], tools })
  expect(trainingLine(logged(['']))).toMatchObject({ messages: [{}, { content: null, tool_calls: [{}] }] })
})
