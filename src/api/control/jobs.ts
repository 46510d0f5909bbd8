/** Jobs, clusters and quotas as they go over the wire. */
import { z } from 'zod'
import { durationMs } from './run-job.ts'

export const jobStateNames = [
  'waiting',
  'allocating',
  'preparing',
  'running',
  'stopping',
  'success',
  'failed',
  'stopped',
] as const

export const priorityDefault = 50
export const devicesMax = 1024
const credentialsMax = 20
export const placeName = z
  .string()
  .max(63)
  .regex(/^[a-z0-9][a-z0-9._-]*$/i, 'it takes letters, digits and . _ -, and begins with a letter or digit')
export const deviceType = z
  .string()
  .max(40)
  .regex(/^[a-z0-9][a-z0-9._-]*$/i, 'it is no name of a device type')

/** What the service adds to a job file: its part `job:`. `--here` passes over it. */
export const jobPlacement = z.strictObject({
  /** Any cluster without it. */
  cluster: placeName.optional(),
  device: deviceType.default('cpu'),
  /** Of each process. */
  devices: z.int().min(1).max(devicesMax).default(1),
  /** 0 to 100; the higher goes first. */
  priority: z.int().min(0).max(100).default(priorityDefault),
  /** Attempts after the first; progress sets the count back. */
  retries: z.int().min(0).max(100).default(3),
  /** Without a report for so long, an attempt that reported before is taken for hung. */
  heartbeat_timeout: durationMs.default(600_000),
  /** Of one attempt. */
  time_limit: durationMs.optional(),
  /** Credentials of the project whose variables its programs find: WANDB_API_KEY, HF_TOKEN ... */
  credentials: z.array(placeName).max(credentialsMax).optional(),
  /** A message through a credential of kind slack when the job comes into one of these states. */
  notify: z
    .strictObject({
      slack: placeName,
      on: z.array(z.enum(['running', 'success', 'failed', 'stopped'])).default(['success', 'failed']),
    })
    .optional(),
})
export type JobPlacement = z.output<typeof jobPlacement>

const fileCharactersMax = 500_000

/** A job file as an object, from which `run:` or our trainer's fields are read. */
export const createJob = z.strictObject({
  file: z
    .record(z.string(), z.unknown())
    .refine((file) => JSON.stringify(file).length <= fileCharactersMax, 'the job file is too large'),
  /** Instead of the file's name. */
  name: placeName.optional(),
  /** A workspace that was uploaded. */
  workspace: z
    .string()
    .regex(/^ws_[0-9a-f]{64}$/)
    .optional(),
})
export type CreateJob = z.input<typeof createJob>

export const jobView = z.object({
  id: z.string(),
  name: z.string(),
  project: z.string(),
  kind: z.enum(['train', 'run']),
  state: z.enum(jobStateNames),
  /** In a word for programs, and a sentence for people. */
  reason: z.string(),
  message: z.string(),
  /** Unix milliseconds, like all times. */
  created_at: z.int(),
  since: z.int(),
  started_at: z.int().nullable(),
  ended_at: z.int().nullable(),
  priority: z.int(),
  cluster: z.string().nullable(),
  device: z.string(),
  devices: z.int(),
  processes: z.int(),
  attempt: z.int(),
  retries_used: z.int(),
  steps_done: z.int(),
  total_steps: z.int().nullable(),
  step_ms: z.number().nullable(),
  last_report_at: z.int().nullable(),
  /** The step of the newest checkpoint; 0 when there is none. */
  checkpoint_step: z.int(),
  /** Whether it is asked to save, and has not yet. */
  saving: z.boolean(),
  /** Newest value of each metric. */
  metrics: z.record(z.string(), z.union([z.number(), z.string()])),
  version: z.int(),
  file: z.record(z.string(), z.unknown()),
  /** The file's part `job:` with its defaults; times in milliseconds. */
  placement: z.record(z.string(), z.unknown()),
  workspace: z.string().nullable(),
})
export type JobView = z.output<typeof jobView>

export const jobEventView = z.object({
  id: z.string(),
  at: z.int(),
  kind: z.string(),
  message: z.string(),
  details: z.record(z.string(), z.unknown()),
})

export const logLineView = z.object({
  at: z.int(),
  attempt: z.int(),
  rank: z.int(),
  stream: z.enum(['out', 'err']),
  text: z.string(),
})
export type LogLineView = z.output<typeof logLineView>

export const metricPoint = z.object({
  step: z.int(),
  at: z.int(),
  value: z.union([z.number(), z.string()]),
})
export type MetricPoint = z.output<typeof metricPoint>

export const metricSummary = z.object({
  name: z.string(),
  points: z.int(),
  first_step: z.int(),
  last_step: z.int(),
})

export const artifactView = z.object({ path: z.string(), bytes: z.int(), modified_at: z.int() })
