import { z } from 'zod'
import { maybe } from './fields.ts'
import type { RequestLimits } from './limits.ts'
import { prompts } from './prompts.ts'

/** POST /v1/embeddings: the body, with every null read as absent. Unknown fields are refused by name. */
export function embeddingRequest(limits: RequestLimits) {
  return z.strictObject({
    model: z.string().min(1),
    input: prompts(limits.embeddingInputsMax),
    encoding_format: maybe(z.enum(['float', 'base64'])),
    /** So many of the first numbers, scaled to length 1 again. */
    dimensions: maybe(z.int().min(1)),
    user: maybe(z.string()),
    // Beyond OpenAI, as for completions.
    priority: maybe(z.int().min(0).max(limits.priorityMax)),
    cache_salt: maybe(z.string().min(1).max(256)),
  })
}

export interface Embedding {
  object: 'embedding'
  /** Which of the inputs it belongs to. */
  index: number
  /** Numbers, or their float32 bytes (little-endian) in base64. */
  embedding: number[] | string
}

export interface EmbeddingList {
  object: 'list'
  data: Embedding[]
  model: string
  usage: { prompt_tokens: number; total_tokens: number }
}
