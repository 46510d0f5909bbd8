import { expect, test } from 'vitest'
import { interleave, type Side, spreadOf } from '../../bench/harness/comparison.ts'
import {
  type Delivery,
  decodeTokensPerSecond,
  firstTokenMs,
  latencyPerTokenMs,
  mixedWorkload,
  outputTokensPerSecond,
  runWorkload,
  uniformWorkload,
} from '../../bench/harness/workload.ts'

const silent = () => undefined

test('both sides of a comparison run in turns, and each ratio is of neighbours in time', async () => {
  const order: string[] = []
  const side = (name: string, speeds: readonly number[]): Side => ({
    name,
    run: async (turn) => {
      order.push(`${name}${turn}`)
      return { speed: speeds[turn]! }
    },
  })
  const [comparison] = await interleave(3, side('a', [20, 40, 90]), side('b', [10, 10, 30]), silent)
  expect(order).toEqual(['a0', 'b0', 'a1', 'b1', 'a2', 'b2'])
  expect(comparison).toEqual({
    figure: 'speed',
    sides: ['a', 'b'],
    values: [
      [20, 10],
      [40, 10],
      [90, 30],
    ],
    ratio: { median: 3, min: 2, max: 4 },
  })
})

test('a figure that one run could not measure is left out of the comparison', async () => {
  const side = (name: string, decode: number): Side => ({
    name,
    run: async () => ({ output: 1, decode }),
  })
  const comparisons = await interleave(2, side('a', Number.NaN), side('b', 5), silent)
  expect(comparisons.map(({ figure }) => figure)).toEqual(['output'])
})

test('the median of an even number of values lies between the middle two', () => {
  expect(spreadOf([4, 1, 2, 3])).toEqual({ median: 2.5, min: 1, max: 4 })
})

const deliveries: Delivery[] = [
  { sentMs: 0, tokenMs: [100, 200, 300, 400] },
  { sentMs: 0, tokenMs: [200, 250, 350, 500] },
]

test('output speed counts from the first request sent to the last token', () => {
  expect(outputTokensPerSecond(deliveries)).toBe((8 * 1000) / 500)
})

test('decode speed counts only tokens that came while every request was generating', () => {
  // From 200 ms, the last first token, to 400 ms, the first end: tokens at 250, 300, 350 and 400.
  expect(decodeTokensPerSecond(deliveries)).toBe((4 * 1000) / 200)
})

test('decode speed is not a number when the requests never generated together', () => {
  const apart = [deliveries[0]!, { sentMs: 0, tokenMs: [500, 600] }]
  expect(decodeTokensPerSecond(apart)).toBeNaN()
})

test('waits for the first token and latency per token are read from when a request was sent', () => {
  expect(firstTokenMs(deliveries)).toEqual({ median: 150, p90: 190 })
  expect(latencyPerTokenMs(deliveries)).toBe((100 + 125) / 2)
})

test('a workload keeps its concurrency and never gives one slot to two requests', async () => {
  const { items } = uniformWorkload(6, 3, 2, 512, 1)
  const busy = new Set<number>()
  let most = 0
  const got = await runWorkload({ items, concurrency: 2 }, async (item, slot, onToken) => {
    expect(busy.has(slot)).toBe(false)
    busy.add(slot)
    most = Math.max(most, busy.size)
    for (let i = 0; i < item.outputTokens; i++) {
      await Promise.resolve()
      onToken()
    }
    busy.delete(slot)
  })
  expect(most).toBe(2)
  expect(got).toHaveLength(6)
})

test('the same seed gives the same workload, and no two prompts of it are equal', () => {
  const make = (seed: number) => mixedWorkload(20, 4, { min: 8, max: 16 }, { min: 1, max: 5 }, 512, seed)
  expect(make(7)).toEqual(make(7))
  const prompts = new Set([...make(7).items, ...make(8).items].map(({ prompt }) => prompt.join()))
  expect(prompts.size).toBe(40)
  for (const { prompt, outputTokens } of make(7).items) {
    expect(prompt.length).toBeGreaterThanOrEqual(8)
    expect(prompt.length).toBeLessThanOrEqual(16)
    expect(outputTokens).toBeGreaterThanOrEqual(1)
    expect(outputTokens).toBeLessThanOrEqual(5)
    expect(Math.min(...prompt)).toBeGreaterThanOrEqual(259)
    expect(Math.max(...prompt)).toBeLessThan(511)
  }
})
