import type { IterationLoad } from './cost-model.ts'
import type { PromptAllowance } from './goals.ts'
import type { Finish } from './request.ts'
import type { Sequence } from './sequence.ts'
import type { GuessSource } from './speculation.ts'

/** One request's share of an iteration. */
export interface PlannedSequence {
  readonly sequence: Sequence
  readonly start: number
  /** Tokens computed, guesses included. */
  count: number
  /** Guesses for the tokens behind the last known one; they are the last of the `count`. */
  guesses: readonly number[]
  /** Set when there are guesses. */
  guessedBy?: GuessSource
  /** Rows of logits, for the last tokens of the `count`. */
  outputs: number
  /** The first of these rows give log-probabilities of the prompt, or states of it, ... */
  promptRows: number
  /** ... the last of them are sampled from. */
  sampledRows: number
}

/** What the next iteration computes, for whom. */
export interface IterationPlan {
  readonly iteration: number
  readonly plannedMs: number
  readonly budgetTokens: number
  readonly tokens: number
  readonly load: IterationLoad
  readonly sequences: readonly PlannedSequence[]
  readonly joined: readonly Sequence[]
  readonly preempted: readonly Sequence[]
  /** Requests that ended without being computed: they waited too long. */
  readonly expired: readonly Ended[]
}

export interface Ended {
  readonly sequence: Sequence
  readonly finish: Finish
}

/** For whom a draft model should run ahead before the next plan, and how many tokens. */
export interface Wish {
  readonly sequence: Sequence
  readonly length: number
}

/** What a draft model says before a plan is made. */
export interface Proposals {
  readonly guesses: readonly { readonly id: string; readonly tokens: readonly number[] }[]
  readonly tookMs: number
}

/** What came out for one planned sequence: its new tokens (none inside a prompt), whether they make it whole, or why there is nothing. */
export type SequenceResult = NewTokens | { failed: string }

export interface NewTokens {
  tokens: readonly number[]
  whole?: true
  /** A token was due and could not be chosen yet: the last known one will be computed again. */
  postponed?: true
}

/** What the client of one planned sequence hears. A stop token is not among `tokens`. */
export interface Outcome {
  readonly sequence: Sequence
  readonly tokens: readonly number[]
  readonly finish?: Finish
}

/** A plan in the making: keeps count of the budget. */
export class Draft implements IterationPlan {
  readonly iteration: number
  readonly plannedMs: number
  budgetTokens = 0
  readonly sequences: PlannedSequence[] = []
  readonly joined: Sequence[] = []
  readonly preempted: Sequence[] = []
  readonly expired: Ended[] = []
  /** What the goals leave to prompts and guesses; set before anything is added. */
  allowance!: PromptAllowance
  /** Tokens of the budget that are kept for streams which have not had their turn yet. */
  reservedTokens = 0
  promptRowsLeft: number
  /** Prompts in the batch that this iteration does not finish. */
  unfinishedPrompts = 0
  /** Whether some request got nothing for want of a block. */
  stalled = false
  /** Tokens that were found in the cache, each counted once in the life of its request. */
  cachedTokens = 0
  tokens = 0
  #context = 0

  constructor(iteration: number, nowMs: number, promptRowsMax: number) {
    this.iteration = iteration
    this.plannedMs = nowMs
    this.promptRowsLeft = promptRowsMax
  }

  get leftTokens(): number {
    return this.budgetTokens - this.tokens - this.reservedTokens
  }

  /** Tokens that a prompt which stands at `start` may compute. */
  leftFrom(start: number): number {
    return Math.min(this.leftTokens, this.allowance.tokensFrom(start))
  }

  get load(): IterationLoad {
    return { tokens: this.tokens, context: this.#context, sequences: this.sequences.length }
  }

  /** Computes the one token that a stream is due, which the goals have reckoned with. */
  addStream(sequence: Sequence): void {
    this.#grow(this.#enter(sequence), 1)
  }

  /** Computes `count` owed tokens of a prompt. */
  add(sequence: Sequence, count: number): void {
    this.grow(this.#enter(sequence), count)
  }

  /** Computes `count` more owed tokens for a sequence in the plan. */
  grow(entry: PlannedSequence, count: number): void {
    this.allowance.spend(entry.start + entry.count, count)
    this.#grow(entry, count)
  }

  guess(entry: PlannedSequence, guesses: readonly number[], guessedBy: GuessSource): void {
    entry.guessedBy = guessedBy
    this.allowance.spend(entry.start + entry.count, guesses.length)
    entry.guesses = guesses
    entry.sampledRows += guesses.length
    entry.outputs += guesses.length
    this.#count(entry, guesses.length)
  }

  #enter(sequence: Sequence): PlannedSequence {
    const entry: PlannedSequence = {
      sequence,
      start: sequence.computed,
      count: 0,
      guesses: [],
      outputs: 0,
      promptRows: 0,
      sampledRows: 0,
    }
    sequence.plannedIteration = this.iteration
    this.sequences.push(entry)
    return entry
  }

  #grow(entry: PlannedSequence, count: number): void {
    const { sequence, start } = entry
    this.#count(entry, count)
    const end = start + entry.count
    entry.sampledRows = end === sequence.tokens.length ? 1 : 0
    entry.outputs = entry.sampledRows
    if (!sequence.wantsPromptRows) return
    const first = Math.max(start, sequence.promptRowsDone)
    const rows = Math.max(0, Math.min(end, sequence.promptTokens - 1) - first)
    if (sequence.request.pooling === undefined) this.promptRowsLeft -= rows - entry.promptRows
    entry.promptRows = rows
    if (rows > 0) entry.outputs = end - first
  }

  #count(entry: PlannedSequence, count: number): void {
    // Token i of the `count` attends to the start + i positions up to itself.
    this.#context += count * (entry.start + entry.count) + (count * (count - 1)) / 2
    entry.count += count
    this.tokens += count
  }
}
