/** The field `method.grpo` of a job. */
import { z } from 'zod'

export const policyFields = z
  .strictObject({
    /** Answers to one prompt, which are compared with one another. */
    group: z.int().min(2).max(1024).default(8),
    /** Tokens of an answer, its ending token included; longer ones are cut. */
    tokens_max: z.int().min(1).max(32_768).default(128),
    /** Of sampling, and of the probabilities that are learned. */
    temperature: z.number().min(0.01).max(10).default(1),
    /** How far below 1 the ratio to the sampling policy still teaches. */
    clip: z.number().positive().lt(1).default(0.2),
    /** How far above 1; as `clip` by default (DAPO takes 0.28). */
    clip_high: z.number().positive().max(100).optional(),
    /** Weight of the divergence from the model that training starts from; 0 asks no reference. */
    beta: z.number().min(0).default(0),
    /** Divide advantages by the deviation within their group; Dr. GRPO does not. */
    scale_rewards: z.boolean().default(true),
    /**
     * What the loss is a mean over: all tokens of a step (DAPO), answers, each a mean over its own tokens (as first
     * published), or answers of `tokens_max` tokens, however long they are (Dr. GRPO).
     */
    loss: z.enum(['tokens', 'answers', 'constant']).default('tokens'),
    /** Steps that learn from the same answers. */
    updates: z.int().min(1).max(64).default(1),
    /** Answers kept in rollouts.jsonl, the newest. */
    rollouts_kept: z.int().min(0).max(100_000).default(2000),
  })
  .transform((fields) => ({ ...fields, clip_high: fields.clip_high ?? fields.clip }))

/** Group relative policy optimisation (Shao et al. 2024), with what Yu et al. and Liu et al. (2025) changed. */
export type PolicyMethod = z.output<typeof policyFields>
