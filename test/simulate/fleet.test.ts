import { expect, test } from 'vitest'
import { measuredEfficiencies } from '../../src/serve/simulate/accelerator.ts'
import { keepsGoal, replicasFor, servingPolicy, waitingMax } from '../../src/serve/simulate/capacity.ts'
import { type RunRecord, runFleet } from '../../src/serve/simulate/fleet.ts'
import { ourPolicy, rooflineFor } from '../../src/serve/simulate/osdi22.ts'
import type { Policy } from '../../src/serve/simulate/policies.ts'
import { quantile, summarize } from '../../src/serve/simulate/statistics.ts'
import { readTrace } from '../../src/serve/simulate/trace-file.ts'
import { type Arrival, day, poisson, publishedLengths } from '../../src/serve/simulate/workload.ts'
import { sharedData } from '../shared.ts'

const one = { model: '13b', tensor: 1, pipeline: 1 }
const small = rooflineFor(one)
const sixteen = rooflineFor({ model: '175b', tensor: 8, pipeline: 2 })
const policies: Policy[] = [
  { name: 'static', batchMax: 8 },
  { name: 'static', batchMax: 8, microBatchMax: 2, prompts: 'shortest' },
  { name: 'timeout', batchMax: 8, timeoutMs: 500 },
  { name: 'published', batchMax: 16 },
  ourPolicy,
]

function goalPolicy(): Policy {
  const goal = { ttftMs: 2000, tpotMs: 60, share: 0.99 }
  return servingPolicy({ stepTokensMax: 512, prefixCache: false, goal })
}

for (const roofline of [small, sixteen]) {
  const { model, pipeline } = roofline.deployment
  test(`on ${model.name} over ${pipeline} stages every request ends, under every policy, after it came`, () => {
    for (const policy of policies) {
      const record = runFleet(roofline, policy, poisson(200, 2, publishedLengths, 3))
      expect(record.refused).toBe(0)
      for (const [i, { atMs }] of record.arrivals.entries()) {
        expect(record.firstMs[i]).toBeGreaterThan(atMs)
        expect(record.endMs[i]).toBeGreaterThanOrEqual(record.firstMs[i]!)
      }
    }
  })
}

test('the same seed gives the same run, another seed another', () => {
  const run = (seed: number) => runFleet(small, ourPolicy, poisson(200, 2, publishedLengths, seed)).endMs
  expect(run(5)).toEqual(run(5))
  expect(run(5)).not.toEqual(run(6))
})

function expectEqualRuns(a: RunRecord, b: RunRecord): void {
  expect(a.firstMs).toEqual(b.firstMs)
  expect(a.endMs).toEqual(b.endMs)
  expect([a.iterations, a.preemptions, a.refused]).toEqual([b.iterations, b.preemptions, b.refused])
}

const loads: [string, Arrival[]][] = [
  ['light', poisson(150, 0.5, publishedLengths, 1)],
  ['heavy', poisson(300, 6, publishedLengths, 2)],
  ['long outputs and no room', poisson(150, 3, { prompt: [100, 900], output: [200, 900] }, 3)],
  ['all at once', poisson(100, 1e6, { prompt: [10, 700], output: [1, 300] }, 4)],
]

for (const [name, arrivals] of loads) {
  test(`committing quiet stretches at once gives the very times of stepping: ${name}`, () => {
    const queueing: Policy = { name: 'ours', options: { ...optionsOf(ourPolicy), runningMax: 12 } }
    for (const policy of [ourPolicy, queueing, goalPolicy()]) {
      for (const replicas of [1, 3]) {
        const coarse = runFleet(small, policy, arrivals, { replicas, coarse: true })
        const stepped = runFleet(small, policy, arrivals, { replicas, coarse: false })
        expectEqualRuns(coarse, stepped)
      }
    }
  })
}

function optionsOf(policy: Policy) {
  return policy.name === 'ours' ? policy.options : undefined
}

test('the load without room preempts, so that stretches are held to it', () => {
  expect(runFleet(small, ourPolicy, loads[2]![1]).preemptions).toBeGreaterThan(10)
})

test('with homogeneous lengths and a full queue, scheduling by iterations gains almost nothing', () => {
  const burst = (prompt: [number, number], output: [number, number]) =>
    poisson(320, 1e6, { prompt, output }, 1)
  const gain = (arrivals: Arrival[]) => {
    const perSecond = (policy: Policy) => summarize(runFleet(small, policy, arrivals)).requestsPerSecond
    return perSecond({ name: 'published', batchMax: 8 }) / perSecond({ name: 'static', batchMax: 8 })
  }
  const homogeneous = gain(burst([272, 272], [64, 64]))
  expect(homogeneous).toBeGreaterThan(0.95)
  expect(homogeneous).toBeLessThan(1.1)
  expect(gain(burst([32, 512], [1, 128]))).toBeGreaterThan(1.5)
})

test('more replicas and a faster memory keep more requests within their goal', () => {
  const arrivals = poisson(300, 4, publishedLengths, 1)
  const goal = { ttftMs: 1000, tpotMs: 60, share: 0.99 }
  const kept = (record: RunRecord) => arrivals.filter((_, i) => keepsGoal(record, i, goal)).length
  const counts = [1, 2, 4].map((replicas) => kept(runFleet(small, ourPolicy, arrivals, { replicas })))
  expect([...counts].sort((a, b) => a - b)).toEqual(counts)
  const faster = rooflineFor(one, { ...measuredEfficiencies, memory: 0.9 })
  expect(kept(runFleet(faster, ourPolicy, arrivals))).toBeGreaterThanOrEqual(counts[0]!)
})

test('the least number of replicas for a goal keeps it, and one fewer does not', () => {
  const arrivals = poisson(400, 30, publishedLengths, 1)
  const goal = { ttftMs: 1000, tpotMs: 60, share: 0.95 }
  const policy = servingPolicy({ stepTokensMax: 512, prefixCache: false })
  const { replicas, kept, tried } = replicasFor(small, policy, arrivals, goal, 64)
  expect(kept).toBeGreaterThanOrEqual(0.95)
  expect(tried.find((attempt) => attempt.replicas === replicas)!.enough).toBe(true)
  expect(tried.find((attempt) => attempt.replicas === replicas! - 1)!.enough).toBe(false)
  expect(replicasFor(small, policy, arrivals, goal, 1).replicas).toBeUndefined()
})

test('a queue that is full refuses, and who was refused counts as not kept', () => {
  const arrivals = Array.from({ length: waitingMax + 100 }, () => ({
    atMs: 1,
    promptTokens: 8,
    outputTokens: 1,
  }))
  const record = runFleet(small, servingPolicy({ stepTokensMax: 512, prefixCache: false }), arrivals)
  expect(record.refused).toBeGreaterThan(0)
  expect(record.refused).toBeLessThanOrEqual(100)
  const goal = { ttftMs: Number.MAX_VALUE, tpotMs: Number.MAX_VALUE, share: 1 }
  expect(arrivals.filter((_, i) => keepsGoal(record, i, goal))).toHaveLength(arrivals.length - record.refused)
  expect(Number.isFinite(summarize(record).firstTokenMs.p99)).toBe(true)
})

test('a synthetic day has its requests within the day, in order, and a peak', () => {
  const arrivals = day(5000, 1)
  expect(arrivals).toHaveLength(5000)
  for (let i = 1; i < arrivals.length; i++)
    expect(arrivals[i]!.atMs).toBeGreaterThanOrEqual(arrivals[i - 1]!.atMs)
  const hours = new Array<number>(24).fill(0)
  for (const { atMs } of arrivals) hours[Math.floor(atMs / 3_600_000)]!++
  expect(Math.max(...hours) / Math.min(...hours)).toBeGreaterThan(2)
})

test('quantiles interpolate between neighbours', () => {
  expect(quantile([4, 1, 3, 2], 0.5)).toBe(2.5)
  expect(quantile([1, 2], 1)).toBe(2)
})

const azure = sharedData('traces', 'azure-2023-conv.csv.gz')
const mooncake = sharedData('traces', 'mooncake-synthetic.jsonl.gz')

test.skipIf(azure === undefined)('the Azure trace is read to the millisecond', () => {
  const arrivals = readTrace(azure!)
  expect(arrivals).toHaveLength(19366)
  expect(arrivals[0]).toEqual({ atMs: 0, promptTokens: 374, outputTokens: 44 })
  expect(arrivals[1]!.atMs).toBeCloseTo(4314.577, 2)
})

test.skipIf(mooncake === undefined)('the Mooncake trace is read with the pieces of its prompts', () => {
  const arrivals = readTrace(mooncake!)
  expect(arrivals[0]).toMatchObject({ atMs: 0, promptTokens: 40160, outputTokens: 6 })
  expect(arrivals[0]!.pieces).toHaveLength(79)
})

test('prompts that begin with the same pieces find each other in the cache', () => {
  const arrivals = Array.from({ length: 20 }, (_, i) => {
    return { atMs: i * 2000, promptTokens: 1500, outputTokens: 20, pieces: [1, 2, 100 + i] }
  })
  const firstTokenMs = (prefixCache: boolean) =>
    summarize(runFleet(small, servingPolicy({ stepTokensMax: 2048, prefixCache }), arrivals)).firstTokenMs.p50
  expect(firstTokenMs(true)).toBeLessThan(0.6 * firstTokenMs(false))
})
