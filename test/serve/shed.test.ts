import { expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import type { SchedulerOptions } from '../../src/serve/options.ts'
import { Scheduler } from '../../src/serve/scheduler.ts'
import { request } from './requests.ts'

const goalTtftMs = 500

/** Twice as many requests as the device can take, for half a minute of virtual time. */
function overload(options: Partial<SchedulerOptions>, seed: number) {
  const shape = { vocabularySize: 100, contextMax: 1024, blockTokens: 16, blockCount: 4096 }
  const scheduler = new Scheduler(shape, {
    runningMax: 16,
    stepTokensMax: 256,
    waitingMax: 9999,
    goalTtftMs,
    ...options,
  })
  const random = new Random(seed)
  const arrivedMs = new Map<string, number>()
  const firstMs: number[] = []
  const retries: number[] = []
  let [nowMs, nextMs, generated, refused] = [0, 0, 0, 0]
  while (nowMs < 30_000) {
    for (; nextMs <= nowMs; nextMs += -Math.log(1 - random.uniform()) * 12) {
      const prompt = Array.from({ length: 10 + random.integer(200) }, () => random.integer(100))
      const wish = request({ prompt, maxTokens: 1 + random.integer(60) })
      const admission = scheduler.submit(wish, nowMs)
      if (admission.ok) arrivedMs.set(wish.id, nowMs)
      else {
        expect(admission.code).toBe('queue_full')
        refused++
        retries.push(admission.retryAfterMs!)
      }
    }
    const plan = scheduler.plan(nowMs)
    if (plan.sequences.length === 0) {
      nowMs = nextMs
      continue
    }
    nowMs += 5 + 0.05 * plan.tokens + 0.2 * plan.sequences.length
    const results = plan.sequences.map((entry) => ({ tokens: entry.sampledRows > 0 ? [7] : [] }))
    for (const { sequence, tokens } of scheduler.commit(plan, results, nowMs)) {
      generated += tokens.length
      if (sequence.generatedTokens === 1) firstMs.push(nowMs - arrivedMs.get(sequence.id)!)
    }
  }
  firstMs.sort((a, b) => a - b)
  return { p95: firstMs[Math.floor(firstMs.length * 0.95)]!, generated, refused, retries, scheduler }
}

test.each(process.env.ROPEWAY_SIM_SEEDS === undefined ? [1] : [1, 2, 3, 4])(
  'under overload whoever is let in starts within reach of the goal, and no work is lost: seed %i',
  (seed) => {
    const shedding = overload({}, seed)
    const patient = overload({ goalShed: Number.POSITIVE_INFINITY }, seed)
    const limitMs = goalTtftMs * shedding.scheduler.options.goalShed
    expect(patient.refused).toBe(0)
    expect(patient.p95).toBeGreaterThan(3 * limitMs)
    expect(shedding.refused).toBeGreaterThan(100)
    expect(shedding.p95).toBeLessThan(1.2 * limitMs)
    expect(shedding.generated).toBeGreaterThan(0.97 * patient.generated)
    for (const ms of shedding.retries) expect(ms).toBeGreaterThanOrEqual(100)
  },
)

test('a refused request leaves nothing behind', () => {
  const { scheduler } = overload({}, 3)
  const { roster } = scheduler
  expect(roster.live).toBe(roster.running.size + roster.queue.size)
  for (const id of roster.ids()) scheduler.cancel(id, 30_000)
  expect(roster.waitingTokens).toBe(0)
  roster.audit()
})

test('an empty queue refuses nobody, however slow the starts were before', () => {
  const shape = { vocabularySize: 100, contextMax: 1024, blockTokens: 16, blockCount: 4096 }
  const scheduler = new Scheduler(shape, { runningMax: 1, stepTokensMax: 64, goalTtftMs: 10 })
  let nowMs = 0
  for (let i = 0; i < 20; i++) {
    expect(scheduler.submit(request({ maxTokens: 1 }), nowMs).ok).toBe(true)
    const plan = scheduler.plan(nowMs)
    nowMs += 10_000
    scheduler.commit(
      plan,
      plan.sequences.map(() => ({ tokens: [7] })),
      nowMs,
    )
  }
})

/** Runs a scheduler to its end, an iteration taking 20 ms; the moment then. */
function runDry(scheduler: Scheduler, fromMs: number): number {
  let nowMs = fromMs
  while (scheduler.roster.live > 0) {
    const plan = scheduler.plan(nowMs)
    nowMs += 20
    const results = plan.sequences.map((entry) => ({ tokens: entry.sampledRows > 0 ? [7] : [] }))
    scheduler.commit(plan, results, nowMs)
  }
  return nowMs
}

test('an idle engine takes the choices of a request at once, whatever it has behind it', () => {
  const { scheduler } = overload({}, 5)
  let nowMs = runDry(scheduler, 30_000)
  for (const idleMs of [0, 60_000, 10 * 3_600_000]) {
    nowMs += idleMs
    // One alone, then many choices, then many beside one that runs.
    for (const count of [1, 8, 16]) {
      const admissions = Array.from({ length: count }, () => scheduler.submit(request({}), nowMs))
      expect(admissions.map(({ ok }) => ok)).toEqual(admissions.map(() => true))
      nowMs = runDry(scheduler, nowMs) + idleMs
    }
    expect(scheduler.submit(request({ maxTokens: 50 }), nowMs).ok).toBe(true)
    scheduler.plan(nowMs)
    const beside = Array.from({ length: 8 }, () => scheduler.submit(request({}), nowMs + 1))
    expect(beside.map(({ ok }) => ok)).toEqual(beside.map(() => true))
    for (const id of scheduler.roster.ids()) scheduler.cancel(id, nowMs + 2)
  }
})

test('time in which nobody waits does not count for how long a start takes', () => {
  const shape = { vocabularySize: 100, contextMax: 1024, blockTokens: 16, blockCount: 4096 }
  const scheduler = new Scheduler(shape, { runningMax: 4, stepTokensMax: 64 })
  let nowMs = 0
  for (let i = 0; i < 8; i++) {
    const admission = scheduler.submit(request({ maxTokens: 3 }), nowMs)
    expect(admission.ok && admission.queue?.expectedStartMs).toBeLessThanOrEqual(20)
    nowMs = runDry(scheduler, nowMs) + 100_000
  }
})
