import { UserError } from '../base/errors.ts'
import type { ExecutorShape } from './executor.ts'
import { hashText } from './hash.ts'
import type { SchedulerOptions } from './options.ts'
import type { Ended, IterationPlan, Outcome, Proposals, SequenceResult } from './plan.ts'
import type { Admission, EngineRequest, FinishReason } from './request.ts'
import { Scheduler } from './scheduler.ts'

/** Options as JSON can hold them: no limit is null. */
export type PlainOptions = { [Name in keyof SchedulerOptions]: SchedulerOptions[Name] | null }

function plainOptions(options: SchedulerOptions): PlainOptions {
  const entries = Object.entries(options).map(([name, value]) => [
    name,
    value === Number.POSITIVE_INFINITY ? null : value,
  ])
  return Object.fromEntries(entries)
}

function optionsOf(plain: PlainOptions): Partial<SchedulerOptions> {
  const entries = Object.entries(plain).map(([name, value]) => [name, value ?? Number.POSITIVE_INFINITY])
  return Object.fromEntries(entries.filter(([name]) => plain[name as keyof PlainOptions] !== undefined))
}

/** Everything that a scheduler was told, in order, and what it decided. One line of the log each. */
export type Decision =
  | { type: 'begin'; version: 1; shape: ExecutorShape; options: PlainOptions }
  | { type: 'submit'; nowMs: number; request: EngineRequest; ok: boolean }
  | { type: 'cancel'; nowMs: number; id: string; reason: FinishReason }
  | { type: 'plan'; nowMs: number; decided: string; proposals?: Proposals; held?: readonly string[] }
  | { type: 'commit'; nowMs: number; results: readonly SequenceResult[] }
  | { type: 'fail'; nowMs: number; message: string }

/**
 * A scheduler that writes down what it is told and what it decides. The log holds the token ids of prompts
 * and outputs: it is as private as they are.
 */
export class LoggedScheduler extends Scheduler {
  readonly #log: (decision: Decision) => void

  constructor(shape: ExecutorShape, options: Partial<SchedulerOptions>, log: (decision: Decision) => void) {
    super(shape, options)
    this.#log = log
    const { vocabularySize, contextMax, blockTokens, blockCount } = shape
    const plain = { vocabularySize, contextMax, blockTokens, blockCount }
    log({ type: 'begin', version: 1, shape: plain, options: plainOptions(this.options) })
  }

  override submit(request: EngineRequest, nowMs: number): Admission {
    const admission = super.submit(request, nowMs)
    this.#log({ type: 'submit', nowMs, request, ok: admission.ok })
    return admission
  }

  override cancel(id: string, nowMs: number, reason: FinishReason = 'aborted'): Ended | undefined {
    this.#log({ type: 'cancel', nowMs, id, reason })
    return super.cancel(id, nowMs, reason)
  }

  override plan(nowMs: number, proposals?: Proposals, held: readonly string[] = []): IterationPlan {
    const plan = super.plan(nowMs, proposals, held)
    this.#log({
      type: 'plan',
      nowMs,
      decided: fingerprint(plan),
      ...(proposals && { proposals }),
      ...(held.length > 0 && { held }),
    })
    return plan
  }

  override commit(plan: IterationPlan, results: readonly SequenceResult[], nowMs: number): Outcome[] {
    this.#log({ type: 'commit', nowMs, results })
    return super.commit(plan, results, nowMs)
  }

  override fail(plan: IterationPlan, message: string, nowMs: number): Outcome[] {
    this.#log({ type: 'fail', nowMs, message })
    return super.fail(plan, message, nowMs)
  }
}

/** A plan in one short line; block ids as a checksum. Equal plans have equal lines. */
export function fingerprint(plan: IterationPlan): string {
  const sequences = plan.sequences.map(
    ({ sequence, start, count, outputs, guesses }) =>
      `${sequence.id}@${start}+${count}/${outputs}?${guesses.join('.')}#${hashText(sequence.blocks.join()).toString(36)}`,
  )
  const ids = (list: readonly { id: string }[]) => list.map(({ id }) => id).join()
  const expired = plan.expired.map(({ sequence }) => sequence)
  return `${plan.iteration} b${plan.budgetTokens} ${sequences.join(' ')} j${ids(plan.joined)} p${ids(plan.preempted)} x${ids(expired)}`
}

export interface Replay {
  iterations: number
  /** The first plan that came out differently; undefined when none did. */
  difference?: { line: number; logged: string; replayed: string }
}

/** Tells a fresh scheduler everything that a log says, line by line, and compares its plans with the logged ones. */
export class Replayer {
  #scheduler: Scheduler | undefined
  #plan: IterationPlan | undefined
  #iterations = 0
  #line = 0
  #difference: Replay['difference']

  get result(): Replay {
    const difference = this.#difference
    return { iterations: this.#iterations, ...(difference !== undefined && { difference }) }
  }

  /** False once a plan came out differently: what follows from there on would too. */
  take(decision: Decision): boolean {
    this.#line++
    if (decision.type === 'begin') {
      this.#scheduler = new Scheduler(decision.shape, optionsOf(decision.options))
      return true
    }
    if (this.#scheduler === undefined) {
      throw new UserError(`line ${this.#line}: a decision log begins with its 'begin' line.`)
    }
    if (decision.type === 'plan') {
      const { nowMs, proposals, held, decided } = decision
      return this.#compare(this.#scheduler.plan(nowMs, proposals, held), decided)
    }
    apply(this.#scheduler, this.#plan, decision)
    return true
  }

  #compare(plan: IterationPlan, logged: string): boolean {
    this.#plan = plan
    const replayed = fingerprint(plan)
    if (replayed === logged) this.#iterations++
    else this.#difference = { line: this.#line, logged, replayed }
    return replayed === logged
  }
}

export function replay(decisions: Iterable<Decision>): Replay {
  const replayer = new Replayer()
  for (const decision of decisions) if (!replayer.take(decision)) break
  return replayer.result
}

function apply(
  scheduler: Scheduler,
  plan: IterationPlan | undefined,
  decision: Exclude<Decision, { type: 'begin' | 'plan' }>,
): void {
  switch (decision.type) {
    case 'submit':
      scheduler.submit(decision.request, decision.nowMs)
      return
    case 'cancel':
      scheduler.cancel(decision.id, decision.nowMs, decision.reason)
      return
    case 'commit':
      if (plan !== undefined) scheduler.commit(plan, decision.results, decision.nowMs)
      return
    case 'fail':
      if (plan !== undefined) scheduler.fail(plan, decision.message, decision.nowMs)
  }
}
