/**
 * What a training job file says, checked field by field. Parsing YAML is the caller's: this takes the object.
 */
import { isAbsolute, resolve } from 'node:path'
import { z } from 'zod'
import { layersMax } from '../models/config-fields.ts'
import { checkpointFields } from './checkpoint-fields.ts'
import { type Fim, fimFields } from './data/gap-maker.ts'
import { type SampleData, sampleData, sampleFields } from './data/sample-data.ts'
import { expanded, type FileSource } from './data/source-files.ts'
import { type Derived, dial, dialled } from './dial.ts'
import { evaluateFields } from './evaluate/fields.ts'
import { checkEvaluation } from './evaluate/job-rules.ts'
import { jobRefusal, refused } from './job-refusals.ts'
import { methodFields } from './methods/method.ts'
import { expertSizes, isMixture } from './mixture-sizes.ts'
import { checkTeam } from './parallel/team.ts'
import { publishFields } from './publish/publish-fields.ts'
import { checkRewards } from './rollouts/job-rules.ts'
import { rewardsFields } from './rollouts/reward-fields.ts'
import { faultFields } from './step-guard.ts'
import { watchFields } from './watch/watch-fields.ts'

const count = z.int().min(1)
const share = z.number().min(0).max(0.9)
const pathExpected = 'expected a path, a list of paths, or {package: NAME}'
const source = z.union(
  [
    z.string().min(1),
    z.strictObject({
      package: z.string().min(1),
      folder: z.string().default('.'),
      match: z.string().refine(isPattern, 'it is no regular expression').optional(),
    }),
  ],
  pathExpected,
)

const sizes = z.strictObject({
  architecture: z.enum([
    'llama',
    'mistral',
    'qwen2',
    'qwen3',
    'phi3',
    'granite',
    'gemma3_text',
    'smollm3',
    'olmo2',
    'olmo3',
    'mixtral',
    'qwen3_moe',
    'olmoe',
    'granitemoe',
    'gpt_oss',
    'gpt2',
  ]),
  layers: z.int().min(1).max(layersMax),
  width: count,
  heads: count,
  key_value_heads: count.optional(),
  /** Of a mixture of experts, that of each expert. */
  feed_forward: count.optional(),
  /** Of a mixture, how many there are: 8 by default. */
  experts: count.optional(),
  /** Of a mixture, how many a token uses: 2 by default. */
  experts_used: count.optional(),
  /** Biases of GPT-2's products and norms. */
  bias: z.boolean().default(true),
  tied: z.boolean().default(true),
})

function isPattern(text: string): boolean {
  try {
    return new RegExp(text) !== undefined
  } catch (error) {
    if (error instanceof SyntaxError) return false
    throw error
  }
}

/** Texts to continue. */
const textFields = z.strictObject({
  text: z.union([source, z.array(source).min(1)], pathExpected),
  validation: share.default(0.1),
  rows: z.enum(['windows', 'documents']).default('windows'),
  /** They teach to fill in what stands between two others; takes rows: documents. */
  fim: fimFields.optional(),
})

const jobFile = z.strictObject({
  name: z
    .string()
    .regex(/^[a-z0-9][a-z0-9._-]*$/i, 'it takes letters, digits and . _ -, and begins with a letter or digit')
    .default('model'),
  model: z.union(
    [sizes, z.strictObject({ from: z.string().min(1) })],
    'expected {architecture, layers, width, heads}, or {from: FOLDER}',
  ),
  method: methodFields.optional(),
  /** How answers are graded that the model writes while it learns: of method.grpo. */
  rewards: rewardsFields.optional(),
  data: textFields,
  tokenizer: z
    .union(
      [
        z.literal('characters'),
        z.strictObject({ byte_pairs: z.int().min(257).max(200_000) }),
        z.strictObject({ from: z.string().min(1) }),
      ],
      'expected characters, {byte_pairs: 2048} or {from: FOLDER}',
    )
    .optional(),
  context: z.int().min(2),
  batch: count,
  accumulate: count.default(1),
  /** Several processes may share each step's micro-batches, and any number of them gets the same bits. */
  data_parallel: z.boolean().default(false),
  /** So many processes on this machine, started by mpirun; with 1, the run can go on at another number. */
  ranks: z.int().min(1).max(64).optional(),
  /** Compute activations again instead of keeping them: a third more work, several times less memory, the same bits. */
  recompute: z.boolean().default(false),
  steps: count,
  seed: z.int().min(0).default(1337),
  /** In which numbers products are multiplied; weights, sums and moments are F32 either way. */
  precision: z.enum(['f32', 'bf16']).default('f32'),
  /**
   * How much the even use of a mixture's experts weighs beside the loss: what the model says (router_aux_loss_coef) by default, 0 for
   * adapters.
   */
  router_balance: z.number().min(0).optional(),
  optimizer: z.strictObject({
    learning_rate: z.number().positive(),
    beta1: z.number().min(0).lt(1).default(0.9),
    beta2: z.number().min(0).lt(1).default(0.95),
    epsilon: z.number().positive().default(1e-8),
    weight_decay: z.number().min(0).default(0.1),
    clip: z.number().min(0).default(1),
  }),
  schedule: z
    .strictObject({
      kind: z.enum(['constant', 'linear', 'cosine', 'wsd']).default('cosine'),
      warmup_steps: z.int().min(0).default(0),
      learning_rate_min: z.number().min(0).default(0),
      decay_steps: count.optional(),
      /** Of wsd: steps before decay_steps in which the rate falls to its minimum; a tenth of decay_steps by default. */
      cooldown_steps: count.optional(),
    })
    .prefault({}),
  evaluate: evaluateFields.prefault({}),
  checkpoint: checkpointFields.prefault({}),
  /** What is done about steps that come out wrong. */
  faults: faultFields,
  /** The adapter in training answers in a running engine. */
  publish: publishFields.optional(),
  /** Where the run is told beside the terminal and OUT/metrics.jsonl. */
  watch: watchFields.optional(),
  out: z.string().min(1).default('out'),
  device: z.string().optional(),
  threads: count.optional(),
})

/** A job that learns from records instead of running text. */
const samplesJobFile = jobFile.extend({ data: sampleFields })

/** Everything that a file may say, of which the dial fills in some. */
export const trainingJobFile = jobFile.extend({ data: z.union([textFields, sampleFields]), ...dial })

type JobFile = z.output<typeof jobFile>

export type ModelSizes = z.output<typeof sizes>

/** A job with every default filled in and every path absolute. */
export interface TrainingJob extends Omit<JobFile, 'data' | 'out'> {
  data: { text: FileSource[]; validation: number; rows: 'windows' | 'documents'; fim?: Fim } | SampleData
  schedule: JobFile['schedule'] & { decay_steps: number }
  /** What one dial decided. */
  derived?: Derived
  out: string
  /** What relative paths in the file are relative to. */
  baseFolder: string
  /** Where samples are kept from one run to the next; nowhere without it. */
  cacheFolder?: string
}

/** Throws a UserError that names the field when the object is not a job. */
export function parseTrainingJob(object: unknown, baseFolder: string): TrainingJob {
  const { fields, derived } = dialled(object, baseFolder)
  refuseBothData(fields)
  const result = (asksForSamples(fields) ? samplesJobFile : jobFile).safeParse(fields)
  if (!result.success) throw jobRefusal(result.error, trainingJobFile)
  const job = result.data
  if (job.ranks !== undefined) {
    job.data_parallel = true
    checkTeam(job.ranks, job.accumulate)
  }
  if (job.tokenizer === undefined && !('from' in job.model)) {
    throw refused(
      'tokenizer',
      'is missing; a new model needs one: characters, {byte_pairs: 2048} or {from: FOLDER}',
    )
  }
  if (!('from' in job.model) && job.model.width % job.model.heads !== 0) {
    throw refused(
      'model.heads',
      `must divide model.width; ${job.model.heads} does not divide ${job.model.width}`,
    )
  }
  if (!('from' in job.model)) checkExperts(job.model, job.router_balance)
  if (job.method?.lora !== undefined && !('from' in job.model))
    throw refused('method.lora', 'adapts a model that is there already: give model: {from: FOLDER}')
  if (job.publish !== undefined && job.method?.lora === undefined)
    throw refused('publish', 'gives adapters to an engine: it takes method.lora')
  const { schedule } = job
  if (schedule.cooldown_steps !== undefined && schedule.kind !== 'wsd')
    throw refused('schedule.cooldown_steps', 'belongs to kind: wsd')
  const { warmup_steps, cooldown_steps = 0, decay_steps = job.steps } = schedule
  if (cooldown_steps > 0 && warmup_steps + cooldown_steps > decay_steps)
    throw refused(
      'schedule',
      'warms up and cools down for longer than the rate lasts (decay_steps, or steps)',
    )
  const kinds = (['dpo', 'orpo', 'kto', 'grpo'] as const).filter((kind) => job.method?.[kind] !== undefined)
  if (kinds.length > 1) throw refused('method', `has ${kinds.join(' and ')}; it takes one of them`)
  if (kinds.length > 0 && job.data.fim !== undefined)
    throw refused('data.fim', 'makes gaps in texts, and the method learns from answers')
  checkRewards(job)
  checkEvaluation(job.evaluate)
  const at = (path: string) => (isAbsolute(path) ? path : resolve(baseFolder, path))
  return {
    ...job,
    model: 'from' in job.model ? { from: at(expanded(job.model.from, 'model.from')) } : job.model,
    ...(typeof job.tokenizer === 'object' &&
      'from' in job.tokenizer && { tokenizer: { from: at(expanded(job.tokenizer.from, 'tokenizer.from')) } }),
    data: 'text' in job.data ? textData(job.data) : sampleData(job.data, at),
    schedule: { ...job.schedule, decay_steps: job.schedule.decay_steps ?? job.steps },
    ...(derived !== undefined && { derived }),
    out: at(job.out),
    baseFolder,
  }
}

function checkExperts({ architecture, experts, experts_used }: ModelSizes, balance?: number): void {
  if (!isMixture(architecture) && (experts ?? experts_used) !== undefined)
    throw refused('model.experts', `belongs to mixtures of experts; ${architecture} is none`)
  if (!isMixture(architecture) && balance !== undefined)
    throw refused('router_balance', `belongs to mixtures of experts; ${architecture} is none`)
  const sizes = expertSizes({ experts, experts_used })
  if (sizes.used > sizes.experts)
    throw refused(
      'model.experts_used',
      `is ${sizes.used} of ${sizes.experts} experts; a token uses each once at most`,
    )
}

function dataNames(object: unknown): readonly string[] {
  const data = typeof object === 'object' && object !== null && 'data' in object ? object.data : undefined
  return typeof data === 'object' && data !== null ? Object.keys(data) : []
}

const asksForSamples = (object: unknown) => dataNames(object).includes('train')

function refuseBothData(object: unknown): void {
  const names = dataNames(object)
  if (names.includes('train') && names.includes('text'))
    throw refused(
      'data',
      'has both text and train: text holds texts to continue, train records; give one of them',
    )
}

function textData(data: z.output<typeof textFields>) {
  const { fim, validation, rows } = data
  if (fim !== undefined && rows !== 'documents')
    throw refused('data.fim', 'makes gaps in documents: it takes data.rows: documents')
  const texts = Array.isArray(data.text) ? data.text : [data.text]
  return {
    validation,
    rows,
    ...(fim !== undefined && { fim }),
    text: texts.map((text) => (typeof text === 'string' ? { path: text } : text)),
  }
}

/** Everything that decides what the run computes, for comparing a resume with what it resumes. */
export function recipeOf(job: TrainingJob): Record<string, unknown> {
  const { model, method, data, tokenizer, context, batch, accumulate, seed, optimizer, schedule, faults } =
    job
  return {
    // Runs from before there was a choice are f32.
    ...(job.precision !== 'f32' && { precision: job.precision }),
    model,
    ...(method !== undefined && { method }),
    ...(job.rewards !== undefined && { rewards: job.rewards }),
    data:
      'text' in data
        ? { validation: data.validation, rows: data.rows, ...(data.fim && { fim: data.fim }) }
        : data,
    tokenizer: tokenizer ?? null,
    context,
    batch,
    accumulate,
    seed,
    optimizer,
    schedule,
    ...(job.router_balance !== undefined && { router_balance: job.router_balance }),
    // Left out where it is the default, so that runs of before there was a choice can go on.
    ...(job.data_parallel && { data_parallel: true }),
    ...(differences(faults, faultFields.parse(undefined)).length > 0 && { faults }),
  }
}

/** Paths of fields that differ, for messages. */
export function differences(a: unknown, b: unknown, path = ''): string[] {
  const isObject = (x: unknown): x is Record<string, unknown> => typeof x === 'object' && x !== null
  if (!isObject(a) || !isObject(b)) return JSON.stringify(a) === JSON.stringify(b) ? [] : [path]
  const keys = new Set([...Object.keys(a), ...Object.keys(b)])
  return [...keys].flatMap((key) => differences(a[key], b[key], path === '' ? key : `${path}.${key}`))
}
