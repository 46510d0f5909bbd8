import { z } from 'zod'

/** Which checkpoints of a job stay. One that any line keeps stays, and so does each that a model names. */
export const retentionSpec = z.strictObject({
  /** Name of a job; `*` at its end stands for any rest. */
  jobs: z.string().min(1).max(64).default('*'),
  /** The newest of each job. */
  keep_last: z.int().min(1).max(10_000).default(1),
  /** Those whose step is a multiple. */
  keep_every: z.int().min(1).optional(),
  /** Those that are younger. */
  keep_days: z.number().min(0).max(36_500).optional(),
  /** The best by a metric that the job reported. */
  keep_best: z
    .strictObject({
      metric: z.string().min(1).max(200),
      mode: z.enum(['min', 'max']).default('min'),
      count: z.int().min(1).max(10_000).default(1),
    })
    .optional(),
})

export type RetentionSpec = z.output<typeof retentionSpec>
