import { assert } from '../../base/assert.ts'
import { Baseline } from '../baselines/baseline.ts'
import type { Outcome } from '../plan.ts'
import type { Admission, EngineRequest } from '../request.ts'
import type { Scheduler } from '../scheduler.ts'
import { Flight } from './flight.ts'
import type { Pipeline } from './roofline.ts'

/** One scheduler of a replica and what it has in flight. */
interface Lane {
  readonly scheduler: Scheduler
  readonly inFlightMax: number
  readonly flights: Flight[]
}

export interface ReplicaOptions {
  /** Commits stretches of equal iterations at once. Same result, sooner. */
  coarse?: boolean
  /** Called with what every commit says, and when. */
  onOutcomes: (outcomes: readonly Outcome[], nowMs: number) => void
}

/** An engine on a simulated device: the real schedulers, virtual time. */
export class Replica {
  readonly #pipeline: Pipeline
  readonly #lanes: Lane[]
  readonly #coarse: boolean
  readonly #onOutcomes: ReplicaOptions['onOutcomes']
  iterations = 0
  /** Nothing happens before this moment. */
  #nextMs = Number.POSITIVE_INFINITY
  #live = 0

  constructor(pipeline: Pipeline, schedulers: readonly Scheduler[], options: ReplicaOptions) {
    this.#pipeline = pipeline
    this.#lanes = schedulers.map((scheduler) => ({
      scheduler,
      inFlightMax: scheduler instanceof Baseline ? scheduler.inFlightMax : 1,
      flights: [],
    }))
    // Stages of a pipeline wait for one another: there no stretch is alone.
    this.#coarse = options.coarse === true && pipeline.roofline.deployment.pipeline === 1
    this.#onOutcomes = options.onOutcomes
  }

  /** Requests that were taken and have not ended. */
  get live(): number {
    return this.#live
  }

  get preemptions(): number {
    return this.#lanes.reduce((sum, { scheduler }) => sum + scheduler.roster.preemptions, 0)
  }

  /** Takes a request at `nowMs`, to which it has been advanced. */
  submit(request: EngineRequest, nowMs: number): Admission {
    let lane = this.#lanes[0]!
    for (const other of this.#lanes) {
      if (other.scheduler.roster.live < lane.scheduler.roster.live) lane = other
    }
    const admission = lane.scheduler.submit(request, nowMs)
    if (!admission.ok) return admission
    this.#live++
    for (const flight of lane.flights) flight.cut()
    this.#launch(lane, nowMs)
    this.#next()
    return admission
  }

  /** Lives through everything that happens up to `untilMs`, that moment included. */
  advance(untilMs: number): void {
    while (this.#nextMs <= untilMs) {
      const lane = this.#next()
      if (lane === undefined) return
      const nowMs = nextMs(lane)
      if (nowMs > untilMs) return
      const flight = earliest(lane)
      if (flight !== undefined && flight.endMs <= nowMs) {
        // A stretch has the device to itself, so nothing else can happen before its next end.
        while (flight.extend()) if (flight.endMs > untilMs) break
        this.#nextMs = flight.endMs
        if (flight.endMs > untilMs) return
        this.#land(lane, flight)
        this.#launch(lane, flight.endMs)
      } else {
        this.#launch(lane, nowMs)
      }
    }
  }

  /** The lane in which something happens next, if anything does. */
  #next(): Lane | undefined {
    let next: Lane | undefined
    let nextAtMs = Number.POSITIVE_INFINITY
    for (const lane of this.#lanes) {
      const atMs = nextMs(lane)
      if (atMs >= nextAtMs) continue
      next = lane
      nextAtMs = atMs
    }
    this.#nextMs = nextAtMs
    return next
  }

  #land(lane: Lane, flight: Flight): void {
    lane.flights.splice(lane.flights.indexOf(flight), 1)
    this.iterations += flight.iterations
    const outcomes = flight.commit()
    for (const { finish } of outcomes) if (finish !== undefined) this.#live--
    this.#onOutcomes(outcomes, flight.endMs)
  }

  #launch(lane: Lane, nowMs: number): void {
    const { scheduler, flights, inFlightMax } = lane
    while (flights.length < inFlightMax && scheduler.roster.live > 0) {
      const plan = scheduler.plan(nowMs)
      assert(plan.expired.length === 0, 'nobody waits in vain in a simulation')
      if (plan.sequences.length === 0) return
      flights.push(new Flight(scheduler, plan, this.#pipeline, this.#coarse))
    }
  }
}

function earliest({ flights }: Lane): Flight | undefined {
  let first = flights[0]
  for (const flight of flights) if (flight.endMs < first!.endMs) first = flight
  return first
}

/** When something happens in `lane` next; Infinity when nothing will. */
function nextMs(lane: Lane): number {
  const landsMs = earliest(lane)?.endMs ?? Number.POSITIVE_INFINITY
  const { scheduler } = lane
  if (!(scheduler instanceof Baseline) || lane.flights.length > 0) return landsMs
  return Math.min(landsMs, scheduler.nextPlanMs() ?? Number.POSITIVE_INFINITY)
}
