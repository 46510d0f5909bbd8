import type { Clock } from '../../base/clock.ts'
import { deriveSeed, Random } from '../../base/random.ts'
import { Engine } from '../engine.ts'
import type { Executor } from '../executor.ts'
import type { RequestProgress } from '../request.ts'
import type { RunRecord } from './fleet.ts'
import { type Policy, schedulerOf } from './policies.ts'
import { type Arrival, requestOf } from './workload.ts'

export interface EngineRunOptions {
  clock: Clock
  seed: number
  /** The run ends then, whoever still waits. */
  limitMs: number
  /** Waits; a test moves its clock instead. */
  sleep: (ms: number) => Promise<void>
}

export type EngineRun = Pick<RunRecord, 'arrivals' | 'firstMs' | 'endMs' | 'preemptions' | 'iterations'> & {
  /** Requests that had not ended at the limit; when they would have is not known, so it counts as never. */
  unfinished: number
}

/** Short enough that an arrival is not noticed late, long enough to leave the processor alone. */
const napMs = 1

/**
 * Plays arrivals to a real engine under `policy`, in real time and open loop: requests come when they come,
 * whether the engine keeps up or not, and their latency counts from then.
 */
export async function runEngine(
  executor: Executor,
  policy: Policy,
  arrivals: readonly Arrival[],
  options: EngineRunOptions,
): Promise<EngineRun> {
  const { clock } = options
  const tokens = new Random(deriveSeed(options.seed, 'tokens'))
  const prompts = arrivals.map(({ promptTokens }) =>
    Array.from({ length: promptTokens }, () => tokens.integer(executor.shape.vocabularySize)),
  )
  const startMs = clock.nowMs()
  const firstMs = new Float64Array(arrivals.length).fill(Number.NaN)
  const endMs = new Float64Array(arrivals.length).fill(Number.NaN)
  let ended = 0
  const hear = (items: readonly RequestProgress[]) => {
    const nowMs = clock.nowMs() - startMs
    for (const { id, tokens, finish } of items) {
      const index = Number(id)
      if (tokens.length > 0 && Number.isNaN(firstMs[index])) firstMs[index] = nowMs
      // What was cut off at the limit did not end by itself.
      if (finish === undefined || finish.reason === 'aborted') continue
      endMs[index] = nowMs
      ended++
    }
  }
  const engine = new Engine(executor, schedulerOf(policy, executor.shape), clock, hear)
  let next = 0
  for (;;) {
    const nowMs = clock.nowMs() - startMs
    for (; next < arrivals.length && arrivals[next]!.atMs <= nowMs; next++) {
      const request = requestOf(arrivals[next]!, String(next), prompts[next]!)
      const admission = engine.submit(request)
      if (!admission.ok) throw new Error(`the engine refused a request of the workload: ${admission.code}`)
    }
    if (ended === arrivals.length || nowMs >= options.limitMs) break
    const before = engine.gauges().iterations
    await engine.step()
    // A batch that waits for company leaves the engine idle although requests wait.
    if (engine.gauges().iterations === before) await options.sleep(napMs)
  }
  const unfinished = arrivals.length - ended
  const { iterations, preemptions } = engine.gauges()
  engine.cancelAll()
  for (let index = 0; index < arrivals.length; index++) {
    if (Number.isNaN(endMs[index])) endMs[index] = Number.POSITIVE_INFINITY
    if (Number.isNaN(firstMs[index])) firstMs[index] = Number.POSITIVE_INFINITY
  }
  return { arrivals, firstMs, endMs, unfinished, iterations, preemptions }
}
