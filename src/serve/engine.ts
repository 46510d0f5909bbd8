import type { Clock } from '../base/clock.ts'
import { messageOf } from '../base/errors.ts'
import type { Constraints } from '../constrain/constraint.ts'
import { AwaitedMasks } from './awaited-masks.ts'
import { batchOf } from './batch.ts'
import { type Decision, LoggedScheduler } from './decision-log.ts'
import type { Proposer } from './draft-model.ts'
import type { Executor, IterationOutput } from './executor.ts'
import type { EngineGauges } from './messages.ts'
import type { SchedulerOptions } from './options.ts'
import type { IterationPlan, NewTokens, Outcome, PlannedSequence, Proposals, SequenceResult } from './plan.ts'
import { Pooler } from './pooler.ts'
import type { Admission, EngineRequest, Finish, Pooling, QueueEstimate, RequestProgress } from './request.ts'
import { Sampler } from './sampler.ts'
import { Scheduler } from './scheduler.ts'
import type { Sequence } from './sequence.ts'
import type { TraceLine } from './trace.ts'
import { type Speech, Voice } from './voice.ts'

/** Who else wants to know, and who helps. */
export interface EngineObservers {
  trace?: (line: TraceLine) => void
  decisions?: (decision: Decision) => void
  /** Told when the draft model failed; the engine goes on without it. */
  draftFailed?: (message: string) => void
  /** Told why a request was refused that was to be held to a constraint. */
  constraintFailed?: (message: string) => void
  /** Without it, requests with a constraint are refused. */
  constraints?: Constraints
}

/**
 * The loop's body: plan, compute, sample, commit, tell. Whatever is accepted ends in exactly one `finish`
 * that goes through `emit`; an iteration emits once, whatever the number of requests in it.
 */
export class Engine {
  readonly scheduler: Scheduler
  readonly #executor: Executor
  readonly #clock: Clock
  readonly #emit: (items: readonly RequestProgress[]) => void
  readonly #observers: EngineObservers
  readonly #sampler: Sampler
  readonly #voices = new WeakMap<Sequence, Voice>()
  readonly #poolers = new WeakMap<Sequence, Pooler>()
  readonly #masks: AwaitedMasks
  /** Progress that arose outside an iteration; it leaves with the next step. */
  #unsaid: RequestProgress[] = []
  #between: (() => void)[] = []
  #proposer: Proposer | undefined
  #accepting = true
  #audited = true
  #iterations = 0
  #computeMs = 0
  #hostMs = 0
  #draftMs = 0

  constructor(
    executor: Executor,
    options: Partial<SchedulerOptions> | Scheduler,
    clock: Clock,
    emit: (items: readonly RequestProgress[]) => void,
    observers: EngineObservers = {},
    proposer?: Proposer,
  ) {
    this.#proposer = proposer
    this.#executor = executor
    this.#clock = clock
    this.#emit = emit
    this.#observers = observers
    this.#sampler = new Sampler(executor.shape.vocabularySize)
    this.#masks = new AwaitedMasks(observers.constraints?.slice ?? 0)
    const { decisions } = observers
    if (options instanceof Scheduler) this.scheduler = options
    else if (decisions === undefined) this.scheduler = new Scheduler(executor.shape, options)
    else this.scheduler = new LoggedScheduler(executor.shape, options, decisions)
  }

  /** True while new requests are taken. */
  get accepting(): boolean {
    return this.#accepting
  }

  /** Requests that were accepted and have not ended. */
  get live(): number {
    return this.scheduler.roster.live
  }

  /**
   * What a request waits for before it is submitted, while the others go on; undefined where it need not. Resolves to
   * false where what holds it to its constraint cannot be made: it is not to be submitted. Never rejects.
   */
  prepare({ constraint }: EngineRequest): Promise<boolean> | undefined {
    const preparing = constraint && this.#observers.constraints?.prepare(constraint)
    return preparing?.then(
      () => true,
      (error) => {
        this.#observers.constraintFailed?.(messageOf(error))
        return false
      },
    )
  }

  submit(request: EngineRequest): Admission {
    if (!this.#accepting) return { ok: false, code: 'shutting_down' }
    const { adapter } = request
    if (adapter !== undefined && this.#executor.hasAdapter?.(adapter) === false)
      return { ok: false, code: 'unknown_adapter' }
    const { constraint, generated } = request
    const text = constraint && this.#observers.constraints?.follow(constraint, generated)
    if (constraint !== undefined && text === undefined) return { ok: false, code: 'constraint_impossible' }
    const nowMs = this.#clock.nowMs()
    const admission = this.scheduler.submit(request, nowMs)
    // An earlier life generated everything and died before it could say so.
    if (admission.ok && (text?.complete || (generated?.length ?? 0) >= request.maxTokens)) {
      const ended = this.scheduler.cancel(request.id, nowMs, text?.complete ? 'stop' : 'length')
      if (ended !== undefined) this.#unsaid.push({ id: request.id, tokens: [], finish: ended.finish })
    }
    return admission
  }

  /** Ends a request now, wherever it is; its blocks are free before the next iteration is planned. */
  cancel(id: string): void {
    const ended = this.scheduler.cancel(id, this.#clock.nowMs())
    if (ended !== undefined) this.#emit([{ id, tokens: [], finish: ended.finish }])
  }

  /** Runs `action` as soon as the device computes nothing, before the next iteration is planned. */
  betweenIterations(action: () => void): void {
    this.#between.push(action)
  }

  /** Whether a request that has not ended has this adapter. */
  uses(adapter: string): boolean {
    const { roster } = this.scheduler
    return [...roster.ids()].some((id) => roster.get(id)?.request.adapter === adapter)
  }

  /** Takes nothing new from now on. */
  close(): void {
    this.#accepting = false
  }

  cancelAll(): void {
    for (const id of this.scheduler.roster.ids()) this.cancel(id)
  }

  /** Where a request stands in the queue; undefined when it does not wait there. */
  estimate(id: string): QueueEstimate | undefined {
    return this.scheduler.estimate(id)
  }

  /** Runs one iteration. False when there was nothing to do: then nothing will be until something arrives. */
  async step(): Promise<boolean> {
    for (const action of this.#between.splice(0)) action()
    const items = this.#unsaid
    this.#unsaid = []
    if (this.live === 0) {
      if (items.length > 0) this.#emit(items)
      this.#audit()
      return false
    }
    this.#audited = false
    const proposals = this.#proposer && (await this.#propose(this.#proposer))
    this.#masks.work()
    const plan = this.scheduler.plan(this.#clock.nowMs(), proposals, this.#masks.held)
    for (const { sequence, finish } of plan.expired) items.push({ id: sequence.id, tokens: [], finish })
    // These have ended: they do not wait for the iteration.
    if (items.length > 0) this.#emit(items)
    if (plan.sequences.length === 0) return this.live > 0
    await this.#iterate(plan)
    return true
  }

  gauges(): EngineGauges {
    const { pool, roster, totals, cache } = this.scheduler
    return {
      running: roster.running.size,
      waiting: roster.queue.size,
      blocksFree: pool.free,
      blocksCached: pool.cached,
      blocksHeld: pool.held,
      blocksPinned: cache.pinnedBlocks,
      iterations: this.#iterations,
      promptTokens: totals.promptTokens,
      cachedTokens: totals.cachedTokens,
      generatedTokens: totals.generatedTokens,
      preemptions: roster.preemptions,
      computeMs: this.#computeMs,
      hostMs: this.#hostMs,
      draftMs: this.#draftMs,
      guessedTokens: totals.guessedTokens,
      acceptedTokens: totals.acceptedTokens,
    }
  }

  async #propose(proposer: Proposer): Promise<Proposals | undefined> {
    const wishes = this.scheduler.wishes(proposer.passMs)
    if (wishes.length === 0) return undefined
    const startedMs = this.#clock.nowMs()
    try {
      const guesses = await proposer.propose(wishes)
      const tookMs = this.#clock.nowMs() - startedMs
      this.#draftMs += tookMs
      return { guesses, tookMs }
    } catch (error) {
      this.#proposer = undefined
      this.#observers.draftFailed?.(messageOf(error))
      return undefined
    }
  }

  async #iterate(plan: IterationPlan): Promise<void> {
    let output: IterationOutput | undefined
    let outcomes: Outcome[]
    const speeches = new Map<Sequence, Speech>()
    const embeddings = new Map<Sequence, Float32Array>()
    try {
      const computing = this.#executor.execute(batchOf(plan))
      await this.#masks.workDuring(computing)
      output = await computing
    } catch (error) {
      outcomes = this.scheduler.fail(plan, messageOf(error), this.#clock.nowMs())
    }
    if (output !== undefined) {
      const results = this.#sample(plan, output, speeches, embeddings)
      outcomes = this.scheduler.commit(plan, results, this.#clock.nowMs())
    }
    const items: RequestProgress[] = []
    for (const outcome of outcomes!) {
      const item = progressOf(outcome, speeches.get(outcome.sequence), embeddings.get(outcome.sequence))
      if (item !== undefined) items.push(item)
    }
    if (items.length > 0) this.#emit(items)
    this.#account(plan, output?.computeMs ?? 0, items)
  }

  #sample(
    plan: IterationPlan,
    output: IterationOutput,
    speeches: Map<Sequence, Speech>,
    embeddings: Map<Sequence, Float32Array>,
  ): SequenceResult[] {
    let row = 0
    return plan.sequences.map((entry) => {
      const firstRow = row
      row += entry.outputs
      const { sequence } = entry
      // A cancelled request may have been succeeded by another of the same id: only its state tells.
      if (entry.outputs === 0 || sequence.state === 'ended') return { tokens: [] }
      try {
        if (sequence.request.pooling !== undefined) {
          const embedding = this.#poolerOf(sequence, sequence.request.pooling).add(entry, output, firstRow)
          if (embedding === undefined) return { tokens: [] }
          embeddings.set(sequence, embedding)
          return { tokens: [], whole: true }
        }
        return this.#speak(entry, output, firstRow, speeches)
      } catch (error) {
        // One request's row is of no use; the others are not touched by it.
        const what =
          sequence.request.pooling === undefined ? 'No token could be chosen' : 'There is no embedding'
        return { failed: `${what}: ${messageOf(error)}` }
      }
    })
  }

  #speak(
    entry: PlannedSequence,
    output: IterationOutput,
    firstRow: number,
    speeches: Map<Sequence, Speech>,
  ): NewTokens {
    const { sequence } = entry
    const voice = this.#voiceOf(sequence)
    const speech = voice.speak(entry, output, firstRow, this.#sampler, this.#masks.effortPerRow)
    speeches.set(sequence, speech)
    const { tokens, whole, postponed } = speech
    if (postponed) this.#masks.hold(sequence, voice)
    else if (entry.sampledRows > 0 && !whole) this.#masks.expect(sequence, voice)
    return { tokens, ...(whole && { whole }), ...(postponed && { postponed }) }
  }

  #voiceOf(sequence: Sequence): Voice {
    let voice = this.#voices.get(sequence)
    if (voice === undefined) {
      const { constraint } = sequence.request
      const text = constraint && this.#observers.constraints?.follow(constraint)
      this.#voices.set(sequence, (voice = new Voice(sequence, text)))
    }
    return voice
  }

  #poolerOf(sequence: Sequence, pooling: Pooling): Pooler {
    let pooler = this.#poolers.get(sequence)
    if (pooler === undefined) this.#poolers.set(sequence, (pooler = new Pooler(pooling)))
    return pooler
  }

  #account(plan: IterationPlan, computeMs: number, items: readonly RequestProgress[]): void {
    const hostMs = Math.max(0, this.#clock.nowMs() - plan.plannedMs - computeMs)
    this.#iterations++
    this.#computeMs += computeMs
    this.#hostMs += hostMs
    this.#observers.trace?.(this.#traceOf(plan, computeMs, hostMs, items))
  }

  #traceOf(
    plan: IterationPlan,
    computeMs: number,
    hostMs: number,
    items: readonly RequestProgress[],
  ): TraceLine {
    const { pool, roster } = this.scheduler
    return {
      iteration: plan.iteration,
      timeMs: plan.plannedMs,
      budgetTokens: plan.budgetTokens,
      sequences: plan.sequences.map(({ sequence: { id }, start, count, outputs }) => ({
        id,
        start,
        count,
        outputs,
      })),
      joined: plan.joined.map(({ id }) => id),
      preempted: plan.preempted.map(({ id }) => id),
      finished: [
        ...plan.expired.map(({ sequence }) => sequence.id),
        ...items.filter(({ finish }) => finish !== undefined).map(({ id }) => id),
      ],
      waiting: roster.queue.size,
      blocks: { free: pool.free, cached: pool.cached, held: pool.held },
      computeMs,
      hostMs,
    }
  }

  #audit(): void {
    if (this.#audited) return
    this.scheduler.roster.audit()
    this.#audited = true
  }
}

function progressOf(
  outcome: Outcome,
  speech: Speech | undefined,
  embedding: Float32Array | undefined,
): RequestProgress | undefined {
  const { sequence, tokens, finish } = outcome
  const promptLogprobs = speech?.promptLogprobs ?? []
  if (tokens.length === 0 && finish === undefined && promptLogprobs.length === 0) return undefined
  return {
    id: sequence.id,
    tokens,
    // A stop token is not shown, nor is its log-probability.
    ...(speech !== undefined &&
      speech.logprobs.length > 0 && { logprobs: speech.logprobs.slice(0, tokens.length) }),
    ...(promptLogprobs.length > 0 && { promptLogprobs }),
    ...(embedding !== undefined && { embedding }),
    ...(finish !== undefined && { finish: finish satisfies Finish }),
  }
}
