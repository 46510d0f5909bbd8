/**
 * OpenAI's fine-tuning API as it goes over the wire: files, jobs, their events and checkpoints. Field for field as in
 * OpenAI's reference (platform.openai.com/docs/api-reference/fine-tuning, of autumn 2025); what we add says so.
 */
import { z } from 'zod'
import { storableText } from './control/fields.ts'
import { tuningGrader } from './tuning-graders.ts'

/** Files that people send; results of jobs are ours. */
export const uploadPurposes = ['fine-tune'] as const
export const resultPurpose = 'fine-tune-results'
export type FilePurpose = (typeof uploadPurposes)[number] | typeof resultPurpose

/** Bytes of one file, as at OpenAI. */
export const fileBytesMax = 512 * 1024 * 1024

/** A value of another kind hears of both. */
const autoOr = <Schema extends z.ZodNumber>(schema: Schema, what: string) =>
  z.union([z.literal('auto'), schema], { error: `expected "auto" or ${what}` })

const epochs = autoOr(z.int().min(1).max(50), 'a whole number from 1 to 50')
const batchSize = autoOr(z.int().min(1).max(256), 'a whole number from 1 to 256')
const multiplier = autoOr(z.number().positive().max(1000), 'a number above 0, at most 1000')

const supervisedHyperparameters = z.strictObject({
  n_epochs: epochs.default('auto'),
  /** Examples of one step. */
  batch_size: batchSize.default('auto'),
  learning_rate_multiplier: multiplier.default('auto'),
})

const dpoHyperparameters = supervisedHyperparameters.extend({
  beta: autoOr(z.number().positive().max(2), 'a number above 0, at most 2').default('auto'),
})

const reinforcementHyperparameters = supervisedHyperparameters.extend({
  /** Answers to a prompt: 8 times this. */
  compute_multiplier: autoOr(z.number().min(0.25).max(16), 'a number from 0.25 to 16').default('auto'),
})

/** Ours: which weights learn. */
const adaptation = z.enum(['lora', 'full']).default('lora')

export const tuningMethod = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('supervised'),
    supervised: z
      .strictObject({ hyperparameters: supervisedHyperparameters.prefault({}) })
      .nullish()
      .transform((value) => value ?? { hyperparameters: supervisedHyperparameters.parse({}) }),
    adaptation,
  }),
  z.strictObject({
    type: z.literal('dpo'),
    dpo: z
      .strictObject({ hyperparameters: dpoHyperparameters.prefault({}) })
      .nullish()
      .transform((value) => value ?? { hyperparameters: dpoHyperparameters.parse({}) }),
    adaptation,
  }),
  z.strictObject({
    type: z.literal('reinforcement'),
    reinforcement: z.strictObject({
      grader: tuningGrader,
      /** Examples of a step are prompts here. */
      hyperparameters: reinforcementHyperparameters.prefault({}),
    }),
    adaptation,
  }),
])
export type TuningMethod = z.output<typeof tuningMethod>

/** What was asked for, whatever the method. */
export function hyperparametersAsked(method: TuningMethod): z.output<typeof supervisedHyperparameters> & {
  beta?: 'auto' | number
  compute_multiplier?: 'auto' | number
} {
  if (method.type === 'dpo') return method.dpo.hyperparameters
  return method.type === 'supervised'
    ? method.supervised.hyperparameters
    : method.reinforcement.hyperparameters
}

export const tuningMetadata = z
  .record(storableText(64, 1), storableText(512))
  .refine((pairs) => Object.keys(pairs).length <= 16, 'at most 16 pairs')

const integration = z.strictObject({
  type: z.literal('wandb'),
  wandb: z.strictObject({
    project: storableText(128, 1),
    name: storableText(128, 1).nullish(),
    entity: storableText(128, 1).nullish(),
    tags: z.array(storableText(64, 1)).max(50).optional(),
    /** Ours: the project's credential of kind wandb that holds the key. */
    credential: storableText(63, 1).default('wandb'),
  }),
})
export type TuningIntegration = z.output<typeof integration>

export const suffixPattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/

const tuningFields = z.strictObject({
  /** A model by name (`NAME`, `NAME@3`, `NAME:prod`), or a deployment of one. */
  model: storableText(200, 1),
  training_file: storableText(100, 1),
  validation_file: storableText(100, 1).nullish(),
  suffix: z
    .string()
    .regex(suffixPattern, 'it takes 1 to 64 letters, digits and . _ -, and begins with a letter or digit')
    .nullish(),
  seed: z
    .int()
    .min(0)
    .max(2 ** 31 - 1)
    .nullish(),
  method: tuningMethod.optional(),
  /** As before there was `method`. */
  hyperparameters: supervisedHyperparameters.optional(),
  /** OpenAI knows one kind, and a job writes one run of it. */
  integrations: z.array(integration).max(1).nullish(),
  metadata: tuningMetadata.nullish(),
})

export const createTuning = tuningFields.refine(
  ({ method, hyperparameters }) => method === undefined || hyperparameters === undefined,
  { path: ['hyperparameters'], error: 'Give them within method, which has hyperparameters of its own.' },
)
export type CreateTuning = z.output<typeof createTuning>

export interface FileObject {
  id: string
  object: 'file'
  bytes: number
  /** Seconds since 1970, like all times here. */
  created_at: number
  expires_at: number | null
  filename: string
  purpose: FilePurpose
  status: 'processed'
  status_details: string | null
}

export const tuningStatuses = [
  'validating_files',
  'queued',
  'running',
  'paused',
  'succeeded',
  'failed',
  'cancelled',
] as const
export type TuningStatus = (typeof tuningStatuses)[number]

export interface TuningError {
  code: string
  message: string
  param: string | null
}

export interface TuningObject {
  id: string
  object: 'fine_tuning.job'
  created_at: number
  error: TuningError | null
  estimated_finish: number | null
  fine_tuned_model: string | null
  finished_at: number | null
  hyperparameters: Record<string, unknown>
  integrations: TuningIntegration[]
  method: Record<string, unknown>
  metadata: Record<string, string> | null
  model: string
  organization_id: string
  result_files: string[]
  seed: number
  status: TuningStatus
  trained_tokens: number | null
  training_file: string
  user_provided_suffix: string | null
  validation_file: string | null
}

export interface TuningEventObject {
  id: string
  object: 'fine_tuning.job.event'
  created_at: number
  level: 'info' | 'warn' | 'error'
  message: string
  type: 'message' | 'metrics'
  data: Record<string, unknown> | null
}

export interface TuningCheckpointObject {
  id: string
  object: 'fine_tuning.job.checkpoint'
  created_at: number
  fine_tuned_model_checkpoint: string
  fine_tuning_job_id: string
  metrics: Record<string, number>
  step_number: number
}
