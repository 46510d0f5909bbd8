import { z } from 'zod'
import { checkTogether, generationFields, maybe, unsupported } from './fields.ts'
import type { RequestLimits } from './limits.ts'

/** POST /v1/completions: the body, with every null read as absent. Unknown fields are refused by name. */
export function completionRequest(limits: RequestLimits) {
  return z
    .strictObject({
      ...generationFields(limits),
      prompt: prompts(limits),
      max_tokens: maybe(z.int().min(0)),
      echo: maybe(z.boolean()),
      logprobs: maybe(z.int().min(0).max(limits.logprobsMax)),
      best_of: maybe(z.int().min(1)),
      suffix: unsupported('This model continues text; it does not fill in before a suffix.'),
    })
    .superRefine((body, context) => {
      checkTogether(body, context)
      if (body.best_of !== undefined && body.best_of !== (body.n ?? 1)) {
        const message = 'Only best_of equal to n is supported: ask for n answers and choose.'
        context.addIssue({ code: 'custom', path: ['best_of'], message })
      }
    })
}

/** A prompt as text or as token ids. */
export type Prompt = string | number[]

const tokenMax = 0x7fffffff

/**
 * OpenAI's four forms (a text, texts, token ids, lists of token ids) as one list of prompts. By hand, because
 * prompts are by far the longest lists here and a union would walk them once per form.
 */
function prompts(limits: RequestLimits) {
  return z.unknown().transform((value, context): Prompt[] => {
    const wrong = (message: string, ...path: number[]): never => {
      context.addIssue({ code: 'custom', message, path })
      return z.NEVER
    }
    if (typeof value === 'string') return [value]
    if (!Array.isArray(value)) {
      return wrong('Expected a text, a list of texts, a list of token ids, or a list of such lists.')
    }
    if (value.length === 0) return wrong('Expected at least one prompt.')
    if (typeof value[0] === 'number') {
      const bad = wrongToken(value)
      return bad === undefined ? [value] : wrong('Expected a token id.', bad)
    }
    if (value.length > limits.promptsMax) return wrong(`At most ${limits.promptsMax} prompts in one request.`)
    const kind = typeof value[0]
    for (const [index, prompt] of value.entries()) {
      if (kind === 'string' && typeof prompt === 'string') continue
      if (kind === 'string' || !Array.isArray(prompt)) return wrong('Expected prompts of one kind.', index)
      const bad = wrongToken(prompt)
      if (bad !== undefined) return wrong('Expected a token id.', index, bad)
    }
    return value
  })
}

function wrongToken(values: readonly unknown[]): number | undefined {
  const index = values.findIndex(
    (value) => !Number.isInteger(value) || (value as number) < 0 || (value as number) > tokenMax,
  )
  return index === -1 ? undefined : index
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
