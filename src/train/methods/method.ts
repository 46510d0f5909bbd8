/** The field `method` of a job: what is trained, and towards what. Left out, it trains every weight on texts. */
import { z } from 'zod'
import { type PolicyMethod, policyFields } from './policy-fields.ts'
import type { PreferenceMethod } from './preference.ts'

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

const beta = z.number().positive().default(0.1)

export const methodFields = z.strictObject({
  lora: loraFields.optional(),
  /** Learn from pairs of a better and a worse answer; beta holds the model near the one that it starts from. */
  dpo: z.strictObject({ beta }).optional(),
  /** The same without a reference: lambda weighs the odds beside the better answer's own loss. */
  orpo: z.strictObject({ lambda: z.number().positive().default(0.1) }).optional(),
  /** Learn from single answers that were found good or bad. */
  kto: z
    .strictObject({
      beta,
      desirable: z.number().positive().default(1),
      undesirable: z.number().positive().default(1),
    })
    .optional(),
  /** Learn from answers of its own that are graded; takes `rewards`. */
  grpo: policyFields.optional(),
})

/** How the job learns from rewards; undefined where it learns otherwise. */
export function policyOf(method: Method | undefined): PolicyMethod | undefined {
  return method?.grpo
}

/** How the job learns from preferences; undefined where it learns texts. */
export function preferenceOf(method: Method | undefined): PreferenceMethod | undefined {
  if (method?.dpo !== undefined) return { kind: 'dpo', ...method.dpo }
  if (method?.orpo !== undefined) return { kind: 'orpo', ...method.orpo }
  return method?.kto === undefined ? undefined : { kind: 'kto', ...method.kto }
}

export type LoraOptions = z.output<typeof loraFields>
export type Method = z.output<typeof methodFields>
