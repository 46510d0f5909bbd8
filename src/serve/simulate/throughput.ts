import { runFleet } from './fleet.ts'
import type { Policy } from './policies.ts'
import type { Roofline } from './roofline.ts'
import { summarize } from './statistics.ts'
import { type Lengths, poisson } from './workload.ts'

export interface LoadTest {
  lengths: Lengths
  requests: number
  seed: number
}

/** So few requests a second that each finds an empty machine. */
const unloadedPerSecond = 1e-3

/** Median latency per generated token of requests that have the device to themselves, in milliseconds. */
export function unloadedPerTokenMs(roofline: Roofline, policy: Policy, test: LoadTest): number {
  return medianPerTokenMs(roofline, policy, test, unloadedPerSecond)
}

export function medianPerTokenMs(
  roofline: Roofline,
  policy: Policy,
  { lengths, requests, seed }: LoadTest,
  perSecond: number,
): number {
  return summarize(runFleet(roofline, policy, poisson(requests, perSecond, lengths, seed))).perTokenMs.p50
}

// A bisection from a factor of two down: rates are known to 2 %.
const bisections = 6

/** Requests a second that a policy serves at a median latency per generated token of `limitMs`; 0 when at none. */
export function throughputAt(roofline: Roofline, policy: Policy, limitMs: number, test: LoadTest): number {
  const keeps = (rate: number) => medianPerTokenMs(roofline, policy, test, rate) <= limitMs
  let low = 1 / 64
  if (!keeps(low)) return 0
  let high = low * 2
  while (keeps(high)) {
    low = high
    high *= 2
    // Closed by memory or arrivals, not by latency: nothing more is to be found.
    if (high > 1e6) return low
  }
  for (let i = 0; i < bisections; i++) {
    const middle = Math.sqrt(low * high)
    if (keeps(middle)) low = middle
    else high = middle
  }
  return low
}

export interface Point {
  /** Requests a second offered. */
  offered: number
  medianMs: number
}

/**
 * Reads off a measured curve at which rate the median crosses `limitMs`, between points by their logarithms.
 * The first crossing counts; a curve that stays below gives its last rate.
 */
export function readOff(points: readonly Point[], limitMs: number): number {
  const sorted = [...points].sort((a, b) => a.offered - b.offered)
  for (const [i, { offered, medianMs }] of sorted.entries()) {
    if (medianMs <= limitMs) continue
    const before = sorted[i - 1]
    if (before === undefined) return 0
    const share = Math.log(limitMs / before.medianMs) / Math.log(medianMs / before.medianMs)
    return before.offered * (offered / before.offered) ** share
  }
  return sorted.at(-1)?.offered ?? 0
}
