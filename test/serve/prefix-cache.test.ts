import { expect, test } from 'vitest'
import { BlockPool } from '../../src/serve/blocks.ts'
import type { ExecutorShape } from '../../src/serve/executor.ts'
import type { SchedulerOptions } from '../../src/serve/options.ts'
import { type CacheUser, PrefixCache } from '../../src/serve/prefix-cache.ts'
import type { EngineRequest, Finish } from '../../src/serve/request.ts'
import { Scheduler } from '../../src/serve/scheduler.ts'
import { request } from './requests.ts'

const shape: ExecutorShape = { vocabularySize: 1000, contextMax: 4096, blockTokens: 4, blockCount: 256 }
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i)

class Bench {
  readonly scheduler: Scheduler
  nowMs = 0
  computed = 0
  readonly finishes = new Map<string, Finish>()

  constructor(options: Partial<SchedulerOptions> = {}, given = shape) {
    this.scheduler = new Scheduler(given, { stepTokensMax: 64, runningMax: 16, ...options })
  }

  submit(given: Partial<EngineRequest>): void {
    expect(this.scheduler.submit(request({ maxTokens: 1, ...given }), this.nowMs).ok).toBe(true)
  }

  step() {
    const plan = this.scheduler.plan(this.nowMs)
    this.computed += plan.tokens
    this.nowMs++
    const results = plan.sequences.map((entry) => ({ tokens: entry.sampledRows > 0 ? [7] : [] }))
    for (const { sequence, finish } of this.scheduler.commit(plan, results, this.nowMs)) {
      if (finish !== undefined) this.finishes.set(sequence.id, finish)
    }
    return plan
  }

  run(): void {
    while (this.scheduler.roster.live > 0) this.step()
  }

  cached(id: string): number {
    return this.finishes.get(id)!.cachedTokens
  }
}

test('two new requests with the same prefix compute it once', () => {
  const bench = new Bench()
  bench.submit({ id: 'a', prompt: [...range(0, 200), 900] })
  bench.submit({ id: 'b', prompt: [...range(0, 200), 901, 902] })
  bench.run()
  expect(bench.cached('a')).toBe(0)
  expect(bench.cached('b')).toBe(200)
  expect(bench.computed).toBe(203)
})

test('many requests that share a prefix pairwise compute every shared block once', () => {
  const bench = new Bench()
  bench.submit({ id: 'a', prompt: [...range(0, 80), 900] })
  bench.submit({ id: 'b', prompt: [...range(0, 40), ...range(500, 540), 901] })
  bench.submit({ id: 'c', prompt: [...range(0, 40), ...range(500, 540), 902] })
  bench.run()
  expect([bench.cached('a'), bench.cached('b'), bench.cached('c')]).toEqual([0, 40, 80])
})

test.each(['cancelled', 'preempted'])('the second computes the prefix itself when the first is %s', (how) => {
  const bench = new Bench({ runningMax: 2 })
  bench.submit({ id: 'first', prompt: [...range(0, 200), 900], priority: 5 })
  bench.submit({ id: 'second', prompt: [...range(0, 200), 901], priority: 5 })
  const plan = bench.step()
  expect(plan.joined.map(({ id }) => id)).toEqual(['first', 'second'])
  expect(plan.sequences.map(({ sequence }) => sequence.id)).toEqual(['first'])
  const first = bench.scheduler.roster.get('first')!
  if (how === 'cancelled') bench.scheduler.cancel('first', bench.nowMs)
  else bench.scheduler.roster.preempt(first, -1, bench.nowMs)
  expect(bench.step().sequences[0]).toMatchObject({ sequence: { id: 'second' }, start: 64 })
  bench.run()
  // Preempted, the first comes back, goes ahead again and shares once more.
  expect(bench.cached('second')).toBeGreaterThanOrEqual(64)
})

test('a prompt that is cached as a whole still computes its last token', () => {
  const bench = new Bench()
  bench.submit({ id: 'a', prompt: range(0, 40) })
  bench.run()
  bench.submit({ id: 'b', prompt: range(0, 40) })
  bench.run()
  expect(bench.cached('b')).toBe(36)
})

test.each([
  ['tenants', { tenant: 'other' }],
  ['salts', { cacheSalt: 'other' }],
  ['adapters', { adapter: 'other' }],
] as const)('prefixes are not shared across %s', (_, difference) => {
  const bench = new Bench()
  bench.submit({ id: 'a', prompt: range(0, 40) })
  bench.run()
  bench.submit({ id: 'b', prompt: range(0, 40), ...difference })
  bench.submit({ id: 'c', prompt: range(0, 40) })
  bench.run()
  expect(bench.cached('b')).toBe(0)
  expect(bench.cached('c')).toBe(36)
})

test('generated text is found by the request that continues the conversation', () => {
  const bench = new Bench()
  bench.submit({ id: 'a', prompt: range(0, 10), maxTokens: 20 })
  bench.run()
  bench.submit({ id: 'b', prompt: [...range(0, 10), ...new Array(20).fill(7), 1, 2] })
  bench.run()
  expect(bench.cached('b')).toBe(28)
})

test('the prefix that was used longest ago is evicted first, from its end', () => {
  const bench = new Bench({}, { ...shape, blockCount: 30 })
  bench.submit({ id: 'a', prompt: range(0, 41) })
  bench.run()
  bench.submit({ id: 'b', prompt: range(100, 141) })
  bench.run()
  // 20 blocks are cached and 10 free: this takes the free ones and 4 of a's.
  bench.submit({ id: 'c', prompt: range(200, 253) })
  bench.run()
  bench.submit({ id: 'b again', prompt: range(100, 141) })
  bench.submit({ id: 'a again', prompt: range(0, 41) })
  bench.run()
  expect(bench.cached('b again')).toBe(40)
  expect(bench.cached('a again')).toBe(24)
})

test('a pinned prefix survives a flood of others until its time is over', () => {
  const flooded = (pinPrefixMs: number) => {
    const bench = new Bench({}, { ...shape, blockCount: 30 })
    bench.submit({ id: 'pinned', prompt: range(0, 41), pinPrefixMs })
    bench.run()
    for (let i = 0; i < 5; i++) {
      bench.submit({ prompt: range(100 * i + 100, 100 * i + 170) })
      bench.run()
    }
    bench.submit({ id: 'again', prompt: range(0, 41) })
    bench.run()
    return bench.cached('again')
  }
  expect(flooded(1000)).toBe(40)
  expect(flooded(2)).toBe(0)
})

test('pins take no more than their share, and yield to the only request that could run', () => {
  const bench = new Bench({ pinnedShareMax: 0.5 }, { ...shape, blockCount: 20 })
  for (let i = 0; i < 4; i++) {
    bench.submit({ prompt: range(100 * i, 100 * i + 17), pinPrefixMs: 100_000 })
    bench.run()
  }
  expect(bench.scheduler.cache.pinnedBlocks).toBe(8)
  bench.submit({ id: 'large', prompt: range(800, 870), maxTokens: 4 })
  bench.run()
  expect(bench.finishes.get('large')).toMatchObject({ reason: 'length' })
  expect(bench.scheduler.cache.pinnedBlocks).toBeLessThan(8)
})

/** A user whose blocks all have the same hash, as an attacker would wish. */
function colliding(tokens: number[], pool: BlockPool): CacheUser {
  const blocks = Array.from({ length: tokens.length / 4 }, () => pool.take())
  return { tokens, scope: 'scope', blocks, nodes: [], blockHash: () => 5 }
}

test('equal hashes of different texts are never taken for each other', () => {
  const pool = new BlockPool(16)
  const cache = new PrefixCache(pool, 4)
  const first = colliding(range(0, 8), pool)
  const second = colliding(range(100, 108), pool)
  cache.publish(first, 8)
  cache.publish(second, 8)
  expect(first.nodes).toHaveLength(1)
  expect(second.nodes).toHaveLength(0)
  expect(cache.match({ ...second, blocks: [] }, 8)).toEqual([])
  expect(cache.match({ ...first, blocks: [], nodes: [] }, 8)).toHaveLength(1)
  cache.release(first)
  cache.release(second)
  pool.audit()
  expect([pool.free, pool.cached, pool.held]).toEqual([15, 1, 0])
})

test('two requests that computed the same text keep one copy of it', () => {
  const pool = new BlockPool(16)
  const cache = new PrefixCache(pool, 4)
  const user = () => ({ ...colliding(range(0, 8), pool), blockHash: (index: number) => index })
  const [first, second] = [user(), user()]
  cache.publish(first, 8)
  cache.publish(second, 8)
  expect(second.blocks).toEqual(first.blocks)
  expect(pool.held).toBe(2)
})

test('the pool hands out every block once, then what was cached longest', () => {
  const pool = new BlockPool(3)
  const evicted: number[] = []
  pool.onEvict = (block) => evicted.push(block)
  const blocks = [pool.take(), pool.take(), pool.take()]
  expect(new Set(blocks).size).toBe(3)
  expect(pool.available).toBe(0)
  expect(() => pool.take()).toThrow('available')
  for (const block of blocks) pool.publish(block)
  for (const block of blocks) pool.give(block)
  pool.share(blocks[0]!)
  expect([pool.free, pool.cached, pool.held]).toEqual([0, 2, 1])
  expect([pool.take(), pool.take()]).toEqual([blocks[1], blocks[2]])
  expect(evicted).toEqual([blocks[1], blocks[2]])
  pool.give(evicted[0]!)
  expect(() => pool.give(evicted[0]!)).toThrow('holder')
})
