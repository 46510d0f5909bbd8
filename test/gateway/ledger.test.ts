import {
  appendFileSync,
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { Ledger } from '../../src/control/gateway/ledger.ts'
import { post } from '../openai/harness.ts'
import { bearer, gatewayOver, knows } from './harness.ts'
import { deployment, scriptedReplica, version } from './scripted-replica.ts'

const scratch = mkdtempSync(join(tmpdir(), 'ropeway-ledger-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true, maxRetries: 9 }))

const startMs = Date.UTC(2026, 10, 25, 12)
const head = { request: 'r', project: 'main', key: 'k', model: 'stories' }

/** What a kill at this moment would leave, in a folder of its own. */
function asKilled(folder: string): string {
  const left = `${folder}-left`
  cpSync(folder, left, { recursive: true })
  return left
}

test('sums survive any number of restarts, a torn last line, and a merge that is done twice', () => {
  let folder = join(scratch, 'restarts')
  const clock = new ManualClock(startMs)
  for (let life = 1; life <= 3; life++) {
    const ledger = new Ledger(folder, clock)
    const bill = ledger.begin(head)
    bill.update({ prompt: 10, output: 1 })
    ledger.flush()
    bill.update({ prompt: 10, cached: 4, output: 5 })
    bill.settle()
    const unfinished = ledger.begin({ ...head, key: 'open' })
    unfinished.update({ prompt: 3, output: 2 })
    ledger.flush()
    const last = readdirSync(folder)
      .filter((name) => name.startsWith('usage-'))
      .sort()
      .at(-1)!
    appendFileSync(join(folder, last), '{"at":1,"request":"torn","prom')
    folder = asKilled(folder)
    const again = new Ledger(folder, clock).sums.rows({ project: 'main' })
    folder = asKilled(folder)
    const tokens = again.map(({ key, requests, prompt, cached, output }) => [
      key,
      requests,
      prompt,
      cached,
      output,
    ])
    expect(tokens).toEqual([
      ['k', life, 10 * life, 4 * life, 5 * life],
      ['open', 0, 3 * life, 0, 2 * life],
    ])
  }
})

test("a ledger is one gateway's while that lives, whoever has the number that its process had", () => {
  const folder = join(scratch, 'alone')
  const first = new Ledger(folder, new ManualClock(startMs))
  expect(() => new Ledger(folder, new ManualClock(startMs))).toThrow(
    expect.objectContaining({
      failure: 'conflict',
      fix: expect.stringMatching(/--usage.*`ropeway up --data/),
    }),
  )
  first.close()
  // As versions left it that locked by the number of their process: it is another living one's by now.
  writeFileSync(join(folder, 'ledger.pid'), String(process.ppid))
  new Ledger(folder, new ManualClock(startMs)).close()
})

test('a disk that is full for a while loses no tokens and spoils no line', () => {
  const folder = join(scratch, 'full')
  let room = Number.POSITIVE_INFINITY
  const ledger = new Ledger(folder, new ManualClock(startMs), (file, bytes) => {
    const taken = writeSync(file, bytes.subarray(0, Math.min(bytes.length, room)))
    room -= taken
    return taken
  })
  const [first, second] = [ledger.begin(head), ledger.begin({ ...head, key: 'other' })]
  first.update({ prompt: 10, output: 1 })
  ledger.flush()
  room = 30
  first.update({ prompt: 10, output: 5 })
  expect(() => first.settle()).toThrow(/cannot be written: 30 of \d+ bytes/)
  second.update({ prompt: 7, output: 2 })
  expect(() => ledger.flush()).toThrow(/cannot be written/)
  room = Number.POSITIVE_INFINITY
  ledger.flush()
  second.settle()
  ledger.close()
  const rows = new Ledger(folder, new ManualClock(startMs)).sums.rows()
  expect(rows.map(({ key, requests, prompt, output }) => [key, requests, prompt, output])).toEqual([
    ['k', 1, 10, 5],
    ['other', 1, 7, 2],
  ])
})

test('what clients were answered is on file before the end of their answers, and equals the usage that they read', async () => {
  await using replica = await scriptedReplica('a')
  const folder = join(scratch, 'answers')
  const ledger = new Ledger(folder, new ManualClock(startMs))
  await using through = await gatewayOver(
    [deployment('stories', { versions: [version([replica.replica])] })],
    {
      ledger,
      verify: knows({ one: {}, two: {} }),
    },
  )
  let prompt = 0
  let output = 0
  for (let i = 0; i < 12; i++) {
    const body = {
      model: 'stories',
      prompt: 'Once'.repeat(1 + i),
      max_tokens: 3 + i,
      temperature: 0,
      n: 1 + (i % 2),
    }
    const stream = i % 3 === 0
    const answer = await post(
      `${through.url}/v1/completions`,
      { ...body, stream },
      bearer(i % 2 ? 'one' : 'two'),
    )
    const text = await answer.text()
    if (!stream) expect(JSON.parse(text).usage.completion_tokens).toBe((3 + i) * (1 + (i % 2)))
    prompt += 4 * (1 + i)
    output += (3 + i) * (1 + (i % 2))
    const written = readFileSync(join(folder, 'usage-00000001.ndjson'), 'utf8')
    const lines = written
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, number>)
    const total = (field: string) => lines.reduce((sum, line) => sum + line[field]!, 0)
    expect([total('requests'), total('prompt'), total('output')]).toEqual([i + 1, prompt, output])
    expect(written).not.toContain('Once')
  }
  expect(ledger.sums.rows().map(({ day, key, model, requests }) => [day, key, model, requests])).toEqual([
    ['2026-11-25', 'id-of-one', 'stories', 6],
    ['2026-11-25', 'id-of-two', 'stories', 6],
  ])
})

test('a budget that is used up refuses with insufficient_quota until its next day begins', async () => {
  await using replica = await scriptedReplica('a')
  const clock = new ManualClock(startMs)
  await using through = await gatewayOver(
    [deployment('stories', { versions: [version([replica.replica])] })],
    {
      clock,
      budgets: () => [{ project: 'main', per: 'day', cost: 20 }],
      prices: () => [{ model: 'stories', inputPerMillion: 0, outputPerMillion: 1e6 }],
    },
  )
  const ask = () =>
    post(`${through.url}/v1/completions`, { model: 'stories', prompt: 'Once', max_tokens: 10 })
  expect([(await ask()).status, (await ask()).status]).toEqual([200, 200])
  const refused = await ask()
  expect([refused.status, refused.headers.get('retry-after')]).toEqual([429, String(12 * 3600)])
  expect(await refused.json()).toMatchObject({ error: { code: 'insufficient_quota' } })
  clock.advance(12 * 3_600_000)
  expect((await ask()).status).toBe(200)
})
