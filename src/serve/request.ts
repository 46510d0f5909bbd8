/**
 * What a client asks of the engine and what it hears back. Token ids only: text belongs to the tokenizer
 * and to the HTTP surface. Everything here is plain data and crosses a process border as it is.
 */

import type { Constraint } from '../constrain/constraint.ts'

/** How the next token is chosen. Every field is set: defaults belong to the border that parses. */
export interface Sampling {
  /** 0 is greedy. Unit: none; logits are divided by it. */
  temperature: number
  /** Keep the smallest set of tokens whose probability reaches this; 1 keeps all (Holtzman 2019). */
  topP: number
  /** Keep the k most likely tokens; 0 keeps all. */
  topK: number
  /** Keep tokens at least this share as likely as the best one; 0 keeps all. */
  minP: number
  /** Integer in [0, 2^53). The n-th generated token uses the n-th number of this seed's stream. */
  seed: number
  /** Token id -> amount added to its logit before anything else. */
  logitBias?: Record<number, number>
  /** Subtracted once from every token that was generated already. */
  presencePenalty: number
  /** Subtracted once per occurrence among the generated tokens. */
  frequencyPenalty: number
  /** Divides (positive) or multiplies (negative) the logits of seen tokens, prompt included; 1 is off. */
  repetitionPenalty: number
}

export interface GenerationLimits {
  /** At most so many new tokens (>= 1). */
  maxTokens: number
  /** Ending tokens are not sampled before so many new tokens. */
  minTokens: number
  /** Keep going past an ending token, which then counts as any other. */
  ignoreEos: boolean
  /** Token ids that end the request; the model's own end-of-sequence ids are added by the border. */
  stopTokens: readonly number[]
}

/** How the states of a prompt's tokens, behind the last norm, become one vector. */
export type Pooling = 'mean' | 'last'

export interface EngineRequest extends GenerationLimits {
  id: string
  prompt: readonly number[]
  sampling: Sampling
  /** How many alternatives to report for each generated token; undefined reports none. */
  logprobs?: number
  /** Report the log-probability of every prompt token too (echo with logprobs). */
  promptLogprobs?: boolean
  /** No token is generated: it ends with the prompt's embedding, the mean of its tokens' states or the last one's. */
  pooling?: Pooling
  /** What its text is held to; ending tokens come only where that may end. */
  constraint?: Constraint
  /** Whose share of the machine this uses; fairness and prefix sharing are per tenant. */
  tenant: string
  /** 0 is the most urgent class. */
  priority: number
  /** Requests with different salts never share cached prefixes. */
  cacheSalt?: string
  /** Which adapter of the model computes it: for clients a name, inside the engine a version. Prefixes are never shared between adapters. */
  adapter?: string
  /** Keep the cached prompt for so long after it was computed, even when blocks run out. */
  pinPrefixMs?: number
  /** Tokens that an earlier life of this request generated already (after a crash): output goes on behind them. */
  generated?: readonly number[]
}

export interface TokenLogprob {
  token: number
  logprob: number
  /** The most likely tokens, best first. */
  top: readonly { token: number; logprob: number }[]
}

/** Every accepted request ends in exactly one of these. */
export type FinishReason = 'stop' | 'length' | 'aborted' | 'failed'

/** Milliseconds; their sum is the latency from arrival to the end. */
export interface RequestTiming {
  /** Until the request joined the batch. */
  queueMs: number
  promptMs: number
  decodeMs: number
  /** In the batch, but left out of an iteration: no budget, no block, a shared prefix or what its constraint allows to wait for. */
  waitingForBudgetMs: number
  /** Out of the batch again for want of blocks, and computing anew what was lost by that. */
  preemptedMs: number
}

/** Why a request failed: too long in the queue, a broken device, or logits that are not numbers. */
export type FailureCode = 'queue_timeout' | 'device' | 'numerics'

export interface Finish {
  reason: FinishReason
  /** The stop token, when one ended it. */
  stopToken?: number
  /** What went wrong, for 'failed'. */
  message?: string
  /** Set with 'failed'. */
  code?: FailureCode
  /** Set with 'queue_timeout': when it makes sense to come again. */
  retryAfterMs?: number
  promptTokens: number
  /** Prompt tokens whose keys and values came from the prefix cache. */
  cachedTokens: number
  generatedTokens: number
  timing: RequestTiming
}

/** What one iteration did for one request. */
export interface RequestProgress {
  id: string
  /** New tokens in order; a stop token is not among them (unless ignoreEos). */
  tokens: readonly number[]
  logprobs?: readonly TokenLogprob[]
  promptLogprobs?: readonly (TokenLogprob | null)[]
  /** [W], of length 1; with the finish of a request that has a pooling. */
  embedding?: Float32Array
  finish?: Finish
}

/** Why a request is not taken at all. */
export type Refusal =
  | 'empty_prompt'
  | 'context_too_long'
  | 'token_out_of_range'
  | 'cache_too_small'
  | 'queue_full'
  | 'duplicate_id'
  | 'shutting_down'
  | 'unknown_adapter'
  | 'constraint_impossible'
  | 'constraint_unavailable'

/** Where a request stands that has not started; nine of ten waits lie inside the band. */
export interface QueueEstimate {
  /** How many requests start before this one. */
  position: number
  expectedStartMs: number
  lowMs: number
  highMs: number
}

export type Admission =
  /** `adapter`: the version that computes it, where one was asked for. */
  { ok: true; queue?: QueueEstimate; adapter?: string } | { ok: false; code: Refusal; retryAfterMs?: number }
