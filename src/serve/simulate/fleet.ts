import { assert } from '../../base/assert.ts'
import type { ExecutorShape } from '../executor.ts'
import type { Outcome } from '../plan.ts'
import { type Policy, schedulersOf } from './policies.ts'
import { Replica } from './replica.ts'
import { Pipeline, type Roofline } from './roofline.ts'
import { type Arrival, requestOf } from './workload.ts'

/** What became of every request of a run, by its index. NaN where there was no such moment. */
export interface RunRecord {
  readonly arrivals: readonly Arrival[]
  readonly firstMs: Float64Array
  readonly endMs: Float64Array
  refused: number
  iterations: number
  preemptions: number
  /** True when the run was given up because it could no longer keep its goals. */
  abandoned: boolean
}

export interface FleetOptions {
  replicas?: number
  coarse?: boolean
  /** Asked with the index of every request that ended; true gives the run up. */
  giveUp?: (index: number, record: RunRecord) => boolean
}

const blockTokens = 16
/** Token ids of a trace are numbers of text pieces. */
const vocabularySize = 2 ** 31

export function shapeOf(roofline: Roofline): ExecutorShape {
  const { contextMax } = roofline.deployment.model
  const blockCount = Math.floor(roofline.cacheTokens / blockTokens)
  assert(blockCount > 0, 'the weights leave room for a cache')
  return { vocabularySize, contextMax, blockTokens, blockCount }
}

/**
 * Plays a workload to equal replicas. Each request goes to the replica with the fewest requests, which is
 * what a router in front of them can know.
 */
export function runFleet(
  roofline: Roofline,
  policy: Policy,
  arrivals: readonly Arrival[],
  options: FleetOptions = {},
): RunRecord {
  const record: RunRecord = {
    arrivals,
    firstMs: new Float64Array(arrivals.length).fill(Number.NaN),
    endMs: new Float64Array(arrivals.length).fill(Number.NaN),
    refused: 0,
    iterations: 0,
    preemptions: 0,
    abandoned: false,
  }
  const shape = shapeOf(roofline)
  const { pipeline } = roofline.deployment
  const onOutcomes = (outcomes: readonly Outcome[], nowMs: number) => {
    for (const outcome of outcomes) note(record, outcome, nowMs, options)
  }
  const replicas = Array.from(
    { length: options.replicas ?? 1 },
    () =>
      new Replica(new Pipeline(roofline), schedulersOf(policy, shape, pipeline), {
        coarse: options.coarse ?? true,
        onOutcomes,
      }),
  )
  for (let index = 0; index < arrivals.length && !record.abandoned; index++) {
    const arrival = arrivals[index]!
    const replica = leastLoaded(replicas, arrival.atMs)
    if (!replica.submit(requestOf(arrival, String(index)), arrival.atMs).ok) record.refused++
  }
  for (const replica of replicas) {
    if (!record.abandoned) replica.advance(Number.POSITIVE_INFINITY)
    record.iterations += replica.iterations
    record.preemptions += replica.preemptions
  }
  return record
}

function leastLoaded(replicas: readonly Replica[], nowMs: number): Replica {
  let least = replicas[0]!
  for (const replica of replicas) {
    replica.advance(nowMs)
    if (replica.live < least.live) least = replica
  }
  return least
}

function note(record: RunRecord, outcome: Outcome, nowMs: number, options: FleetOptions): void {
  const { sequence, tokens, finish } = outcome
  const index = Number(sequence.id)
  if (tokens.length > 0 && Number.isNaN(record.firstMs[index])) record.firstMs[index] = nowMs
  if (finish === undefined) return
  record.endMs[index] = nowMs
  if (options.giveUp?.(index, record)) record.abandoned = true
}
