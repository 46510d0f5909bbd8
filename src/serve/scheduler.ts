import { assert } from '../base/assert.ts'
import { impossible } from './admission.ts'
import { BlockPool } from './blocks.ts'
import { CostModel } from './cost-model.ts'
import { WaitEstimator } from './estimates.ts'
import type { ExecutorShape } from './executor.ts'
import { GoalKeeper } from './goals.ts'
import { type SchedulerOptions, schedulerOptions } from './options.ts'
import {
  Draft,
  type Ended,
  type IterationPlan,
  type NewTokens,
  type Outcome,
  type Proposals,
  type SequenceResult,
  type Wish,
} from './plan.ts'
import { Planner } from './planner.ts'
import { PrefixCache } from './prefix-cache.ts'
import type { Admission, EngineRequest, FinishReason, QueueEstimate } from './request.ts'
import { PrefixReuse } from './reuse.ts'
import { Roster } from './roster.ts'
import { endOf, type Sequence } from './sequence.ts'
import { Speculation } from './speculation.ts'

/** A refused client is told to stay away for so long at least. */
const retryAfterMsMin = 100

export interface SchedulerTotals {
  iterations: number
  promptTokens: number
  cachedTokens: number
  generatedTokens: number
  /** Tokens that were guessed, and those of them that the model would have said. */
  guessedTokens: number
  acceptedTokens: number
}

/**
 * Decides, before every forward pass, which requests compute how many tokens.
 *
 * There is no prefill phase and no decode phase here. A request owes tokens (its whole prompt at first,
 * one per step once it generates) and each step pays as much of that debt as the budget and the block
 * pool allow. Chunked prompts, preemption and prefix reuse are all consequences.
 *
 * Everything is a function of the calls made and of the times they carry: the same calls give the same plans.
 */
export class Scheduler {
  readonly options: SchedulerOptions
  readonly shape: ExecutorShape
  readonly pool: BlockPool
  readonly cache: PrefixCache<Sequence>
  readonly roster: Roster
  readonly costs = new CostModel()
  readonly totals: SchedulerTotals = {
    iterations: 0,
    promptTokens: 0,
    cachedTokens: 0,
    generatedTokens: 0,
    guessedTokens: 0,
    acceptedTokens: 0,
  }
  readonly #waits = new WaitEstimator()
  readonly #reuse: PrefixReuse
  readonly #speculation: Speculation<Sequence>
  readonly #planner: Planner
  #held: Sequence[] = []
  /** Only goals and guesses ask what an iteration will cost. */
  readonly learnsCosts: boolean

  constructor(shape: ExecutorShape, given: Partial<SchedulerOptions> = {}) {
    const options = schedulerOptions(given)
    this.options = options
    this.shape = shape
    this.pool = new BlockPool(shape.blockCount)
    const pinnedBlocksMax = Math.floor(shape.blockCount * options.pinnedShareMax)
    this.cache = new PrefixCache(this.pool, shape.blockTokens, pinnedBlocksMax)
    this.roster = new Roster(options, this.pool, this.cache, this.#waits)
    this.#reuse = new PrefixReuse(this.cache, shape.blockTokens, options.prefixCache)
    this.#speculation = new Speculation(options.guessesMax)
    const parts = {
      roster: this.roster,
      pool: this.pool,
      cache: this.cache,
      reuse: this.#reuse,
      goals: new GoalKeeper({ tpotMs: options.goalTpotMs, ttftMs: options.goalTtftMs }, this.costs),
      costs: this.costs,
      speculation: this.#speculation,
    }
    this.#planner = new Planner(parts, options, shape.blockTokens)
    this.learnsCosts =
      options.goalTpotMs !== undefined || options.goalTtftMs !== undefined || options.guessesMax > 0
  }

  submit(request: EngineRequest, nowMs: number): Admission {
    const refusal = impossible(request, this.shape)
    if (refusal !== undefined) return { ok: false, code: refusal }
    if (this.roster.get(request.id) !== undefined) return { ok: false, code: 'duplicate_id' }
    const { queue } = this.roster
    if (queue.size >= this.options.waitingMax) {
      return { ok: false, code: 'queue_full', retryAfterMs: this.retryAfterMs() }
    }
    if (queue.size === 0) this.#waits.begins(nowMs)
    if (this.roster.live === 0) this.#waits.forget()
    const sequence = this.roster.arrive(request, this.shape.blockTokens, nowMs)
    const estimate = this.#waits.waits(sequence, queue.ahead(sequence), nowMs)
    const hopelessMs = this.#hopelessMs(estimate)
    if (hopelessMs <= 0) return { ok: true, queue: estimate }
    this.#end(sequence, 'aborted', nowMs)
    return { ok: false, code: 'queue_full', retryAfterMs: Math.max(retryAfterMsMin, Math.ceil(hopelessMs)) }
  }

  /** How far beyond all hope for its goal a newcomer would start. */
  #hopelessMs({ position, expectedStartMs }: QueueEstimate): number {
    const { goalTtftMs, goalShed } = this.options
    // The first in the queue starts next: to refuse it would leave the estimate as it is for ever.
    if (goalTtftMs === undefined || position === 0) return 0
    // As do those beside it while nobody runs, of one request's choices for example.
    if (this.roster.running.size === 0 && position < this.options.runningMax) return 0
    return expectedStartMs - goalTtftMs * goalShed
  }

  /** Ends a request in whatever state it is; undefined when there is no such request (any more). */
  cancel(id: string, nowMs: number, reason: FinishReason = 'aborted'): Ended | undefined {
    const sequence = this.roster.get(id)
    return sequence && { sequence, finish: this.#end(sequence, reason, nowMs) }
  }

  /** Where a request stands; undefined unless it waits for its first start. */
  estimate(id: string): QueueEstimate | undefined {
    const sequence = this.roster.get(id)
    return sequence === undefined || sequence.started ? undefined : this.#waits.now(sequence)
  }

  /** After how long a refused client finds half of the queue gone. */
  retryAfterMs(): number {
    return Math.max(retryAfterMsMin, Math.ceil(this.#waits.expectedMs(this.roster.queue.size / 2)))
  }

  /** For whom a draft model should run ahead before the next plan; `passMs` is what one token of all takes it. */
  wishes(passMs: number): Wish[] {
    return this.#planner.wishes(passMs)
  }

  /**
   * The next iteration. Nothing may be in flight: every plan is committed or failed before the next. `held`: ids of
   * requests whose next token cannot be chosen yet.
   */
  plan(nowMs: number, proposals?: Proposals, held: readonly string[] = []): IterationPlan {
    const { queue } = this.roster
    this.#hold(held)
    this.cache.expirePins(nowMs)
    this.#waits.tick(nowMs, queue.size)
    const draft = new Draft(this.totals.iterations++, nowMs, this.options.promptLogprobRowsMax)
    for (const sequence of queue.overdue(nowMs)) draft.expired.push(this.#expire(sequence, nowMs))
    this.#planner.fill(draft, proposals)
    this.totals.cachedTokens += draft.cachedTokens
    return draft
  }

  #hold(ids: readonly string[]): void {
    for (const sequence of this.#held) sequence.held = false
    this.#held = ids.flatMap((id) => this.roster.get(id) ?? [])
    for (const sequence of this.#held) sequence.held = true
  }

  /** Takes in what the iteration gave, in the order of the plan. */
  commit(plan: IterationPlan, results: readonly SequenceResult[], nowMs: number): Outcome[] {
    assert(results.length === plan.sequences.length, 'every planned sequence has a result')
    if (this.learnsCosts) this.costs.observe(plan.load, nowMs - plan.plannedMs)
    this.#waits.iterationTook(nowMs - plan.plannedMs)
    for (const sequence of this.roster.running) sequence.chargeTime(plan.iteration, nowMs)
    const outcomes: Outcome[] = []
    for (const [i, entry] of plan.sequences.entries()) {
      const { sequence } = entry
      // Cancelled while the device was at work.
      if (sequence.state === 'ended') continue
      const result = results[i]!
      if ('failed' in result) {
        const finish = this.#end(sequence, 'failed', nowMs)
        outcomes.push({
          sequence,
          tokens: [],
          finish: { ...finish, message: result.failed, code: 'numerics' },
        })
        continue
      }
      const { guesses, guessedBy } = entry
      const postponed = result.postponed === true
      if (guessedBy !== undefined && !postponed) {
        const accepted = result.tokens.length - 1
        this.#speculation.learn(sequence, guessedBy, guesses.length, accepted)
        this.totals.guessedTokens += guesses.length
        this.totals.acceptedTokens += accepted
      }
      const computed = entry.start + entry.count - guesses.length - Number(postponed)
      this.#book(sequence, computed, entry.promptRows, nowMs)
      outcomes.push(this.#append(sequence, result, nowMs))
    }
    return outcomes
  }

  /** The device broke: all that were in the iteration end. */
  fail(plan: IterationPlan, message: string, nowMs: number): Outcome[] {
    const outcomes: Outcome[] = []
    for (const { sequence } of plan.sequences) {
      if (sequence.state === 'ended') continue
      const finish = this.#end(sequence, 'failed', nowMs)
      outcomes.push({ sequence, tokens: [], finish: { ...finish, message, code: 'device' } })
    }
    return outcomes
  }

  /** Books the known tokens up to `computed` as computed. */
  #book(sequence: Sequence, computed: number, promptRows: number, nowMs: number): void {
    const { computedMost, promptTokens, request } = sequence
    const fresh = Math.max(0, Math.min(computed, promptTokens) - computedMost)
    this.totals.promptTokens += fresh
    // Somebody was expected to compute these and did not: now they cost what computing costs.
    const underpaid = Math.min(computed, sequence.chargedAsCached) - computedMost
    if (underpaid > 0) this.roster.ledger.chargeDifference(sequence.tenant, underpaid)
    sequence.promptRowsDone += promptRows
    sequence.computed = computed
    sequence.computedMost = Math.max(computedMost, computed)
    this.#reuse.publish(sequence)
    if (fresh > 0 && computed >= promptTokens && request.pinPrefixMs !== undefined) {
      this.cache.pin(sequence, promptTokens, nowMs + request.pinPrefixMs)
    }
  }

  /** Appends the new tokens, all but the last of which were guessed and so are computed already. */
  #append(sequence: Sequence, { tokens, whole }: NewTokens, nowMs: number): Outcome {
    const last = tokens.at(-1)
    if (last === undefined)
      return { sequence, tokens, ...(whole && { finish: this.#end(sequence, 'stop', nowMs) }) }
    sequence.tokens.push(...tokens)
    this.totals.generatedTokens += tokens.length
    this.roster.ledger.charge(sequence.tenant, 'output', tokens.length)
    if (tokens.length > 1) this.#book(sequence, sequence.tokens.length - 1, 0, nowMs)
    const reason = whole ? 'stop' : endOf(sequence.request, last, sequence.generatedTokens)
    if (reason === undefined) return { sequence, tokens }
    const finish = this.#end(sequence, reason, nowMs)
    if (whole || reason === 'length') return { sequence, tokens, finish }
    return { sequence, tokens: tokens.slice(0, -1), finish: { ...finish, stopToken: last } }
  }

  #end(sequence: Sequence, reason: FinishReason, nowMs: number) {
    return this.roster.end(sequence, reason, this.totals.iterations - 1, nowMs)
  }

  #expire(sequence: Sequence, nowMs: number): Ended {
    const finish = this.#end(sequence, 'failed', nowMs)
    const message = `The request waited longer than ${this.options.queueLimitMs} ms for its turn.`
    const retryAfterMs = this.retryAfterMs()
    return { sequence, finish: { ...finish, message, code: 'queue_timeout', retryAfterMs } }
  }
}
