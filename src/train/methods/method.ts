/** The field `method` of a job: what is trained, and towards what. Left out, it trains every weight on texts. */
import { z } from 'zod'

export const loraFields = z.strictObject({
  rank: z.int().min(1).max(1024).default(16),
  alpha: z.number().positive().default(32),
  /** Products that gain an adapter: 'all' inside the layers, or endings of their names. */
  targets: z.union([z.literal('all'), z.array(z.string().min(1)).min(1)]).default('all'),
  /** Scale by alpha / sqrt(rank): rsLoRA. */
  rank_stabilised: z.boolean().default(false),
  /** Train the length of every row apart from its direction: DoRA. */
  dora: z.boolean().default(false),
  /** Number format in which the frozen model is kept: QLoRA with q8_0 or q4_0. */
  quantize: z.enum(['f32', 'f16', 'bf16', 'q8_0', 'q4_0']).default('f32'),
})

export const methodFields = z.strictObject({
  lora: loraFields.optional(),
})

export type LoraOptions = z.output<typeof loraFields>
export type Method = z.output<typeof methodFields>
