import type { RunRecord } from './fleet.ts'

/** The value below which a share of `q` lies, interpolated; NaN of nothing. */
export function quantile(values: ArrayLike<number>, q: number): number {
  const sorted = Float64Array.from(values).sort()
  if (sorted.length === 0) return Number.NaN
  const place = q * (sorted.length - 1)
  const low = sorted[Math.floor(place)]!
  const high = sorted[Math.ceil(place)]!
  return high === low ? low : low + (high - low) * (place - Math.floor(place))
}

export interface Summary {
  requests: number
  refused: number
  /** Requests that ended, over the time from the first arrival to the last end. */
  requestsPerSecond: number
  outputTokensPerSecond: number
  /** Milliseconds from arrival to end over generated tokens (normalised latency). */
  perTokenMs: { p50: number; p99: number }
  /** Milliseconds from arrival to the first token. */
  firstTokenMs: { p50: number; p99: number }
  /** Milliseconds between the tokens behind the first. */
  nextTokenMs: { p50: number; p99: number }
}

/**
 * Sums a run up. The first tenth of the requests finds an empty machine and is left out of the latencies.
 * A request that never ended (Infinity) has a latency beyond every other and is not served; one that was
 * refused (NaN) has none.
 */
export function summarize(record: Pick<RunRecord, 'arrivals' | 'firstMs' | 'endMs'>): Summary {
  const { arrivals, firstMs, endMs } = record
  const perToken: number[] = []
  const first: number[] = []
  const next: number[] = []
  let ended = 0
  let tokens = 0
  let unfinished = 0
  let lastMs = 0
  for (const [i, { atMs, outputTokens }] of arrivals.entries()) {
    const end = endMs[i]!
    if (Number.isNaN(end)) continue
    if (Number.isFinite(end)) {
      ended++
      tokens += outputTokens
      lastMs = Math.max(lastMs, end)
    } else unfinished++
    if (i < arrivals.length / 10) continue
    perToken.push((end - atMs) / outputTokens)
    first.push(firstMs[i]! - atMs)
    if (outputTokens > 1 && Number.isFinite(end)) next.push((end - firstMs[i]!) / (outputTokens - 1))
  }
  const seconds = Math.max(1e-9, lastMs - (arrivals[0]?.atMs ?? 0)) / 1000
  const middleAndTail = (values: number[]) => ({ p50: quantile(values, 0.5), p99: quantile(values, 0.99) })
  return {
    requests: ended,
    refused: arrivals.length - ended - unfinished,
    requestsPerSecond: ended / seconds,
    outputTokensPerSecond: tokens / seconds,
    perTokenMs: middleAndTail(perToken),
    firstTokenMs: middleAndTail(first),
    nextTokenMs: middleAndTail(next),
  }
}
