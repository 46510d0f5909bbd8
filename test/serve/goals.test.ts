import { expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { CostModel, type IterationLoad } from '../../src/serve/cost-model.ts'
import type { SchedulerOptions } from '../../src/serve/options.ts'
import { Scheduler } from '../../src/serve/scheduler.ts'
import { request } from './requests.ts'

// A device in the manner of our CPU: weights are read once an iteration, tokens and context cost on top.
const trueMs = ({ tokens, context, sequences }: IterationLoad) =>
  4 + 0.12 * tokens + 0.0001 * context + 0.05 * sequences

function randomLoad(random: Random): IterationLoad {
  const sequences = 1 + random.integer(32)
  const tokens = sequences + random.integer(2) * random.integer(400)
  return { tokens, context: tokens * random.integer(1500), sequences }
}

test('the cost model learns the time of an iteration from noisy examples', () => {
  const random = new Random(1)
  const model = new CostModel()
  for (let i = 0; i < 600; i++) {
    const load = randomLoad(random)
    model.observe(load, trueMs(load) * (1 + 0.05 * random.normal()))
  }
  for (let i = 0; i < 50; i++) {
    const load = randomLoad(random)
    expect(Math.abs(model.predictMs(load) / trueMs(load) - 1)).toBeLessThan(0.1)
  }
  expect(model.spread).toBeGreaterThan(1.03)
  expect(model.spread).toBeLessThan(1.4)
})

test('the cost model follows a device that becomes slower, and shrugs off single pauses', () => {
  const random = new Random(2)
  const model = new CostModel()
  const observe = (times: number, factor: number) => {
    for (let i = 0; i < times; i++) {
      const load = randomLoad(random)
      model.observe(load, trueMs(load) * factor)
    }
  }
  const ratio = () =>
    model.predictMs({ tokens: 100, context: 50_000, sequences: 16 }) /
    trueMs({ tokens: 100, context: 50_000, sequences: 16 })
  observe(300, 1)
  model.observe({ tokens: 20, context: 10_000, sequences: 10 }, 3000)
  expect(ratio()).toBeLessThan(1.25)
  observe(800, 2)
  expect(ratio()).toBeCloseTo(2, 1)
})

interface Ramp {
  /** 99th percentile of the milliseconds between two tokens of one stream. */
  tpotMs: number
  ttftMs: number
  tokensPerSecond: number
}

interface Traffic {
  forMs: number
  deviceMs: (load: IterationLoad) => number
  /** A request that comes at `atMs`, ... */
  draw: (random: Random, atMs: number) => { promptTokens: number; outputTokens: number }
  /** ... and after how long the next one does. */
  gapMs: (random: Random, atMs: number) => number
}

/** Streams and long prompts that arrive faster and faster, on a device with the costs above. */
const faster: Traffic = {
  forMs: 60_000,
  deviceMs: trueMs,
  draw: (random) => ({
    promptTokens: 20 + random.integer(random.uniform() < 0.1 ? 2000 : 200),
    outputTokens: 20 + random.integer(100),
  }),
  gapMs: (random, atMs) => (-Math.log(1 - random.uniform()) * 1000) / (2 + (atMs / 60_000) * 22),
}

/**
 * Questions with short answers that arrive faster and faster; then long answers over long contexts, which make
 * the tokens of the streams dear. The first part needs a large budget, the second can afford a small one only.
 */
const shifting: Traffic = {
  forMs: 80_000,
  deviceMs: (load) => trueMs(load) + 0.0002 * load.context,
  draw: (random, atMs) =>
    atMs < 40_000
      ? { promptTokens: 100 + random.integer(200), outputTokens: 2 + random.integer(8) }
      : { promptTokens: 600 + random.integer(400), outputTokens: 600 + random.integer(600) },
  gapMs: (random, atMs) =>
    (0.5 + random.uniform()) * (atMs < 40_000 ? 1000 / (0.5 + (atMs / 40_000) * 35) : 830),
}

function ramp(traffic: Traffic, options: Partial<SchedulerOptions>, seed = 3): Ramp {
  const shape = { vocabularySize: 100, contextMax: 4096, blockTokens: 16, blockCount: 8192 }
  const scheduler = new Scheduler(shape, {
    runningMax: 64,
    stepTokensMax: 1024,
    waitingMax: 100_000,
    ...options,
  })
  const random = new Random(seed)
  // Apart from the arrivals, so that every policy meets the same ones.
  const noise = new Random(seed + 1000)
  const lastTokenMs = new Map<string, number>()
  const arrivedMs = new Map<string, number>()
  const gaps: number[] = []
  const firsts: number[] = []
  let nowMs = 0
  let nextMs = 0
  let generated = 0
  while (nowMs < traffic.forMs) {
    while (nextMs <= nowMs) {
      const { promptTokens, outputTokens } = traffic.draw(random, nextMs)
      const prompt = Array.from({ length: promptTokens }, () => random.integer(100))
      const wish = request({ prompt, maxTokens: outputTokens })
      scheduler.submit(wish, nowMs)
      arrivedMs.set(wish.id, nowMs)
      nextMs += traffic.gapMs(random, nextMs)
    }
    const plan = scheduler.plan(nowMs)
    if (plan.sequences.length === 0) {
      nowMs = nextMs
      continue
    }
    nowMs += traffic.deviceMs(plan.load) * (1 + 0.03 * Math.abs(noise.normal()))
    const results = plan.sequences.map((entry) => ({ tokens: entry.sampledRows > 0 ? [7] : [] }))
    for (const { sequence, tokens } of scheduler.commit(plan, results, nowMs)) {
      if (tokens.length === 0) continue
      generated++
      const before = lastTokenMs.get(sequence.id)
      if (before === undefined) firsts.push(nowMs - arrivedMs.get(sequence.id)!)
      else gaps.push(nowMs - before)
      lastTokenMs.set(sequence.id, nowMs)
    }
  }
  const p99 = (values: number[]) => values.sort((a, b) => a - b)[Math.floor(values.length * 0.99)]!
  return { tpotMs: p99(gaps), ttftMs: p99(firsts), tokensPerSecond: generated / (nowMs / 1000) }
}

const long = process.env.ROPEWAY_SIM_SEEDS !== undefined

// Every budget that could do it, in steps of eight (two in long runs), and a few that are far too large.
const step = long ? 2 : 8
const everyBudget = [...Array.from({ length: 56 / step }, (_, i) => 65 + i * step), 160, 512]
test.each(long ? [3, 11, 12, 13] : [3, 11])(
  'in a ramp of load both goals hold at p99 where no fixed budget holds both: seed %i',
  (seed) => {
    const goal = ramp(shifting, { goalTpotMs: 40, goalTtftMs: 2000 }, seed)
    expect(goal.tpotMs).toBeLessThanOrEqual(40)
    expect(goal.ttftMs).toBeLessThanOrEqual(2000)
    for (const stepTokensMax of everyBudget) {
      const fixed = ramp(shifting, { stepTokensMax }, seed)
      expect(fixed.tpotMs > 40 || fixed.ttftMs > 2000, `a budget of ${stepTokensMax}`).toBe(true)
    }
  },
)

// With one goal alone a budget that is small enough keeps it too (80 does here): what it costs is the first token.
const budgets = long ? [256, 160, 130, 112, 96, 80, 72] : [256, 112, 80]
test.each(long ? [3, 11, 12] : [3])(
  'in a ramp of load one goal holds at p99, and each fixed budget misses it or starts later: seed %i',
  (seed) => {
    const goal = ramp(faster, { goalTpotMs: 30 }, seed)
    expect(goal.tpotMs).toBeLessThanOrEqual(30)
    for (const stepTokensMax of budgets) {
      const fixed = ramp(faster, { stepTokensMax }, seed)
      expect(fixed.tpotMs > 30 || fixed.ttftMs > goal.ttftMs, `a budget of ${stepTokensMax}`).toBe(true)
    }
  },
)

test('a goal for the first token alone keeps streams faster than the largest budget does', () => {
  const goal = ramp(faster, { goalTtftMs: 1500 })
  const fixed = ramp(faster, {})
  expect(goal.ttftMs).toBeLessThanOrEqual(1500)
  expect(goal.tpotMs).toBeLessThan(fixed.tpotMs)
})

test('nine of ten waits lie inside the band that was stated on arrival', () => {
  let allInside = 0
  let allTold = 0
  // Not the seeds (0 to 2) that the quantiles of the band were chosen on.
  for (let seed = 3; seed < 9; seed++) {
    const random = new Random(seed)
    const shape = { vocabularySize: 100, contextMax: 1024, blockTokens: 16, blockCount: 1024 }
    const scheduler = new Scheduler(shape, { runningMax: 16, stepTokensMax: 256, waitingMax: 500 })
    const said = new Map<string, { low: number; high: number; at: number }>()
    let nowMs = 0
    let nextMs = 0
    let inside = 0
    let told = 0
    for (let i = 0; told < 600 && i < 60_000; i++) {
      while (nextMs <= nowMs) {
        const length = 10 + random.integer(200)
        const wish = request({
          prompt: Array.from({ length }, () => random.integer(100)),
          maxTokens: 1 + random.integer(120),
        })
        const admission = scheduler.submit(wish, nowMs)
        if (admission.ok && admission.queue !== undefined && admission.queue.position > 0) {
          said.set(wish.id, { low: admission.queue.lowMs, high: admission.queue.highMs, at: nowMs })
        }
        // Load that swings between less and more than the device can take.
        const perSecond = 14 + 10 * Math.sin(nowMs / 20_000)
        nextMs += (-Math.log(1 - random.uniform()) * 1000) / perSecond
      }
      const plan = scheduler.plan(nowMs)
      for (const { id } of plan.joined) {
        const band = said.get(id)
        said.delete(id)
        // The first waits teach; they are not counted.
        if (band === undefined || nowMs < 20_000) continue
        told++
        const waitedMs = nowMs - band.at
        if (waitedMs >= band.low && waitedMs <= band.high) inside++
      }
      if (plan.sequences.length === 0) {
        nowMs = nextMs
        continue
      }
      nowMs += trueMs(plan.load)
      scheduler.commit(
        plan,
        plan.sequences.map((entry) => ({ tokens: entry.sampledRows > 0 ? [7] : [] })),
        nowMs,
      )
    }
    expect(told).toBeGreaterThanOrEqual(600)
    allInside += inside
    allTold += told
  }
  expect(allInside / allTold).toBeGreaterThanOrEqual(0.9)
})

test('a waiting request moves up, and one that has started has no estimate', () => {
  const shape = { vocabularySize: 100, contextMax: 1024, blockTokens: 16, blockCount: 1024 }
  const scheduler = new Scheduler(shape, { runningMax: 1, stepTokensMax: 64 })
  const ids = Array.from({ length: 5 }, () => {
    const wish = request({ maxTokens: 2 })
    scheduler.submit(wish, 0)
    return wish.id
  })
  const positions = () => ids.map((id) => scheduler.estimate(id)?.position)
  expect(positions()).toEqual([0, 1, 2, 3, 4])
  let nowMs = 0
  const step = () => {
    const plan = scheduler.plan(nowMs)
    scheduler.commit(
      plan,
      plan.sequences.map(() => ({ tokens: [7] })),
      (nowMs += 10),
    )
  }
  step()
  expect(positions()).toEqual([undefined, 0, 1, 2, 3])
  step()
  step()
  expect(positions()).toEqual([undefined, undefined, 0, 1, 2])
})
