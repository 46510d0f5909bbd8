import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { UsageLog } from '../../src/openai/usage-log.ts'
import { gatewayKey } from '../gateway/scripted-replica.ts'
import { harness, model, post } from './harness.ts'

const scratch = mkdtempSync(join(tmpdir(), 'ropeway-usage-log-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true, maxRetries: 9 }))

const head = { request: 'r', tenant: 't', model: 'm' }
const used = (output: number) => ({
  prompt_tokens: 3,
  completion_tokens: output,
  total_tokens: 3 + output,
  prompt_tokens_details: { cached_tokens: 0 },
})
const linesOf = (path: string) =>
  readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line.endsWith('}'))
    .map((line) => JSON.parse(line) as Record<string, unknown>)

test('a full file makes room, the oldest go, and what is kept stays within the limit', () => {
  const folder = join(scratch, 'rotation')
  const path = join(folder, 'usage.ndjson')
  const limits = { fileBytesMax: 400, olderFilesMax: 2 }
  const log = new UsageLog(path, new ManualClock(), { limits, onFault: () => expect.unreachable() })
  for (let i = 0; i < 50; i++) log.write(head, 'ok', used(i), 0)
  log.close()
  expect(readdirSync(folder).sort()).toEqual(['usage.ndjson', 'usage.ndjson.1', 'usage.ndjson.2'])
  const kept = ['.2', '.1', ''].flatMap((end) => {
    const text = readFileSync(path + end, 'utf8')
    expect(text.length).toBeLessThanOrEqual(400)
    return linesOf(path + end)
  })
  const outputs = kept.map(({ output }) => output as number)
  expect(outputs).toEqual(Array.from({ length: outputs.length }, (_, i) => 50 - outputs.length + i))
})

test('a torn line and a full disk cost their own lines and no other', () => {
  const path = join(scratch, 'torn.ndjson')
  writeFileSync(path, '{"at":1,"request":"to')
  let room = Number.POSITIVE_INFINITY
  const faults: string[] = []
  const log = new UsageLog(path, new ManualClock(), {
    onFault: (message) => faults.push(message),
    append: (file, bytes) => {
      const taken = writeSync(file, bytes.subarray(0, Math.min(bytes.length, room)))
      room -= taken
      return taken
    },
  })
  log.write(head, 'ok', used(1), 0)
  room = 20
  log.write(head, 'ok', used(2), 0)
  log.write(head, 'ok', used(3), 0)
  room = Number.POSITIVE_INFINITY
  log.write(head, 'ok', used(4), 0)
  log.close()
  expect(linesOf(path).map(({ output }) => output)).toEqual([1, 4])
  expect([log.lost, faults.length]).toEqual([2, 1])
})

test('every ended request leaves one line before its answer ends, refused ones none, and no line holds a prompt', async () => {
  const path = join(scratch, 'requests.ndjson')
  const usageLog = new UsageLog(path, new ManualClock(1000), { onFault: () => expect.unreachable() })
  await using served = await harness({ usageLog, gatewayKeys: [gatewayKey] })
  const headers = (call: string) => ({
    headers: { authorization: `Bearer ${gatewayKey}`, 'x-request-id': `of-${call}`, 'x-ropeway-call': call },
  })
  const ask = (call: string, body: object) =>
    post(`${served.url}/v1/completions`, { model, prompt: 'Secret', max_tokens: 5, ...body }, headers(call))
  await (await ask('whole', { n: 2 })).text()
  await (await ask('stream', { stream: true })).text()
  expect((await ask('late', { max_tokens: 5000 })).status).toBe(400)

  served.engine.pace = 'manual'
  const cancelled = ask('cancelled', { stream: true })
  await served.engine.until(() => served.engine.runningCount === 1)
  for (let i = 0; i < 4; i++) served.engine.iterate()
  const end = await fetch(`${served.url}/v1/calls/cancelled`, { method: 'DELETE', ...headers('x') })
  expect(end.status).toBe(200)
  expect(await (await cancelled).text()).toMatch(/\[DONE\]\n\n$/)
  expect(
    (await fetch(`${served.url}/v1/calls/cancelled`, { method: 'DELETE', ...headers('x') })).status,
  ).toBe(404)

  expect(linesOf(path)).toEqual(
    [
      { call: 'whole', outcome: 'ok', output: 10 },
      { call: 'stream', outcome: 'ok', output: 5 },
      { call: 'cancelled', outcome: 'cancelled', output: 3 },
    ].map((line) => ({
      at: 1000,
      request: `of-${line.call}`,
      tenant: 'gateway',
      model,
      prompt: 6,
      cached: expect.any(Number),
      ...line,
    })),
  )
  expect(readFileSync(path, 'utf8')).not.toContain('Secret')
  usageLog.close()
})

test('what a bug leaves of a request is cancelled before its answer, and the request has failed', async () => {
  const path = join(scratch, 'bug.ndjson')
  const usageLog = new UsageLog(path, new ManualClock(1000), { onFault: () => expect.unreachable() })
  await using served = await harness({ usageLog })
  const { engine } = served
  engine.pace = 'manual'
  engine.script = ({ prompt }) => ({ tokens: [], promptIterations: prompt[0] === 1 ? 1 : 100 })
  const submit = engine.submit.bind(engine)
  engine.submit = (request, listener) =>
    submit(request, ({ embedding: _, ...progress }) => listener(progress))
  const answer = post(`${served.url}/v1/embeddings`, { model, input: [[1], [2], [3]] })
  await engine.until(() => engine.runningCount === 3)
  for (let i = 0; i < 2; i++) engine.iterate()
  expect((await answer).status).toBe(500)
  expect(served.errors).toHaveLength(1)
  expect(engine.cancelled).toHaveLength(2)
  await engine.until(() => engine.runningCount === 0)
  expect(linesOf(path)).toMatchObject([{ outcome: 'failed' }])
  usageLog.close()
})
