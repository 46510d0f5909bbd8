import { mkdtempSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command } from 'commander'
import { expect, test } from 'vitest'
import { makeModel } from '../../bench/make-model.ts'
import { ManualClock } from '../../src/base/clock.ts'
import { benchCommand } from '../../src/cli/commands/bench.ts'
import { simulateCommand } from '../../src/cli/commands/simulate.ts'
import { runEngine } from '../../src/serve/simulate/engine-run.ts'
import { compare, publishedTest, rooflineFor } from '../../src/serve/simulate/osdi22.ts'
import {
  benchPolicies,
  comparedPolicies,
  type PolicyPoint,
  simulatedRunner,
  verdictOf,
} from '../../src/serve/simulate/policy-bench.ts'
import { summarize } from '../../src/serve/simulate/statistics.ts'
import { type Lengths, poisson, publishedLengths } from '../../src/serve/simulate/workload.ts'
import { FakeDevice } from '../serve/fake-device.ts'

const shape = { vocabularySize: 24, contextMax: 64, blockTokens: 4, blockCount: 100 }
const short: Lengths = { prompt: [2, 20], output: [1, 12] }

for (const policy of comparedPolicies(4, 5)) {
  test(`a real engine under the policy '${policy.name}' ends a workload of arrivals, none before it came`, async () => {
    const clock = new ManualClock()
    const device = new FakeDevice(shape, clock)
    const sleep = async (ms: number) => clock.advance(ms)
    const arrivals = poisson(30, 100, short, 1)
    const run = await runEngine(device, policy, arrivals, { clock, seed: 1, limitMs: 1e6, sleep })
    expect(device.violation).toBeUndefined()
    expect(run.unfinished).toBe(0)
    for (const [i, { atMs }] of arrivals.entries()) expect(run.endMs[i]).toBeGreaterThan(atMs)
  })
}

test('a request that has not ended at the limit of its run counts as slower than every other', async () => {
  const clock = new ManualClock()
  const sleep = async (ms: number) => clock.advance(ms)
  const arrivals = poisson(50, 1e6, short, 1)
  const [policy] = comparedPolicies(1, 0)
  const run = await runEngine(new FakeDevice(shape, clock), policy!, arrivals, {
    clock,
    seed: 1,
    limitMs: 40,
    sleep,
  })
  expect(run.unfinished).toBeGreaterThan(10)
  const { requests, perTokenMs, refused } = summarize(run)
  expect(requests + run.unfinished).toBe(50)
  expect([perTokenMs.p50, refused]).toEqual([Number.POSITIVE_INFINITY, 0])
})

test('points that are known are not run again, and cheap rates come first', async () => {
  const bench = {
    lengths: publishedLengths,
    policies: comparedPolicies(8, 100),
    rates: [1, 4],
    rateSteps: [],
    seed: 1,
    windowMs: Number.POSITIVE_INFINITY,
    requestsMax: 60,
  }
  const run = simulatedRunner(rooflineFor({ model: '13b', tensor: 1, pipeline: 1 }))
  const first: PolicyPoint[] = []
  const all = await benchPolicies(bench, run, [], (point) => first.push(point))
  expect(first.map(({ offered }) => offered)).toEqual([0, 1, 1, 1, 1, 4, 4, 4, 4])
  const again: PolicyPoint[] = []
  await benchPolicies(bench, run, first.slice(0, 6), (point) => again.push(point))
  expect(again).toEqual(all.slice(6))
})

test('at the published lengths iterations serve several times what static batches do, at equal latency', async () => {
  const bench = {
    lengths: publishedLengths,
    policies: comparedPolicies(16, 100),
    rateSteps: [0.25, 0.5, 1, 2, 4, 8, 16],
    seed: 1,
    windowMs: Number.POSITIVE_INFINITY,
    requestsMax: 150,
  }
  const run = simulatedRunner(rooflineFor({ model: '13b', tensor: 1, pipeline: 1 }))
  const { ratio, perSecond } = verdictOf(await benchPolicies(bench, run, [], () => undefined))
  expect(ratio.static).toBeGreaterThan(3)
  expect(perSecond.published).toBeGreaterThan(3 * perSecond.timeout!)
})

test('the published headline is met within a factor of 1.5 by constants that do not know of it', () => {
  const roofline = rooflineFor({ model: '175b', tensor: 8, pipeline: 2 })
  const { ratio, requestLevel } = compare(roofline, publishedTest(200), 190)
  expect(ratio).toBeGreaterThan(36.9 / 1.5)
  expect(ratio).toBeLessThan(36.9 * 1.5)
  expect(requestLevel.perSecond).toBeLessThan(0.6)
})

test('bench policies runs on a real model, writes points, verdict and plot, and goes on where it was', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-policies-'))
  const model = join(folder, 'tiny.gguf')
  const [out, plot] = [join(folder, 'points.jsonl'), join(folder, 'plot.svg')]
  const size = { layers: 2, width: 64, heads: 2, keyValueHeads: 1, feedForward: 96, vocabulary: 320 }
  makeModel(model, size)
  const run = async () => {
    const program = new Command()
    benchCommand(program)
    const lengths = ['--prompt', '2-16', '--output', '1-8', '--batch', '4', '--threads', '1']
    const small = ['--rates', '40,400', '--minutes', '0.02', '--requests-max', '12']
    const files = ['--out', out, '--plot', plot]
    await program.parseAsync(['bench', 'policies', model, ...lengths, ...small, ...files], { from: 'user' })
    return readFileSync(out, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { type: string })
  }
  const first = await run()
  const count = (lines: { type: string }[], type: string) => lines.filter((line) => line.type === type).length
  expect([count(first, 'setting'), count(first, 'point'), count(first, 'verdict')]).toEqual([1, 9, 1])
  expect(readFileSync(plot, 'utf8')).toContain('Ropeway')
  const second = await run()
  expect([count(second, 'setting'), count(second, 'point'), count(second, 'verdict')]).toEqual([1, 9, 2])
})

test('simulate plays a day and prints what it took', async () => {
  const program = new Command()
  simulateCommand(program)
  const written: string[] = []
  const write = process.stdout.write
  process.stdout.write = (text: string | Uint8Array) => written.push(String(text)) > 0
  try {
    const flags = ['--requests', '2000', '--replicas', '1', '--json']
    await program.parseAsync(['simulate', 'day', ...flags], { from: 'user' })
  } finally {
    process.stdout.write = write
  }
  expect(JSON.parse(written.join(''))).toMatchObject({ type: 'day', requests: 2000, refused: 0, replicas: 1 })
})
