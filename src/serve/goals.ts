import type { CostModel, IterationLoad } from './cost-model.ts'

/** Prompts move on by so many tokens an iteration, whatever the goals say. */
const promptTokensMin = 16
/** Tokens of prompt that an iteration takes beside running streams before the cost model is trusted. */
const untrustedPromptTokens = 64
const margin = 0.95

export interface Goals {
  tpotMs: number | undefined
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
}

/**
 * Turns goals into the token budget of each iteration. The time between tokens bounds the budget from
 * above; the time to the first token says how little is enough when only that goal is set.
 */
export class GoalKeeper {
  readonly #goals: Goals
  readonly #model: CostModel
  readonly #stepTokensMax: number

  constructor(goals: Goals, model: CostModel, stepTokensMax: number) {
    this.#goals = goals
    this.#model = model
    this.#stepTokensMax = stepTokensMax
  }

  /** Tokens that the next iteration may compute; at least one for each stream and some for prompts. */
  budget(situation: Situation): number {
    const streams = situation.streams.tokens
    const { tpotMs, ttftMs } = this.#goals
    if (streams === 0 || (tpotMs === undefined && ttftMs === undefined)) return this.#stepTokensMax
    const promptTokens =
      tpotMs === undefined ? this.#enoughFor(ttftMs!, situation) : this.#allowedBy(tpotMs, situation)
    return Math.min(this.#stepTokensMax, streams + Math.max(promptTokensMin, Math.floor(promptTokens)))
  }

  /** Whether one stream more still leaves every stream its goal. */
  admits(streams: IterationLoad): boolean {
    const { tpotMs } = this.#goals
    if (tpotMs === undefined || streams.tokens === 0 || !this.#model.trusted) return true
    const share = (streams.tokens + 1) / streams.tokens
    const grown = {
      tokens: streams.tokens + 1 + promptTokensMin,
      context: streams.context * share,
      sequences: streams.sequences + 1,
    }
    return this.#model.predictMs(grown) * this.#model.spread <= tpotMs * margin
  }

  #allowedBy(tpotMs: number, { streams }: Situation): number {
    if (!this.#model.trusted) return untrustedPromptTokens
    const leftMs = (tpotMs * margin) / this.#model.spread - this.#model.predictMs(streams)
    const perTokenMs = this.#model.tokenMs(streams.context / streams.tokens)
    return perTokenMs <= 0 ? this.#stepTokensMax : leftMs / perTokenMs
  }

  // x prompt tokens take base + x * perToken; what is owed has to be paid in the time that is left.
  #enoughFor(ttftMs: number, { streams, promptTokensOwed, oldestMs }: Situation): number {
    if (oldestMs === undefined) return promptTokensMin
    const leftMs = ttftMs * margin - oldestMs
    if (!this.#model.trusted || leftMs <= 0) return this.#stepTokensMax
    const tokensPerMs = promptTokensOwed / leftMs
    const busyShare = tokensPerMs * this.#model.tokenMs(streams.context / streams.tokens)
    if (busyShare >= margin) return this.#stepTokensMax
    return (tokensPerMs * this.#model.predictMs(streams) * this.#model.spread) / (1 - busyShare)
  }
}
