/** The field `evaluate` of a job. */
import { z } from 'zod'

const count = z.int().min(1)

const taskFields = {
  name: z
    .string()
    .regex(/^[a-z0-9][a-z0-9_-]*$/i)
    .max(64),
  /** Records with a prompt and the answer that is expected; of choices, with choices and the right one. */
  data: z.string().min(1),
  columns: z.record(z.string(), z.union([z.string().min(1), z.int().min(1)])).optional(),
  /** The first so many records. */
  limit: count.max(10_000).default(100),
  tokens_max: count.max(4096).default(128),
}

const task = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('exact'), ...taskFields }),
  z.strictObject({ kind: z.literal('regex'), pattern: z.string().min(1).max(1000), ...taskFields }),
  z.strictObject({
    kind: z.literal('json_schema'),
    schema: z.record(z.string(), z.unknown()),
    ...taskFields,
  }),
  z.strictObject({ kind: z.literal('choice'), ...taskFields }),
])

export const evaluateFields = z.strictObject({
  every: count.default(250),
  batches: count.default(20),
  final_batches: count.optional(),
  /** End the run when the best result is so many evaluations old. */
  patience: count.optional(),
  /** What decides which checkpoint is the best: the held-out loss, or a task by its name. */
  best: z.string().min(1).default('loss'),
  tasks: z.array(task).max(32).default([]),
  /** The sampling panel: the same prompts decoded at each evaluation. */
  samples: z
    .strictObject({
      prompts: z.array(z.string().min(1).max(20_000)).min(1).max(32),
      tokens_max: count.max(4096).default(64),
      temperature: z.number().min(0).max(2).default(0),
    })
    .optional(),
})

export type Task = z.output<typeof task>
