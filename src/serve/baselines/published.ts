import { assert } from '../../base/assert.ts'
import type { ExecutorShape } from '../executor.ts'
import type { Ended, IterationPlan, Outcome, SequenceResult } from '../plan.ts'
import type { FinishReason } from '../request.ts'
import type { Sequence } from '../sequence.ts'
import { Baseline, WholePlan } from './baseline.ts'

export interface PublishedOptions {
  /** Requests in one iteration at most (max_bs in the paper). */
  batchMax: number
  /** Iterations in flight, one per stage of the pipeline (n_workers in the paper). */
  inFlightMax?: number
}

/**
 * Iteration-level scheduling as published (Yu et al., "Orca", OSDI 2022, algorithm 1): first come, first
 * served; a request is selected only when the cache slots for all tokens that it may ever have can be
 * reserved, so nothing is ever preempted; a prompt is computed whole, in one iteration.
 */
export class PublishedScheduler extends Baseline {
  readonly inFlightMax: number
  readonly #batchMax: number
  readonly #inFlight = new Set<Sequence>()

  constructor(shape: ExecutorShape, options: PublishedOptions) {
    super(shape)
    assert(options.batchMax >= 1, 'an iteration has room for a request')
    this.#batchMax = options.batchMax
    this.inFlightMax = options.inFlightMax ?? 1
  }

  override plan(nowMs: number): WholePlan {
    const plan = new WholePlan(this.totals.iterations++, nowMs)
    for (const sequence of this.roster.running) {
      if (plan.sequences.length === this.#batchMax) break
      if (!this.#inFlight.has(sequence)) plan.add(sequence, sequence.owed)
    }
    while (plan.sequences.length < this.#batchMax) {
      const next = this.roster.queue.peek()
      if (next === undefined) break
      const { promptTokens, request } = next
      // The last token is never fed back, so it needs no slot.
      const blocks = this.blocksFor(promptTokens + request.maxTokens - 1)
      if (blocks > this.pool.available) break
      this.roster.join(next, nowMs)
      this.reserve(next, blocks)
      plan.joined.push(next)
      plan.add(next, next.owed)
    }
    for (const { sequence } of plan.sequences) this.#inFlight.add(sequence)
    return plan
  }

  override commit(plan: IterationPlan, results: readonly SequenceResult[], nowMs: number): Outcome[] {
    this.#land(plan)
    return super.commit(plan, results, nowMs)
  }

  override fail(plan: IterationPlan, message: string, nowMs: number): Outcome[] {
    this.#land(plan)
    return super.fail(plan, message, nowMs)
  }

  override cancel(id: string, nowMs: number, reason: FinishReason = 'aborted'): Ended | undefined {
    const ended = super.cancel(id, nowMs, reason)
    if (ended !== undefined) this.#inFlight.delete(ended.sequence)
    return ended
  }

  #land(plan: IterationPlan): void {
    for (const { sequence } of plan.sequences) this.#inFlight.delete(sequence)
  }
}
