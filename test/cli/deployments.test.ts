/** Deployments on the command line, as far as no replica is needed. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { RequestLog } from '../../src/control/gateway/request-log.ts'
import { ropeway, type Workbench, workbench } from './command-line.ts'

let bench: Workbench
beforeAll(async () => {
  bench = await workbench()
  const model = join(bench.folder, 'model')
  mkdirSync(model)
  writeFileSync(join(model, 'config.json'), '{}')
  writeFileSync(join(model, 'model.safetensors'), 'weights')
  await ropeway(['checkpoint', 'upload', 'base', model])
  for (const name of ['story', 'story2']) await ropeway(['model', 'promote', 'base', name])
})
afterAll(() => bench[Symbol.asyncDispose]())

const deployment = (...words: string[]) => ropeway(['deployment', ...words])

test('a deployment is made, changed, seen by the beginning of its name, and waited for so long and no longer', async () => {
  const made = await deployment(
    'create',
    'chat',
    '--model',
    'story',
    '--max',
    '2',
    '--request-log',
    '--wait',
    '0',
  )
  expect(made).toMatchObject({ code: 7, err: expect.stringContaining('ropeway deployment logs chat') })
  const changed = await deployment('update', 'ch', '--model', 'story2', '--canary', '10')
  expect(changed).toMatchObject({ code: 0, out: expect.stringContaining('chat') })
  expect((await deployment('view', 'ch', '--json')).json).toMatchObject([
    { target: 'v2', rollout: { canary: 0.1 }, scaling: { max: 2 } },
  ])
  const events = (await deployment('events', 'chat', '--json')).json.map(({ kind }) => kind)
  expect(events[0]).toBe('deployment.created')
  expect(events).toContain('deployment.version_added')
  expect((await deployment('events', 'chat', '--limit', '1', '--json')).json).toHaveLength(1)
  expect((await deployment('rollback', 'chat')).code).toBe(3)
  expect((await deployment('logs', 'chat', '--replica', 'dep_1')).code).toBe(3)
})

test('requests that were logged are listed by hour, printed, and made a dataset', async () => {
  const { clock } = bench.service
  const log = new RequestLog(join(bench.folder, 'service', 'requests'), clock, {
    onFault: (message) => {
      throw new Error(message)
    },
  })
  expect(await deployment('to-dataset', 'chat', '--into', 'said')).toMatchObject({ code: 3 })
  for (const text of ['Good.', 'Bad.'])
    log.write('chat', {
      ...{ at: clock.unixMs(), request: 'req_1', key: 'key_1', version: 'v1', path: '/v1/chat/completions' },
      body: { messages: [{ role: 'user', content: 'How was it?' }] },
      ...{ answers: [text], finishes: ['stop'], ms: 12 },
    })
  await log.flush()
  const hour = new Date(clock.unixMs()).toISOString().slice(0, 13)
  expect((await deployment('requests', 'chat', '--hours')).out).toBe(`${hour}\n`)
  expect((await deployment('requests', 'chat', '--from', hour)).json).toHaveLength(2)
  expect((await deployment('requests', 'chat', '--from', '2030-01-01T00')).json).toEqual([])
  expect((await deployment('requests', 'chat', '--from', 'today')).code).toBe(2)
  expect((await deployment('to-dataset', 'chat')).json[0].messages.at(-1)).toMatchObject({ content: 'Good.' })
  expect((await deployment('to-dataset', 'chat', '--into', 'said')).out).toMatch(/name +said@1\nsamples +2/)
  const preview = (await ropeway(['dataset', 'preview', 'said'])).json
  expect(preview.map(({ messages }) => messages.at(-1).content)).toEqual(['Good.', 'Bad.'])
})

test('latencies are shown as percentiles, of the whole, by version and by replica', async () => {
  const latency = { count: 3, mean: 20, p50: 12.34, p90: 30, p99: 412 }
  const report = {
    ...{ deployment: 'chat', windowMs: 60_000, firstTokenMs: latency },
    versions: [{ version: 'v1', share: 1, requests: 3, failures: 0, firstTokenMs: latency }],
    replicas: [
      {
        ...{
          replica: 'dep_1.1',
          version: 'v1',
          state: 'ready',
          inFlight: 1,
          isEjected: false,
          queueMs: latency,
        },
        gauges: { running: 4, waiting: 2, cacheBlocks: { free: 1, cached: 0, held: 1 }, cacheUsed: 0.5 },
      },
    ],
  }
  const real = globalThis.fetch
  const mocked = vi
    .spyOn(globalThis, 'fetch')
    .mockImplementation(async (url, init) =>
      String(url).includes('/metrics?window=60') ? Response.json(report) : await real(url, init),
    )
  try {
    const { out } = await deployment('metrics', 'chat', '--window', '60')
    expect(out).toMatch(/^OF +FIRST TOKEN ms +A TOKEN ms +QUEUE ms +BATCH +WAITING +CACHE\n/)
    expect(out).toMatch(/chat +12\.3\/30\.0\/412 +-/)
    expect(out).toMatch(/dep_1\.1 +- +- +12\.3\/30\.0\/412 +4 +2 +50 %/)
  } finally {
    mocked.mockRestore()
  }
})

test('usage of a deployment is its own, and deleting asks', async () => {
  expect((await deployment('usage', 'chat', '--json')).json).toMatchObject([
    { tokens: [], devices: [], cost: 0 },
  ])
  expect((await deployment('delete', 'chat')).code).toBe(2)
  expect((await deployment('delete', 'chat', '-y')).code).toBe(0)
})
