import { expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { Random } from '../../src/base/random.ts'
import { PublishedScheduler } from '../../src/serve/baselines/published.ts'
import { RequestLevelScheduler } from '../../src/serve/baselines/request-level.ts'
import { Engine } from '../../src/serve/engine.ts'
import type { Finish, RequestProgress } from '../../src/serve/request.ts'
import type { Scheduler } from '../../src/serve/scheduler.ts'
import type { TraceLine } from '../../src/serve/trace.ts'
import { alone, FakeDevice } from '../serve/fake-device.ts'
import { request } from '../serve/requests.ts'

const shape = { vocabularySize: 24, contextMax: 128, blockTokens: 4, blockCount: 100 }

/** An engine on the device that remembers what was written where, and all that is heard of it. */
function engineUnder(scheduler: Scheduler) {
  const clock = new ManualClock()
  const device = new FakeDevice(shape, clock)
  const tokens = new Map<string, number[]>()
  const finishes = new Map<string, Finish>()
  const trace: TraceLine[] = []
  const hear = (items: readonly RequestProgress[]) => {
    for (const { id, tokens: more, finish } of items) {
      tokens.set(id, [...(tokens.get(id) ?? []), ...more])
      expect(finishes.has(id)).toBe(false)
      if (finish !== undefined) finishes.set(id, finish)
    }
  }
  const engine = new Engine(device, scheduler, clock, hear, { trace: (line) => trace.push(line) })
  const run = async (onIteration: () => unknown = () => undefined) => {
    for (let i = 0; i < 3000; i++) {
      const worked = await engine.step()
      const more = onIteration() === true
      if (device.violation !== undefined) throw device.violation
      if (!worked && !more) return
      clock.advance(0.5)
    }
    throw new Error('nobody starves')
  }
  return { engine, clock, tokens, finishes, trace, run }
}

const sizes = [
  [9, 5],
  [3, 12],
  [20, 1],
  [6, 7],
] as const

function wishes(seed = 1) {
  const random = new Random(seed)
  return sizes.map(([prompt, maxTokens], i) =>
    request({
      id: `r${i}`,
      prompt: Array.from({ length: prompt }, () => 2 + random.integer(20)),
      maxTokens,
    }),
  )
}

const baselines: [string, () => Scheduler][] = [
  ['static batches', () => new RequestLevelScheduler(shape, { batchMax: 3 })],
  ['batches with a time-out', () => new RequestLevelScheduler(shape, { batchMax: 3, timeoutMs: 5 })],
  ['shortest prompts first', () => new RequestLevelScheduler(shape, { batchMax: 4, prompts: 'shortest' })],
  ['the published scheduler', () => new PublishedScheduler(shape, { batchMax: 3 })],
]

for (const [name, make] of baselines) {
  test(`under ${name} every request gets the output that it would get alone, and ends once`, async () => {
    const { engine, tokens, finishes, run } = engineUnder(make())
    for (const wish of wishes()) expect(engine.submit(wish).ok).toBe(true)
    await run()
    for (const wish of wishes()) {
      expect(tokens.get(wish.id)).toEqual(alone(wish, shape.vocabularySize))
      expect(finishes.get(wish.id)).toMatchObject({ reason: 'length', generatedTokens: wish.maxTokens })
    }
    expect(engine.scheduler.pool.held).toBe(0)
  })

  test(`under ${name} random requests and cancels leave nobody behind and no block held`, async () => {
    for (let seed = 0; seed < 30; seed++) {
      const random = new Random(seed)
      const { engine, finishes, run } = engineUnder(make())
      let submitted = 0
      await run(() => {
        if (submitted < 15 && random.uniform() < 0.4) {
          const prompt = Array.from({ length: 1 + random.integer(30) }, () => 2 + random.integer(20))
          const stopTokens = random.uniform() < 0.3 ? [0, 1, 2, 3] : []
          const wish = request({
            id: `n${submitted++}`,
            prompt,
            maxTokens: 1 + random.integer(20),
            stopTokens,
          })
          expect(engine.submit(wish).ok).toBe(true)
        }
        if (submitted > 0 && random.uniform() < 0.1) engine.cancel(`n${random.integer(submitted)}`)
        return submitted < 15
      })
      expect(engine.live).toBe(0)
      expect(finishes.size).toBe(submitted)
      expect(engine.scheduler.pool.held).toBe(0)
    }
  })
}

test('a static batch lets no late-comer in and lets nobody out before its last request has finished', async () => {
  const { engine, trace, run } = engineUnder(new RequestLevelScheduler(shape, { batchMax: 4 }))
  const [first, second, late] = wishes()
  engine.submit(first!)
  engine.submit(second!)
  let iterations = 0
  await run(() => {
    if (++iterations === 2) engine.submit(late!)
  })
  const batch = trace.filter(({ sequences }) => sequences.some(({ id }) => id === 'r0'))
  expect(batch.every(({ sequences }) => sequences.some(({ id }) => id === 'r1'))).toBe(true)
  expect(batch.some(({ sequences }) => sequences.some(({ id }) => id === 'r2'))).toBe(false)
  // r0 has finished after 5 iterations and is computed on to the end of r1.
  expect(batch).toHaveLength(12)
  expect(batch.slice(0, -1).flatMap(({ finished }) => finished)).toEqual([])
  expect(batch.at(-1)!.finished).toEqual(['r0', 'r1'])
})

test('a static batch computes every prompt as if it were as long as the longest', async () => {
  const { engine, trace, run } = engineUnder(new RequestLevelScheduler(shape, { batchMax: 4 }))
  for (const wish of wishes()) engine.submit(wish)
  await run()
  const computed = trace[0]!.sequences.reduce((sum, { count }) => sum + count, 0)
  expect(computed).toBe(4 * 20)
})

test('a batch with a time-out forms when it is full, or when its oldest request has waited so long', async () => {
  const scheduler = new RequestLevelScheduler(shape, { batchMax: 2, timeoutMs: 10 })
  const [a, b, c] = wishes()
  scheduler.submit(a!, 0)
  expect(scheduler.plan(9).sequences).toEqual([])
  expect(scheduler.nextPlanMs()).toBe(10)
  scheduler.submit(b!, 9)
  expect(scheduler.plan(9).joined.map(({ id }) => id)).toEqual(['r0', 'r1'])
  const other = new RequestLevelScheduler(shape, { batchMax: 2, timeoutMs: 10 })
  other.submit(c!, 5)
  expect(other.plan(14).sequences).toEqual([])
  expect(other.plan(15).joined.map(({ id }) => id)).toEqual(['r2'])
})

test('the published scheduler reserves slots for the longest output, so that it never preempts', async () => {
  const scheduler = new PublishedScheduler({ ...shape, blockCount: 12 }, { batchMax: 8 })
  const { engine, trace, run } = engineUnder(scheduler)
  for (const wish of wishes()) engine.submit(wish)
  // 13, 14 and 20 tokens take 4 + 4 blocks and no third request fits beside them.
  await run(() => expect(engine.scheduler.pool.held).toBeLessThanOrEqual(12))
  expect(trace[0]!.joined).toEqual(['r0', 'r1'])
  expect(trace.flatMap(({ preempted }) => preempted)).toEqual([])
  const joined = trace.flatMap(({ joined }) => joined)
  expect(joined).toEqual(['r0', 'r1', 'r2', 'r3'])
})

test('the published scheduler computes prompts whole and never more requests than max_bs', async () => {
  const { engine, trace, run } = engineUnder(new PublishedScheduler(shape, { batchMax: 3 }))
  for (const wish of wishes()) engine.submit(wish)
  await run()
  expect(Math.max(...trace.map(({ sequences }) => sequences.length))).toBe(3)
  for (const { sequences } of trace) {
    for (const { id, start, count } of sequences) {
      if (start === 0) expect(count).toBe(sizes[Number(id.slice(1))]![0])
    }
  }
})

test('a device that breaks under a static batch ends all of its requests and takes the next batch', async () => {
  const scheduler = new RequestLevelScheduler(shape, { batchMax: 2 })
  const [a, b, c] = wishes()
  for (const wish of [a!, b!, c!]) scheduler.submit(wish, 0)
  const broken = scheduler.fail(scheduler.plan(0), 'broke', 1)
  expect(broken.map(({ finish }) => finish?.reason)).toEqual(['failed', 'failed'])
  expect(scheduler.plan(2).joined.map(({ id }) => id)).toEqual(['r2'])
})
