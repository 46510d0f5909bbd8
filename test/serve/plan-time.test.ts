import { expect, test } from 'vitest'
import { measure, valuesOf } from '../../bench/harness/bench.ts'
import { plan } from '../../bench/plan.ts'
import { Scheduler } from '../../src/serve/scheduler.ts'
import { request } from './requests.ts'

const surroundings = { modelPath: 'none', say: () => undefined }

test('the bench of plans gives a complete record at its small size, and the service stays within its bound', async () => {
  const record = await measure(plan, 'small', valuesOf(plan.parameters, 'small'), surroundings)
  const { planMedianMs, planP99Ms, serviceApartMost, serviceApartBound } = record.figures
  expect(planMedianMs).toBeGreaterThan(0)
  expect(planP99Ms).toBeGreaterThanOrEqual(planMedianMs!)
  expect(serviceApartMost).toBeGreaterThan(0)
  expect(serviceApartMost).toBeLessThanOrEqual(serviceApartBound!)
})

// The goal is 0.2 ms on a quiet machine; here ten times that tells a scan of what waits from none.
test('a plan with 256 running and 10,000 waiting takes a fraction of a millisecond', async () => {
  const values = { ...valuesOf(plan.parameters, 'large'), plans: 100 }
  const { figures } = await measure(plan, 'custom', values, surroundings)
  expect(figures.planMedianMs).toBeLessThan(2)
  expect(figures.planWithGoalsMedianMs).toBeLessThan(2)
})

test('thousands that age or expire in the same moment are moved in bounded steps', () => {
  const shape = { vocabularySize: 32_000, contextMax: 8192, blockTokens: 16, blockCount: 4096 }
  const limits = { runningMax: 16, stepTokensMax: 64, waitingMax: 20_000 }
  const scheduler = new Scheduler(shape, { ...limits, ageingMs: 1000, queueLimitMs: 50_000 })
  const prompt = Array.from({ length: 16 }, (_, t) => t)
  for (let i = 0; i < 5016; i++) {
    scheduler.submit(request({ prompt, maxTokens: 2000, tenant: `${i % 100}`, priority: i % 3 }), 0)
  }
  const step = (nowMs: number) => {
    const made = scheduler.plan(nowMs)
    const results = made.sequences.map(({ sampledRows }) => ({ tokens: sampledRows > 0 ? [7] : [] }))
    scheduler.commit(made, results, nowMs + 1)
    return made
  }
  for (let i = 0; i < 20; i++) step(i)
  const { queue } = scheduler.roster
  // Of the processor: others may hold it meanwhile.
  const started = process.cpuUsage()
  step(60_000)
  expect(process.cpuUsage(started).user / 1000).toBeLessThan(50)
  expect(queue.size).toBeGreaterThan(4900)
  for (let i = 0; queue.size > 0 && i < 1000; i++) {
    expect(step(60_002 + i).expired.length).toBeLessThanOrEqual(64)
  }
  expect(queue.size).toBe(0)
})
