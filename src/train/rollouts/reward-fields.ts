/** The field `rewards` of a job: how its own answers are graded. */
import { z } from 'zod'
import { similarityMetrics } from './similarity.ts'

const rewardFields = {
  name: z
    .string()
    .regex(/^[a-z0-9_][a-z0-9_-]*$/i)
    .max(64),
  /** Times its score, in the sum that is an answer's reward; below 0 it is a penalty. */
  weight: z
    .number()
    .min(-1e6)
    .max(1e6)
    .refine((weight) => weight !== 0, 'a reward that weighs nothing can be left out')
    .default(1),
}

const template = z.string().min(1).max(20_000)

const reward = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('exact'), ...rewardFields }),
  z.strictObject({ kind: z.literal('regex'), pattern: z.string().min(1).max(1000), ...rewardFields }),
  z.strictObject({
    kind: z.literal('json_schema'),
    schema: z.record(z.string(), z.unknown()),
    ...rewardFields,
  }),
  /** Compares two texts, in which `{{ sample.output_text }}` is the answer and `{{ item.FIELD }}` a field of the record. */
  z.strictObject({
    kind: z.literal('string_check'),
    input: template,
    reference: template,
    /** Equal, unequal, or the input contains the reference: `like`, and `ilike` in any case. */
    operation: z.enum(['eq', 'ne', 'like', 'ilike']).default('eq'),
    ...rewardFields,
  }),
  /** How alike two texts are, from 0 to 1; with places as in string_check. */
  z.strictObject({
    kind: z.literal('text_similarity'),
    input: template,
    reference: template,
    metric: z.enum(similarityMetrics),
    ...rewardFields,
  }),
  /** A program that reads answers as lines of JSON and writes a score for each. */
  z.strictObject({
    kind: z.literal('program'),
    /** The program and its arguments, started in the folder of the job file; no shell reads them. */
    run: z.array(z.string().min(1).max(4096)).min(1).max(64),
    /** For all answers of a step together. */
    timeout_seconds: z.number().positive().max(3600).default(60),
    ...rewardFields,
  }),
])

export const rewardsFields = z
  .array(reward)
  .min(1)
  .max(32)
  .refine(
    (rewards) => new Set(rewards.map(({ name }) => name)).size === rewards.length,
    'two of them have one name',
  )

export type Reward = z.output<typeof reward>
