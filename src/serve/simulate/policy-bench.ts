import type { Executor } from '../executor.ts'
import { type EngineRun, type EngineRunOptions, runEngine } from './engine-run.ts'
import { runFleet } from './fleet.ts'
import type { Policy, PolicyName } from './policies.ts'
import type { Roofline } from './roofline.ts'
import { type Summary, summarize } from './statistics.ts'
import { readOff } from './throughput.ts'
import { type Arrival, type Lengths, poisson } from './workload.ts'

/** Runs a workload somewhere: on the engine here, or on a simulated device. */
export type Runner = (
  policy: Policy,
  arrivals: readonly Arrival[],
  limitMs: number,
) => Promise<Pick<EngineRun, 'arrivals' | 'firstMs' | 'endMs' | 'unfinished'>>

export function engineRunner(executor: Executor, options: Omit<EngineRunOptions, 'limitMs'>): Runner {
  return (policy, arrivals, limitMs) => runEngine(executor, policy, arrivals, { ...options, limitMs })
}

export function simulatedRunner(roofline: Roofline): Runner {
  return async (policy, arrivals) => ({ ...runFleet(roofline, policy, arrivals), unfinished: 0 })
}

export interface PolicyBench {
  lengths: Lengths
  policies: readonly Policy[]
  /** Requests a second; chosen from the unloaded device when absent. */
  rates?: readonly number[]
  /** How: multiples of the rate at which it serves one request after the other. */
  rateSteps: readonly number[]
  seed: number
  /** Requests arrive for so long in each run, and it may take as long again to end them; Infinity for virtual time. */
  windowMs: number
  requestsMax: number
}

/** The policies of the comparison, with one size of batch for all. */
export function comparedPolicies(batchMax: number, timeoutMs: number): Policy[] {
  return [
    { name: 'static', batchMax },
    { name: 'timeout', batchMax, timeoutMs },
    { name: 'published', batchMax },
    {
      name: 'ours',
      options: {
        runningMax: batchMax,
        prefixCache: false,
        waitingMax: Number.MAX_SAFE_INTEGER,
        queueLimitMs: Number.POSITIVE_INFINITY,
      },
    },
  ]
}

/** One line of the result: one policy at one rate. */
export interface PolicyPoint extends Summary {
  policy: PolicyName
  /** Requests a second offered; 0 is the unloaded device, one request after the other. */
  offered: number
  unfinished: number
}

const unloadedRequests = 8

/**
 * Runs every policy at every rate, what is in `known` excepted, and reports each point as it is there.
 * Rates are the outer loop, so that a run cut short has all policies at the lower rates. Rates that it chooses
 * itself end where no policy keeps twice the unloaded latency.
 */
export async function benchPolicies(
  bench: PolicyBench,
  run: Runner,
  known: readonly PolicyPoint[],
  report: (point: PolicyPoint) => void,
): Promise<PolicyPoint[]> {
  const points = [...known]
  const add = (point: PolicyPoint) => {
    points.push(point)
    report(point)
  }
  let unloaded = points.find(({ offered }) => offered === 0)
  if (unloaded === undefined) add((unloaded = await unloadedPoint(bench, run)))
  const rates = bench.rates ?? bench.rateSteps.map((step) => rounded(step * unloaded.requestsPerSecond))
  for (const offered of rates) {
    for (const policy of bench.policies) {
      if (points.some((point) => point.policy === policy.name && point.offered === offered)) continue
      const count = Math.min(bench.requestsMax, Math.ceil((offered * bench.windowMs) / 1000) + 1)
      const arrivals = poisson(count, offered, bench.lengths, bench.seed)
      const result = await run(policy, arrivals, 2 * bench.windowMs)
      const { unfinished } = result
      add({ policy: policy.name, offered, unfinished, ...summarize(result) })
    }
    const limitMs = 2 * unloaded.perTokenMs.p50
    const here = points.filter((point) => point.offered === offered)
    if (bench.rates === undefined && here.every(({ perTokenMs }) => perTokenMs.p50 > limitMs)) break
  }
  return points
}

/** A few requests, one after the other, under our scheduler: what latency is without company. */
async function unloadedPoint(bench: PolicyBench, run: Runner): Promise<PolicyPoint> {
  const policy = bench.policies.find(({ name }) => name === 'ours') ?? bench.policies[0]!
  const arrivals = poisson(unloadedRequests, 1, bench.lengths, bench.seed)
  const single = { arrivals: [] as Arrival[], firstMs: [] as number[], endMs: [] as number[] }
  let nowMs = 0
  // The first warms up: graphs are built and memory is touched.
  for (const [index, arrival] of [arrivals[0]!, ...arrivals].entries()) {
    const alone = await run(policy, [{ ...arrival, atMs: 0 }], Number.POSITIVE_INFINITY)
    if (index === 0) continue
    single.arrivals.push({ ...arrival, atMs: nowMs })
    single.firstMs.push(nowMs + alone.firstMs[0]!)
    single.endMs.push((nowMs += alone.endMs[0]!))
  }
  const { arrivals: all } = single
  const record = {
    arrivals: all,
    firstMs: Float64Array.from(single.firstMs),
    endMs: Float64Array.from(single.endMs),
  }
  return { policy: policy.name, offered: 0, unfinished: 0, ...summarize(record) }
}

export interface Verdict {
  /** Twice the unloaded median latency per generated token. */
  limitMs: number
  /** Requests a second at that latency; 0 where the lowest rate is too high already. */
  perSecond: Partial<Record<PolicyName, number>>
  /** Policies that kept it at every rate, so that they may serve more. */
  atLeast: PolicyName[]
  /** Ours over each of the others that serves any. */
  ratio: Partial<Record<PolicyName, number>>
}

export function verdictOf(points: readonly PolicyPoint[]): Verdict {
  const unloaded = points.find(({ offered }) => offered === 0)!
  const limitMs = 2 * unloaded.perTokenMs.p50
  const perSecond: Verdict['perSecond'] = {}
  const atLeast: PolicyName[] = []
  for (const name of new Set(points.map(({ policy }) => policy))) {
    const own = points.filter(({ policy, offered }) => policy === name && offered > 0)
    if (own.every(({ perTokenMs }) => perTokenMs.p50 <= limitMs)) atLeast.push(name)
    perSecond[name] = readOff(
      own.map(({ offered, perTokenMs }) => ({ offered, medianMs: perTokenMs.p50 })),
      limitMs,
    )
  }
  const ratio: Verdict['ratio'] = {}
  const ours = perSecond.ours ?? Number.NaN
  for (const [name, rate] of Object.entries(perSecond)) {
    if (name !== 'ours' && rate > 0) ratio[name as PolicyName] = ours / rate
  }
  return { limitMs, perSecond, atLeast, ratio }
}

function rounded(value: number): number {
  return Number(value.toPrecision(2))
}
