/**
 * What clients ask in a bench, and what they got when: the same list and the same stopwatch for both sides
 * of a comparison. Times are on the clock of the process that received the tokens.
 */
import { assert } from '../../src/base/assert.ts'
import { type Clock, systemClock } from '../../src/base/clock.ts'
import { deriveSeed, Random } from '../../src/base/random.ts'
import { quantile } from './comparison.ts'

export interface WorkItem {
  prompt: readonly number[]
  /** Exactly so many tokens come out: ending tokens do not end anything here. */
  outputTokens: number
}

export interface Workload {
  items: readonly WorkItem[]
  /** Requests in flight; the next is sent when one has ended. */
  concurrency: number
}

/** When one request was sent and when each of its tokens arrived. */
export interface Delivery {
  sentMs: number
  tokenMs: readonly number[]
}

/** Runs one item to its end; `slot` is below the concurrency and belongs to this item alone meanwhile. */
export type Generate = (item: WorkItem, slot: number, onToken: () => void) => Promise<void>

export async function runWorkload(
  { items, concurrency }: Workload,
  generate: Generate,
  clock: Clock = systemClock,
): Promise<Delivery[]> {
  const deliveries: Delivery[] = []
  let next = 0
  const work = async (slot: number) => {
    while (next < items.length) {
      const item = items[next++]!
      const tokenMs: number[] = []
      const sentMs = clock.nowMs()
      await generate(item, slot, () => tokenMs.push(clock.nowMs()))
      assert(tokenMs.length === item.outputTokens, `a request gets its ${item.outputTokens} tokens`)
      deliveries.push({ sentMs, tokenMs })
    }
  }
  await Promise.all(Array.from({ length: Math.min(concurrency, items.length) }, (_, slot) => work(slot)))
  return deliveries
}

/** Token ids of plain vocabulary entries; ids below 259 are bytes and merges, the last is the ending token. */
export function randomPrompt(random: Random, tokens: number, vocabularySize: number): number[] {
  return Array.from({ length: tokens }, () => 259 + random.integer(vocabularySize - 260))
}

/** Requests of one shape, all with different prompts. */
export function uniformWorkload(
  requests: number,
  promptTokens: number,
  outputTokens: number,
  vocabularySize: number,
  seed: number,
): Workload {
  const random = new Random(seed)
  const items = Array.from({ length: requests }, () => ({
    prompt: randomPrompt(random, promptTokens, vocabularySize),
    outputTokens,
  }))
  return { items, concurrency: requests }
}

/** Lengths as in Orca's experiment (OSDI'22, section 6.2): inputs and outputs uniform within their bounds. */
export function mixedWorkload(
  requests: number,
  concurrency: number,
  prompt: { min: number; max: number },
  output: { min: number; max: number },
  vocabularySize: number,
  seed: number,
): Workload {
  const random = new Random(deriveSeed(seed, 'mix'))
  const between = ({ min, max }: { min: number; max: number }) => min + random.integer(max - min + 1)
  const items = Array.from({ length: requests }, () => ({
    prompt: randomPrompt(random, between(prompt), vocabularySize),
    outputTokens: between(output),
  }))
  return { items, concurrency }
}

/** Tokens over the time from the first request sent to the last token. */
export function outputTokensPerSecond(deliveries: readonly Delivery[]): number {
  const tokens = deliveries.flatMap(({ tokenMs }) => tokenMs)
  const startMs = Math.min(...deliveries.map(({ sentMs }) => sentMs))
  return (tokens.length * 1000) / (Math.max(...tokens) - startMs)
}

/**
 * Tokens per second while every request generates: from the last first token until the first request ends.
 * NaN when they were never all at it together.
 */
export function decodeTokensPerSecond(deliveries: readonly Delivery[]): number {
  const startMs = Math.max(...deliveries.map(({ tokenMs }) => tokenMs[0]!))
  const endMs = Math.min(...deliveries.map(({ tokenMs }) => tokenMs.at(-1)!))
  const tokens = deliveries.flatMap(({ tokenMs }) => tokenMs.filter((ms) => ms > startMs && ms <= endMs))
  return endMs > startMs ? (tokens.length * 1000) / (endMs - startMs) : Number.NaN
}

/** Median and p90 of the time from sending to the first token. */
export function firstTokenMs(deliveries: readonly Delivery[]) {
  const waits = deliveries.map(({ sentMs, tokenMs }) => tokenMs[0]! - sentMs).sort((a, b) => a - b)
  return { median: quantile(waits, 0.5), p90: quantile(waits, 0.9) }
}

/** Median over requests of latency divided by output tokens: the measure of Orca's figures. */
export function latencyPerTokenMs(deliveries: readonly Delivery[]): number {
  const shares = deliveries.map(({ sentMs, tokenMs }) => (tokenMs.at(-1)! - sentMs) / tokenMs.length)
  return quantile(
    shares.sort((a, b) => a - b),
    0.5,
  )
}
