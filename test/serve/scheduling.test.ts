import { expect, test } from 'vitest'
import { deriveSeed, Random } from '../../src/base/random.ts'
import type { ExecutorShape } from '../../src/serve/executor.ts'
import { defaultSchedulerOptions, type SchedulerOptions } from '../../src/serve/options.ts'
import type { IterationPlan } from '../../src/serve/plan.ts'
import type { EngineRequest } from '../../src/serve/request.ts'
import { Scheduler } from '../../src/serve/scheduler.ts'
import { request } from './requests.ts'

const shape: ExecutorShape = { vocabularySize: 1000, contextMax: 8192, blockTokens: 4, blockCount: 4096 }
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => (from + i) % 1000)

/** A scheduler whose iterations take `iterationMs` and whose streams say token 7 for ever. */
class Bench {
  readonly scheduler: Scheduler
  nowMs = 0
  iterationMs: (plan: IterationPlan) => number = () => 10
  readonly plans: IterationPlan[] = []
  readonly finished: string[] = []

  constructor(options: Partial<SchedulerOptions> = {}, given: ExecutorShape = shape) {
    this.scheduler = new Scheduler(given, { stepTokensMax: 64, runningMax: 8, ...options })
  }

  submit(given: Partial<EngineRequest> = {}) {
    const wish = request(given)
    return { id: wish.id, admission: this.scheduler.submit(wish, this.nowMs) }
  }

  step(): IterationPlan {
    const plan = this.scheduler.plan(this.nowMs)
    this.plans.push(plan)
    this.nowMs += this.iterationMs(plan)
    const results = plan.sequences.map((entry) => ({ tokens: entry.sampledRows > 0 ? [7] : [] }))
    for (const outcome of this.scheduler.commit(plan, results, this.nowMs)) {
      if (outcome.finish !== undefined) this.finished.push(outcome.sequence.id)
    }
    return plan
  }

  run(): void {
    while (this.scheduler.roster.live > 0) this.step()
  }

  counts(plan: IterationPlan): Record<string, number> {
    return Object.fromEntries(plan.sequences.map((entry) => [entry.sequence.id, entry.count]))
  }
}

test('short prompts pass a long one that is in progress, which gets at least half and all that they leave', () => {
  const bench = new Bench()
  bench.submit({ id: 'giant', prompt: range(0, 300) })
  bench.submit({ id: 'small', prompt: range(400, 410) })
  bench.submit({ id: 'middle', prompt: range(500, 530) })
  // Half of 64 is the giant's. 22 are left behind the small one: too few for the middle one, so they go back.
  expect(bench.counts(bench.step())).toEqual({ giant: 54, small: 10 })
  expect(bench.counts(bench.step())).toEqual({ giant: 33, small: 1, middle: 30 })
})

test('of two long prompts the older is finished first', () => {
  const bench = new Bench()
  bench.submit({ id: 'first', prompt: range(0, 300) })
  bench.submit({ id: 'second', prompt: range(400, 700) })
  for (let i = 0; i < 4; i++) expect(bench.counts(bench.step())).toEqual({ first: 64 })
  expect(bench.counts(bench.step())).toEqual({ first: 44, second: 20 })
})

test('blocks are allocated as they are needed and never for tokens to come', () => {
  const bench = new Bench()
  bench.submit({ prompt: range(0, 8), maxTokens: 1000 })
  bench.step()
  expect(bench.scheduler.pool.held).toBe(2)
  bench.step()
  expect(bench.scheduler.pool.held).toBe(3)
})

test('the youngest of the lowest class is preempted, and comes back before anybody newer', () => {
  const bench = new Bench({ prefixCache: false }, { ...shape, blockCount: 12 })
  bench.submit({ id: 'low-old', prompt: range(0, 8), maxTokens: 20, priority: 1 })
  bench.submit({ id: 'high', prompt: range(0, 8), maxTokens: 20 })
  bench.submit({ id: 'low-young', prompt: range(0, 8), maxTokens: 20, priority: 1 })
  let plan = bench.step()
  bench.submit({ id: 'newer', prompt: range(0, 8), maxTokens: 20, priority: 1 })
  while (plan.preempted.length === 0) plan = bench.step()
  expect(plan.preempted.map(({ id }) => id)).toEqual(['low-young'])
  bench.run()
  expect(bench.finished).toEqual(['high', 'low-old', 'low-young', 'newer'])
})

test('a preempted request finds its head in the cache and computes its tail again', () => {
  const bench = new Bench({}, { ...shape, blockCount: 12 })
  bench.submit({ id: 'old', prompt: range(0, 16), maxTokens: 20 })
  bench.submit({ id: 'young', prompt: range(100, 116), maxTokens: 20 })
  let plan = bench.step()
  while (plan.preempted.length === 0) plan = bench.step()
  while (!plan.joined.some(({ id }) => id === 'young')) plan = bench.step()
  const start = plan.sequences.find((entry) => entry.sequence.id === 'young')!.start
  expect(bench.finished).toEqual(['old'])
  expect(start).toBeGreaterThan(0)
})

test('an urgent newcomer takes blocks and place of lower classes at once, and of its own class never', () => {
  const bench = new Bench({ runningMax: 2 }, { ...shape, blockCount: 30 })
  bench.submit({ id: 'low-1', prompt: range(0, 40), maxTokens: 40, priority: 3 })
  bench.submit({ id: 'low-2', prompt: range(50, 90), maxTokens: 40, priority: 3 })
  bench.step()
  bench.submit({ id: 'same', priority: 3 })
  expect(bench.step().joined).toEqual([])
  bench.submit({ id: 'urgent', prompt: range(200, 240), priority: 0 })
  const plan = bench.step()
  expect(plan.preempted.map(({ id }) => id)).toEqual(['low-2'])
  expect(plan.joined.map(({ id }) => id)).toEqual(['urgent'])
})

test('nobody is preempted for an urgent newcomer who would still not fit', () => {
  const bench = new Bench({}, { ...shape, blockCount: 40 })
  bench.submit({ id: 'urgent-1', prompt: range(0, 100), maxTokens: 40, priority: 0 })
  bench.step()
  bench.step()
  bench.submit({ id: 'low', prompt: range(100, 120), maxTokens: 40, priority: 3 })
  bench.step()
  bench.submit({ id: 'urgent-2', prompt: range(200, 260), maxTokens: 40, priority: 0 })
  const plan = bench.step()
  expect(plan.preempted).toEqual([])
  expect(plan.joined).toEqual([])
})

test('waiting improves the class, so that a stream of urgent requests cannot starve others', () => {
  const bench = new Bench({ runningMax: 1, ageingMs: 100 })
  bench.submit({ id: 'patient', priority: 3, maxTokens: 2 })
  let joined = false
  for (let i = 0; i < 100 && !joined; i++) {
    bench.submit({ priority: 0, maxTokens: 2 })
    joined = bench.step().joined.some(({ id }) => id === 'patient')
    if (!joined) expect(bench.nowMs).toBeLessThanOrEqual(700)
  }
  expect(joined).toBe(true)
  expect(bench.nowMs).toBeGreaterThanOrEqual(300)
})

test('while two tenants are backlogged their service differs by less than the published bound', () => {
  // Sheng et al. 2024, theorem 4.4: 2 max(prompt price x longest prompt, output price x tokens in the batch).
  const { prices } = defaultSchedulerOptions
  const promptMax = 60
  const outputMax = 30
  const runningMax = 6
  const bound = 2 * Math.max(prices.prompt * promptMax, prices.output * runningMax * outputMax)
  for (let seed = 0; seed < 5; seed++) {
    const random = new Random(deriveSeed(seed, 'fairness'))
    const bench = new Bench({ runningMax, waitingMax: 4000, prefixCache: false })
    const tenants = { heavy: 0, light: 0 }
    const submit = (tenant: 'heavy' | 'light', long: boolean) =>
      bench.submit({
        tenant,
        prompt: range(0, 1 + random.integer(long ? promptMax : 8)),
        maxTokens: 1 + random.integer(long ? outputMax : 6),
      })
    // One floods the queue with long requests before the other begins with short ones.
    for (let i = 0; i < 300; i++) submit('heavy', true)
    for (let i = 0; i < 600; i++) submit('light', false)
    const waiting = { heavy: 300, light: 600 }
    while (bench.scheduler.roster.queue.size > 0) {
      const plan = bench.step()
      for (const { sequence, count, sampledRows } of plan.sequences) {
        const name = sequence.tenant.name as 'heavy' | 'light'
        const promptTokens = Math.max(
          0,
          Math.min(count, sequence.promptTokens - (sequence.tokens.length - count)),
        )
        tenants[name] += prices.prompt * promptTokens + prices.output * sampledRows
      }
      for (const { tenant } of plan.joined) waiting[tenant.name as 'heavy' | 'light']--
      for (const { tenant } of plan.preempted) waiting[tenant.name as 'heavy' | 'light']++
      if (waiting.heavy === 0 || waiting.light === 0) break
      expect(Math.abs(tenants.heavy - tenants.light)).toBeLessThanOrEqual(bound)
    }
    expect(tenants.heavy + tenants.light).toBeGreaterThan(5 * bound)
  }
})

test('a tenant of twice the weight gets twice the service', () => {
  const bench = new Bench({ runningMax: 4, waitingMax: 4000, tenantWeights: { double: 2 } })
  for (let i = 0; i < 400; i++) {
    bench.submit({ tenant: 'single', prompt: range(0, 20), maxTokens: 10, cacheSalt: `${i}` })
    bench.submit({ tenant: 'double', prompt: range(0, 20), maxTokens: 10, cacheSalt: `${i}` })
  }
  const joined: Record<string, number> = { single: 0, double: 0 }
  while (joined.single! + joined.double! < 300) {
    for (const { tenant } of bench.step().joined) joined[tenant.name]!++
  }
  expect(joined.double! / joined.single!).toBeCloseTo(2, 1)
})

test('idleness saves up no credit', () => {
  const bench = new Bench({ runningMax: 1, waitingMax: 1000 })
  for (let i = 0; i < 100; i++) bench.submit({ tenant: 'busy', maxTokens: 4 })
  for (let i = 0; i < 100; i++) bench.step()
  for (let i = 0; i < 20; i++) bench.submit({ id: `late-${i}`, tenant: 'late', maxTokens: 4 })
  const order: string[] = []
  while (order.length < 20) order.push(...bench.step().joined.map(({ tenant }) => tenant.name))
  const late = order.filter((name) => name === 'late').length
  expect(late).toBeGreaterThanOrEqual(9)
  expect(late).toBeLessThanOrEqual(11)
})

test('cached prompt tokens cost a tenant less than computed ones', () => {
  const bench = new Bench()
  const serve = (tenant: string) => {
    bench.submit({ tenant, prompt: range(0, 41), maxTokens: 1 })
    bench.run()
    return bench.scheduler.roster.ledger.arrive(tenant, 0).served
  }
  const { prices } = defaultSchedulerOptions
  const first = serve('a')
  const second = serve('a') - first
  expect(first).toBe(41 * prices.prompt + prices.output)
  expect(second).toBeCloseTo(40 * prices.cached + prices.prompt + prices.output, 9)
})
