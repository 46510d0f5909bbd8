import { assert } from '../base/assert.ts'
import type { Prices } from './tenants.ts'

/** What the scheduler may do; every queue and loop has its limit here. */
export interface SchedulerOptions {
  /** Tokens that one iteration computes at most. */
  stepTokensMax: number
  /** Requests in the batch at most; below stepTokensMax, so that each of them can pay a token. */
  runningMax: number
  /** Requests that may wait; more are refused. */
  waitingMax: number
  /** A request that has not started after so long is given up. */
  queueLimitMs: number
  /** Waiting so long improves the priority class by one. */
  ageingMs: number
  prefixCache: boolean
  /** Share of the blocks that pins may keep. */
  pinnedShareMax: number
  /** Rows of prompt log-probabilities that one iteration computes at most. */
  promptLogprobRowsMax: number
  prices: Prices
  /** Shares of tenants relative to others; 1 for those that are not named. */
  tenantWeights: Readonly<Record<string, number>>
  /** Tokens that are guessed for one request and iteration at most; 0 turns speculation off. */
  guessesMax: number
  /** Milliseconds between two tokens of a stream that the engine should keep; undefined does not bound it. */
  goalTpotMs: number | undefined
  /** Milliseconds from arrival to the first token that the engine should keep where it can. */
  goalTtftMs: number | undefined
  /**
   * With goalTtftMs: a request that would have to wait for its start more than so many times the goal is
   * refused (queue_full) instead of waiting in vain; Infinity refuses none. Nobody is refused while the queue
   * is empty.
   */
  goalShed: number
}

export const defaultSchedulerOptions: SchedulerOptions = {
  stepTokensMax: 512,
  runningMax: 128,
  waitingMax: 1024,
  queueLimitMs: 120_000,
  ageingMs: 15_000,
  prefixCache: true,
  pinnedShareMax: 0.5,
  promptLogprobRowsMax: 64,
  prices: { prompt: 1, cached: 0.1, output: 4 },
  tenantWeights: {},
  guessesMax: 0,
  goalTpotMs: undefined,
  goalTtftMs: undefined,
  goalShed: 4,
}

export function schedulerOptions(given: Partial<SchedulerOptions> = {}): SchedulerOptions {
  const options = { ...defaultSchedulerOptions, ...given }
  assert(options.runningMax >= 1, 'at least one request may run')
  assert(options.runningMax < options.stepTokensMax, 'an iteration has room for a prompt beside all that run')
  return options
}
