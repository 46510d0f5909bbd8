import type { ExecutorShape } from '../executor.ts'
import type { Ended, IterationPlan, PlannedSequence } from '../plan.ts'
import type { Admission, EngineRequest } from '../request.ts'
import { Scheduler } from '../scheduler.ts'
import type { Sequence } from '../sequence.ts'

/**
 * What the baselines share: strictly first come, first served, one class, one tenant, no prefix cache and no
 * preemption. They exist so that the gain of our scheduler is measured under the same engine and kernels.
 *
 * Everything but the choice of who computes (queue, blocks, accounting of times) is the scheduler's own.
 */
export abstract class Baseline extends Scheduler {
  constructor(shape: ExecutorShape) {
    super(shape, {
      prefixCache: false,
      waitingMax: Number.MAX_SAFE_INTEGER,
      queueLimitMs: Number.POSITIVE_INFINITY,
      ageingMs: Number.POSITIVE_INFINITY,
    })
  }

  /** How many plans may be in flight at once on a pipelined device. */
  abstract readonly inFlightMax: number

  /** When a plan will have something to compute although nothing arrives or ends; undefined when never. */
  nextPlanMs(): number | undefined {
    return undefined
  }

  override submit(request: EngineRequest, nowMs: number): Admission {
    return super.submit({ ...request, tenant: 'everybody', priority: 0 }, nowMs)
  }

  protected blocksFor(tokens: number): number {
    return Math.ceil(tokens / this.shape.blockTokens)
  }

  /** Takes blocks for the whole life of a request: it can never be in want of one. */
  protected reserve(sequence: Sequence, blocks: number): void {
    while (sequence.blocks.length < blocks) sequence.blocks.push(this.pool.take())
  }
}

/** A plan that computes whole chunks as told, with no budget. */
export class WholePlan implements IterationPlan {
  readonly iteration: number
  readonly plannedMs: number
  readonly sequences: PlannedSequence[] = []
  readonly joined: Sequence[] = []
  readonly preempted: Sequence[] = []
  readonly expired: Ended[] = []
  tokens = 0
  #context = 0

  constructor(iteration: number, nowMs: number) {
    this.iteration = iteration
    this.plannedMs = nowMs
  }

  get budgetTokens(): number {
    return this.tokens
  }

  get load() {
    return { tokens: this.tokens, context: this.#context, sequences: this.sequences.length }
  }

  /** Computes the next `count` tokens of `sequence`; the last known one yields a new token. */
  add(sequence: Sequence, count: number): void {
    const start = sequence.computed
    const sampledRows = start + count === sequence.tokens.length && sequence.state === 'running' ? 1 : 0
    sequence.plannedIteration = this.iteration
    this.sequences.push({
      sequence,
      start,
      count,
      guesses: [],
      outputs: sampledRows,
      promptRows: 0,
      sampledRows,
    })
    this.#context += count * start + (count * (count + 1)) / 2
    this.tokens += count
  }
}
