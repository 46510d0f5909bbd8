import type { IterationLoad } from '../cost-model.ts'
import type { IterationPlan, Outcome, SequenceResult } from '../plan.ts'
import { Scheduler } from '../scheduler.ts'
import { type Pipeline, type Work, workOf } from './roofline.ts'

/** The device's answer to everything: what is said does not matter, only how much. */
const token = 0
const silence: SequenceResult = { tokens: [] }
const sayings: SequenceResult[] = []

/** `count` tokens; made once for each count, because a day of a million requests asks very often. */
function saying(count: number): SequenceResult {
  return (sayings[count] ??= { tokens: Array.from({ length: count }, () => token) })
}

/**
 * Iterations on their way through the device: one as planned, and, where nothing can change for a while, all
 * that follow it until something can. Such a stretch is committed at once, as if many tokens had been guessed
 * right; test/simulate/coarse.test.ts holds it to the same times as committing one by one.
 */
export class Flight {
  readonly scheduler: Scheduler
  readonly #plan: IterationPlan
  readonly #work: Work
  readonly #pipeline: Pipeline
  #iterations = 1
  #iterationsMax: number
  #load: IterationLoad
  #startMs: number
  #endMs: number

  constructor(scheduler: Scheduler, plan: IterationPlan, pipeline: Pipeline, coarse: boolean) {
    this.scheduler = scheduler
    this.#plan = plan
    this.#work = workOf(plan)
    this.#pipeline = pipeline
    this.#load = plan.load
    this.#startMs = plan.plannedMs
    this.#endMs = pipeline.pass(this.#work, plan.plannedMs)
    this.#iterationsMax = coarse ? quietIterations(scheduler, plan) : 1
  }

  /** When the iteration that is on its way now comes out. */
  get endMs(): number {
    return this.#endMs
  }

  get iterations(): number {
    return this.#iterations
  }

  /** Something arrived: the iteration on its way is the last of the stretch. */
  cut(): void {
    this.#iterationsMax = this.#iterations
  }

  /** Starts the next iteration of the stretch at the end of this one; false when it is over. */
  extend(): boolean {
    if (this.#iterations === this.#iterationsMax) return false
    if (this.scheduler.learnsCosts) this.scheduler.costs.observe(this.#load, this.#endMs - this.#startMs)
    const { tokens, context, sequences } = this.#load
    this.#load = { tokens, context: context + sequences, sequences }
    this.#work.attended += sequences
    this.#work.cacheRead += sequences
    this.#iterations++
    this.#startMs = this.#endMs
    this.#endMs = this.#pipeline.pass(this.#work, this.#startMs)
    return true
  }

  commit(): Outcome[] {
    const plan = this.#plan
    const said = saying(this.#iterations)
    const results = plan.sequences.map(({ sampledRows }) => (sampledRows === 0 ? silence : said))
    if (this.#iterations === 1) return this.scheduler.commit(plan, results, this.#endMs)
    const { iteration, budgetTokens, tokens, sequences, joined, preempted, expired } = plan
    this.#takeBlocks()
    const last = { iteration, budgetTokens, tokens, sequences, joined, preempted, expired }
    return this.scheduler.commit(
      { ...last, plannedMs: this.#startMs, load: this.#load },
      results,
      this.#endMs,
    )
  }

  /** Takes the blocks that the iterations behind the planned one would have taken: they were counted. */
  #takeBlocks(): void {
    const { pool, shape } = this.scheduler
    for (const { sequence, start } of this.#plan.sequences) {
      const blocks = Math.ceil((start + this.#iterations) / shape.blockTokens)
      while (sequence.blocks.length < blocks) sequence.blocks.push(pool.take())
    }
  }
}

/**
 * How many iterations from `plan` on are alike but for one token more in every stream: nobody finishes before
 * the last of them, no block runs out, nobody can join. 1 when in doubt.
 */
function quietIterations(scheduler: Scheduler, plan: IterationPlan): number {
  const { options, pool, roster, shape } = scheduler
  const { running, queue } = roster
  // Baselines plan by other rules; published blocks and guesses depend on every single token.
  if (scheduler.constructor !== Scheduler || options.prefixCache || options.guessesMax > 0) return 1
  // Who is refused depends on what the queue was told of every iteration.
  if (options.goalTtftMs !== undefined && options.goalShed !== Number.POSITIVE_INFINITY) return 1
  if (plan.sequences.length !== running.size || plan.preempted.length > 0) return 1
  if (queue.size > 0) {
    // A learning cost model may change its mind about who may join; a lack of room or blocks lasts.
    const lasting = running.size >= options.runningMax || options.goalTpotMs === undefined
    if (!lasting || options.queueLimitMs !== Number.POSITIVE_INFINITY) return 1
  }
  let quiet = Number.POSITIVE_INFINITY
  for (const { sequence, count, sampledRows } of plan.sequences) {
    // The last token of a prompt looks like a stream, but what it yields is a first token with a time of its own.
    if (count !== 1 || sampledRows !== 1 || sequence.generatedTokens === 0) return 1
    quiet = Math.min(quiet, sequence.request.maxTokens - sequence.generatedTokens)
  }
  // Mostly there are blocks for all of it, and nobody needs to know for exactly how long they last.
  if (plan.sequences.length * Math.ceil(quiet / shape.blockTokens) <= pool.available)
    return Math.max(1, quiet)
  const slack = plan.sequences.map(
    ({ sequence, start }) => sequence.blocks.length * shape.blockTokens - start,
  )
  return Math.max(1, Math.min(quiet, iterationsWithin(pool.available, slack, shape.blockTokens)))
}

/**
 * How many iterations `available` blocks last for streams that each have room for `slack` tokens more: every
 * `blockTokens` iterations each takes a block, and within such a round the one with the least slack comes first.
 */
function iterationsWithin(available: number, slack: number[], blockTokens: number): number {
  const rounds = Math.floor(available / slack.length)
  slack.sort((a, b) => a - b)
  return rounds * blockTokens + slack[available % slack.length]!
}
