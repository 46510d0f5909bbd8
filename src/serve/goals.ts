import type { CostModel, IterationLoad } from './cost-model.ts'

/** Prompts move on by so many tokens an iteration, whatever the goals say. */
const promptTokensMin = 16
/** Tokens of prompt that an iteration takes beside running streams before the cost model is trusted. */
const untrustedPromptTokens = 64
const margin = 0.97

export interface Goals {
  /** Milliseconds between two tokens of a stream. */
  tpotMs: number | undefined
  /** Milliseconds from arrival to the first token. */
  ttftMs: number | undefined
}

/** The moment of planning, as far as the goals depend on it. */
export interface Situation {
  /** Running requests that are due one token each, and what that costs. */
  streams: IterationLoad
  /** Prompt tokens that are owed to running and to waiting requests. */
  promptTokensOwed: number
  /** How long the oldest request without a first token has been here; undefined when there is none. */
  oldestMs: number | undefined
  /** What the draft model took since the last iteration. */
  spentMs: number
}

/** What prompts may take of one iteration, beside the streams. Every chunk is spent from it. */
export class PromptAllowance {
  readonly #model: CostModel
  #tokens: number
  #ms: number
  #guaranteed = promptTokensMin

  constructor(model: CostModel, tokens: number, ms: number) {
    this.#model = model
    this.#tokens = tokens
    this.#ms = ms
  }

  /** Tokens that a prompt may compute from position `start` on. Long contexts cost more, so they get fewer. */
  tokensFrom(start: number): number {
    const affordable =
      this.#ms === Number.POSITIVE_INFINITY ? this.#ms : this.#model.tokensWithin(this.#ms, start)
    return Math.max(this.#guaranteed, Math.floor(Math.min(this.#tokens, affordable)))
  }

  spend(start: number, count: number): void {
    this.#tokens -= count
    this.#guaranteed = Math.max(0, this.#guaranteed - count)
    this.#ms -= this.#model.chunkMs(start, count)
  }
}

/**
 * Turns goals into what each iteration may compute. The time between tokens bounds it from above; the time
 * to the first token says how little is enough when only that goal is set.
 */
export class GoalKeeper {
  readonly #goals: Goals
  readonly #model: CostModel

  constructor(goals: Goals, model: CostModel) {
    this.#goals = goals
    this.#model = model
  }

  allowance(situation: Situation): PromptAllowance {
    const { tpotMs, ttftMs } = this.#goals
    const { streams, spentMs } = situation
    let tokens = Number.POSITIVE_INFINITY
    let ms = Number.POSITIVE_INFINITY
    if (streams.tokens > 0 && tpotMs !== undefined) {
      if (!this.#model.trusted) tokens = untrustedPromptTokens
      else ms = (tpotMs * margin) / this.#model.spread - this.#model.predictMs(streams) - spentMs
    } else if (streams.tokens > 0 && ttftMs !== undefined) {
      tokens = this.#enoughFor(ttftMs, situation)
    }
    return new PromptAllowance(this.#model, tokens, ms)
  }

  /**
   * Whether one more request, of `context` tokens so far, leaves every stream its goal. All that run count
   * as the streams that they are or will be.
   */
  admits(running: IterationLoad, context: number): boolean {
    const { tpotMs } = this.#goals
    if (tpotMs === undefined || running.sequences === 0 || !this.#model.trusted) return true
    const grown = {
      tokens: running.sequences + 1 + promptTokensMin,
      context: running.context + context,
      sequences: running.sequences + 2,
    }
    return this.#model.predictMs(grown) * this.#model.spread <= tpotMs * margin
  }

  // x prompt tokens take base + x * perToken; what is owed has to be paid in the time that is left.
  #enoughFor(ttftMs: number, { streams, promptTokensOwed, oldestMs }: Situation): number {
    if (oldestMs === undefined) return promptTokensMin
    const leftMs = ttftMs * margin - oldestMs
    if (!this.#model.trusted || leftMs <= 0) return Number.POSITIVE_INFINITY
    const tokensPerMs = promptTokensOwed / leftMs
    const busyShare = tokensPerMs * this.#model.tokenMs(streams.context / streams.tokens)
    if (busyShare >= margin) return Number.POSITIVE_INFINITY
    return (tokensPerMs * this.#model.predictMs(streams) * this.#model.spread) / (1 - busyShare)
  }
}
