import type { RunRecord } from './fleet.ts'
import { runFleet } from './fleet.ts'
import type { Policy } from './policies.ts'
import type { Roofline } from './roofline.ts'
import { type Summary, summarize } from './statistics.ts'
import type { Arrival } from './workload.ts'

export interface ServiceGoal {
  /** Milliseconds from arrival to the first token. */
  ttftMs: number
  /** Milliseconds between the tokens behind it, as a mean of each request. */
  tpotMs: number
  /** Share of the requests that must keep both. */
  share: number
}

export interface Capacity {
  /** The least number of replicas that keeps the goal; undefined when `replicasMax` do not. */
  replicas: number | undefined
  /** Share of the requests that kept the goal at that number. */
  kept: number
  /** Requests that no number of replicas could take: too long for model or cache. They count as not kept. */
  refused: number
  summary: Summary
  /** Every number that was tried, in order. */
  tried: { replicas: number; enough: boolean }[]
}

export interface ServingOptions {
  /** Tokens that one iteration computes at most. */
  stepTokensMax: number
  /** Set where the trace says which prompts begin alike. */
  prefixCache: boolean
  /** Hands the goals to the scheduler, which then chooses what each iteration computes within the limit. */
  goal?: ServiceGoal
}

/**
 * Requests that wait at one replica. Whoever comes behind so many misses every sensible goal and is refused, as a
 * service would do: a day that overloads its replicas must not fill this machine's memory with the queue.
 */
export const waitingMax = 4096

/** Our scheduler as `ropeway serve` runs it, but that everybody in the queue waits as long as it takes. */
export function servingPolicy({ stepTokensMax, prefixCache, goal }: ServingOptions): Policy {
  const options = {
    stepTokensMax,
    runningMax: Math.min(256, stepTokensMax - 1),
    waitingMax,
    queueLimitMs: Number.POSITIVE_INFINITY,
    ageingMs: Number.POSITIVE_INFINITY,
    prefixCache,
    goalTpotMs: goal?.tpotMs,
    goalTtftMs: goal?.ttftMs,
    goalShed: Number.POSITIVE_INFINITY,
  }
  return { name: 'ours', options }
}

export function keepsGoal(record: RunRecord, index: number, goal: ServiceGoal): boolean {
  const { atMs, outputTokens } = record.arrivals[index]!
  const firstMs = record.firstMs[index]!
  const restMs = record.endMs[index]! - firstMs
  return firstMs - atMs <= goal.ttftMs && restMs <= goal.tpotMs * Math.max(1, outputTokens - 1)
}

/** The least number of replicas that keeps `goal` over the whole trace: doubling, then bisection. */
export function replicasFor(
  roofline: Roofline,
  policy: Policy,
  arrivals: readonly Arrival[],
  goal: ServiceGoal,
  replicasMax: number,
  onTry?: (replicas: number, enough: boolean) => void,
): Capacity {
  const tried: Capacity['tried'] = []
  let best: { replicas: number; record: RunRecord } | undefined
  const enough = (replicas: number) => {
    const record = run(roofline, policy, arrivals, goal, replicas)
    const keeps = record !== undefined
    if (record !== undefined) best = { replicas, record }
    tried.push({ replicas, enough: keeps })
    onTry?.(replicas, keeps)
    return keeps
  }
  let low = 0
  let high = 1
  while (!enough(high)) {
    low = high
    if (high >= replicasMax) break
    high = Math.min(replicasMax, 2 * high)
  }
  while (best !== undefined && high - low > 1) {
    const middle = (low + high) >> 1
    if (enough(middle)) high = middle
    else low = middle
  }
  const record = best?.record ?? runFleet(roofline, policy, arrivals, { replicas: replicasMax })
  const kept = arrivals.reduce((sum, _, index) => sum + (keepsGoal(record, index, goal) ? 1 : 0), 0)
  return {
    replicas: best?.replicas,
    kept: kept / arrivals.length,
    refused: record.refused,
    summary: summarize(record),
    tried,
  }
}

/** Plays the trace; undefined as soon as too many requests have missed the goal. */
function run(
  roofline: Roofline,
  policy: Policy,
  arrivals: readonly Arrival[],
  goal: ServiceGoal,
  replicas: number,
): RunRecord | undefined {
  const missedMax = arrivals.length * (1 - goal.share)
  let missed = 0
  const record = runFleet(roofline, policy, arrivals, {
    replicas,
    giveUp: (index, sofar) => {
      if (!keepsGoal(sofar, index, goal)) missed++
      return missed + sofar.refused > missedMax
    },
  })
  return record.abandoned || missed + record.refused > missedMax ? undefined : record
}
