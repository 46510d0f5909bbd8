import { z } from 'zod'
import { checkTogether, generationFields, maybe } from './fields.ts'
import type { RequestLimits } from './limits.ts'
import { prompts } from './prompts.ts'

/** POST /v1/completions: the body, with every null read as absent. Unknown fields are refused by name. */
export function completionRequest(limits: RequestLimits) {
  return z
    .strictObject({
      ...generationFields(limits),
      prompt: prompts(limits.promptsMax),
      max_tokens: maybe(z.int().min(0)),
      echo: maybe(z.boolean()),
      logprobs: maybe(z.int().min(0).max(limits.logprobsMax)),
      best_of: maybe(z.int().min(1)),
      suffix: maybe(z.string()),
    })
    .superRefine((body, context) => {
      checkTogether(body, context)
      if (body.best_of !== undefined && body.best_of !== (body.n ?? 1)) {
        const message = 'Only best_of equal to n is supported: ask for n answers and choose.'
        context.addIssue({ code: 'custom', path: ['best_of'], message })
      }
      if (body.suffix !== undefined && body.echo === true) {
        const message =
          'Not together with suffix: the prompt stands before the gap, and what fills it is the answer.'
        context.addIssue({ code: 'custom', path: ['echo'], message })
      }
    })
}

export type CompletionRequest = z.output<ReturnType<typeof completionRequest>>

export interface CompletionLogprobs {
  tokens: string[]
  /** null for the first token of a prompt, which nothing precedes. */
  token_logprobs: (number | null)[]
  top_logprobs: (Record<string, number> | null)[]
  /** Where each token begins in the text of its choice, in code points. */
  text_offset: number[]
}

export interface CompletionChoice {
  index: number
  text: string
  logprobs: CompletionLogprobs | null
  finish_reason: 'stop' | 'length' | null
}

/** The answer, and also each chunk of a stream. */
export interface Completion {
  id: string
  object: 'text_completion'
  created: number
  model: string
  choices: CompletionChoice[]
  usage?: Usage | null
}

export interface Usage {
  prompt_tokens: number
  completion_tokens: number
  total_tokens: number
  prompt_tokens_details: { cached_tokens: number }
  /** With explain: true. Of several answers, the one that took longest. */
  ropeway_timing?: UsageTiming
}

/** Where a request's time in the engine went, in milliseconds. The others add up to `total_ms`. */
export interface UsageTiming {
  /** Before it joined the batch. */
  queue_ms: number
  prompt_ms: number
  decode_ms: number
  /** In the batch, but left out of an iteration. */
  waiting_for_budget_ms: number
  /** Out of the batch again for want of memory, and computing anew what was lost by that or by a crash. */
  preempted_ms: number
  total_ms: number
}
