import type { Clock } from '../../base/clock.ts'

/** Seconds that one slice of a window covers, and how many slices are kept: half an hour. */
const sliceMs = 10_000
const slicesMax = 180

/** Upper bounds of buckets, each 10 % above the one before: a percentile is off by 5 % at most. */
const base = 1.1
const leastMs = 0.05
const buckets = 180

interface Slice {
  index: number
  counts: Uint32Array
  total: number
  sum: number
}

/** Percentiles of what was observed lately, in constant memory. */
export class Window {
  readonly #clock: Clock
  readonly #slices: Slice[] = []

  constructor(clock: Clock) {
    this.#clock = clock
  }

  observe(ms: number): void {
    const bucket = Math.ceil(Math.log(Math.max(ms, leastMs) / leastMs) / Math.log(base))
    const slice = this.#now()
    slice.counts[Math.min(buckets - 1, bucket)]!++
    slice.total++
    slice.sum += ms
  }

  /** Over the last `windowMs` (at most half an hour), in whole slices; undefined when nothing was observed. */
  summary(windowMs: number): WindowSummary | undefined {
    const oldest = Math.floor((this.#clock.nowMs() - windowMs) / sliceMs)
    const slices = this.#slices.filter(({ index }) => index >= oldest)
    const count = slices.reduce((sum, { total }) => sum + total, 0)
    if (count === 0) return undefined
    const percentile = (share: number): number => {
      let left = Math.ceil(count * share)
      for (let bucket = 0; bucket < buckets; bucket++) {
        for (const { counts } of slices) left -= counts[bucket]!
        if (left <= 0) return leastMs * base ** bucket
      }
      return Infinity
    }
    const mean = slices.reduce((sum, slice) => sum + slice.sum, 0) / count
    return { count, mean, p50: percentile(0.5), p90: percentile(0.9), p99: percentile(0.99) }
  }

  #now(): Slice {
    const index = Math.floor(this.#clock.nowMs() / sliceMs)
    const last = this.#slices.at(-1)
    if (last?.index === index) return last
    if (this.#slices.length >= slicesMax) this.#slices.shift()
    const slice = { index, counts: new Uint32Array(buckets), total: 0, sum: 0 }
    this.#slices.push(slice)
    return slice
  }
}

export interface WindowSummary {
  count: number
  mean: number
  p50: number
  p90: number
  p99: number
}
