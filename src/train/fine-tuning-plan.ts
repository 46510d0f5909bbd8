/**
 * From what OpenAI's fine-tuning API says (files, epochs, examples a step, a multiplier of the rate) to a training
 * job: the data is read as `ropeway data check` reads it, refused for the same reasons, and counted.
 */
import { messageOf, UserError } from '../base/errors.ts'
import { openModel } from '../models/open.ts'
import { preparing } from './data/preparing.ts'
import { refusalsOf } from './data/refusals.ts'
import { parseTrainingJob, type TrainingJob } from './job.ts'
import type { JobData } from './job-data.ts'
import { MixedDocuments } from './packing.ts'
import { dataCheckOf } from './preflight/data-check.ts'
import { inspectedData } from './prepare-data.ts'

export interface FineTuningRequest {
  readonly name: string
  /** Relative to the workspace, like the files. */
  readonly model: string
  readonly training: string
  readonly validation?: string | undefined
  readonly kind: 'supervised' | 'dpo' | 'reinforcement'
  readonly adaptation: 'lora' | 'full'
  readonly epochs: 'auto' | number
  /** Examples of one step. */
  readonly batch: 'auto' | number
  readonly rateMultiplier: 'auto' | number
  readonly beta?: 'auto' | number | undefined
  /** Of reinforcement: the field `rewards` of a job file, and how many times the usual number of answers. */
  readonly rewards?: readonly Readonly<Record<string, unknown>>[] | undefined
  readonly computeMultiplier?: 'auto' | number | undefined
  readonly seed: number
  /** W&B's, as the field `watch.wandb` of a job file has it. */
  readonly wandb?: Readonly<Record<string, unknown>> | undefined
}

export type FineTuningPlan =
  | {
      readonly ok: true
      /** A job file of our trainer. */
      readonly file: Readonly<Record<string, unknown>>
      readonly examples: number
      readonly epochs: number
      readonly batch: number
      readonly rateMultiplier: number
      readonly beta: number | undefined
      /** Over all epochs. */
      readonly trainedTokens: number
      readonly warnings: readonly string[]
    }
  | { readonly ok: false; readonly which: 'training' | 'validation' | 'model'; readonly message: string }

/** Longest row; what is longer is cut. */
const contextMax = 4096
/** Rows are as long as the longest example, in steps of so many tokens. */
const contextStep = 64
/** Tokens of one micro-batch. */
const batchTokensMax = 4096
/** Epochs that `auto` means, as OpenAI's own guide to data preparation counts them. */
const [epochsUsual, epochsMax, examplesFew, examplesMany] = [3, 25, 100, 25_000]
const checkpointsMax = 20
/** Before the multiplier: an adapter starts from nothing and bears ten times what whole weights do. */
const rates = {
  supervised: { lora: 2e-4, full: 2e-5 },
  dpo: { lora: 5e-5, full: 5e-6 },
  reinforcement: { lora: 4e-5, full: 2e-6 },
} as const
const betaUsual = 0.1
const warmUpShare = 0.03
/** Of reinforcement: prompts of a step, answers to each, and tokens of one. */
const [promptsUsual, groupUsual, answerTokensMax] = [8, 8, 256]

/** Reads the files below `workspace`. Whatever is wrong with them comes back as a value. */
export async function planFineTuning(request: FineTuningRequest, workspace: string): Promise<FineTuningPlan> {
  let draft: TrainingJob
  try {
    draft = parseTrainingJob(draftOf(request, workspace), workspace)
  } catch (error) {
    return refused(error, request, workspace, 'model')
  }
  try {
    using data = await inspectedData(draft, silent)
    const wrong = whatIsWrong(request, draft, data)
    if (wrong !== undefined)
      return { ok: false, ...wrong, message: cleaned(wrong.message, request, workspace) }
    return await planOf(request, draft, data)
  } catch (error) {
    return refused(error, request, workspace, 'training')
  }
}

function draftOf(request: FineTuningRequest, workspace: string): Record<string, unknown> {
  using model = openModel(`${workspace}/${request.model}`)
  const context = Math.min(contextMax, model.definition.config.contextMax)
  const batch = request.kind === 'reinforcement' ? groupOf(request) : 1
  return fileOf(
    request,
    { context, batch, accumulate: 1, steps: 1, every: 1, keep: 1 },
    answerTokensOf(context),
  )
}

function groupOf({ computeMultiplier = 'auto' }: FineTuningRequest): number {
  return Math.max(2, Math.round(groupUsual * (computeMultiplier === 'auto' ? 1 : computeMultiplier)))
}

/** Half of what the model takes at most: the other half is for prompts. */
function answerTokensOf(context: number): number {
  return Math.min(answerTokensMax, Math.floor(context / 2))
}

interface Sizes {
  context: number
  batch: number
  accumulate: number
  steps: number
  every: number
  keep: number
}

function fileOf(request: FineTuningRequest, sizes: Sizes, answerTokens: number): Record<string, unknown> {
  const { name, model, training, validation, kind, adaptation, seed, wandb } = request
  const { context, batch, accumulate, steps, every, keep } = sizes
  const multiplier = request.rateMultiplier === 'auto' ? 1 : request.rateMultiplier
  return {
    name,
    model: { from: model },
    method: {
      ...(adaptation === 'lora' && { lora: { rank: 16, alpha: 32 } }),
      ...(kind === 'dpo' && { dpo: { beta: betaOf(request) } }),
      ...(kind === 'reinforcement' && {
        grpo: { group: groupOf(request), tokens_max: answerTokens, clip_high: 0.28 },
      }),
    },
    ...(kind === 'reinforcement' && { rewards: request.rewards }),
    data: { train: training, validation: validation ?? 0, too_long: 'cut' },
    ...{ context, batch, accumulate, steps, seed },
    optimizer: { learning_rate: Number((rates[kind][adaptation] * multiplier).toPrecision(6)) },
    schedule: { kind: 'cosine', warmup_steps: Math.round(warmUpShare * steps) },
    evaluate: { every, batches: 20 },
    checkpoint: { every, keep },
    ...(wandb !== undefined && { watch: { wandb } }),
  }
}

function betaOf({ beta = 'auto' }: FineTuningRequest): number {
  return beta === 'auto' ? betaUsual : beta
}

/** The process of its own that this runs in is ended from outside. */
const silent = preparing(() => undefined)

function whatIsWrong(
  { kind }: FineTuningRequest,
  job: TrainingJob,
  { kit, material }: JobData,
): { which: 'training' | 'validation'; message: string } | undefined {
  if (!('train' in job.data)) return undefined
  const [own, ...held] = material.reports
  for (const [which, reports] of [
    ['training', own === undefined ? [] : [own]],
    ['validation', held],
  ] as const) {
    if (reports.length === 0) continue
    const [refusal] = refusalsOf(reports, job.data, kit)
    if (refusal !== undefined) return { which, message: said(refusal) }
  }
  if (kind === 'supervised' && material.kind === 'samples') return undefined
  if (kind === 'dpo' && material.kind === 'pairs') return undefined
  if (kind === 'reinforcement' && material.kind === 'prompts') return undefined
  return {
    which: 'training',
    message: `The file holds ${material.kind}, which the method ${kind} does not take.`,
  }
}

async function planOf(
  request: FineTuningRequest,
  draft: TrainingJob,
  data: JobData,
): Promise<FineTuningPlan> {
  if (request.kind === 'reinforcement') return await reinforcementPlanOf(request, draft, data)
  const { material } = data
  const list = material.training
  const perExample = material.kind === 'pairs' ? 2 : 1
  const examples = list.length / perExample
  const context = Math.min(draft.context, rowFor(longestOf(material), perExample))
  const rows =
    perExample === 2
      ? examples
      : new MixedDocuments([{ documents: list, weight: 1 }], 1, context, draft.seed).rows
  const epochs = request.epochs === 'auto' ? epochsFor(examples) : request.epochs
  const batch = request.batch === 'auto' ? batchFor(examples) : Math.min(request.batch, examples)
  const rowsPerStep = Math.max(1, Math.round((batch * rows) / examples))
  const microBatch = divisorOf(rowsPerStep, Math.max(1, Math.floor(batchTokensMax / context)))
  const stepsPerEpoch = Math.max(1, Math.ceil(rows / rowsPerStep))
  const steps = epochs * stepsPerEpoch
  const every = stepsPerEpoch * Math.ceil(epochs / checkpointsMax)
  const sizes: Sizes = {
    ...{ context, batch: microBatch, accumulate: rowsPerStep / microBatch, steps, every },
    // All of them, and those that are written between epochs: on demand, or because they are the best.
    keep: checkpointsMax * 2,
  }
  const file = fileOf(request, sizes, answerTokensOf(draft.context))
  const sized = { ...draft, ...{ context, batch: microBatch, steps } }
  const { warnings } = await dataCheckOf(sized, data.kit, material, silent)
  return {
    ok: true,
    file,
    examples,
    epochs,
    batch,
    rateMultiplier: request.rateMultiplier === 'auto' ? 1 : request.rateMultiplier,
    beta: request.kind === 'dpo' ? betaOf(request) : undefined,
    trainedTokens: data.summary.trainingTokens * epochs,
    warnings,
  }
}

/** An epoch asks every prompt once; a step's rows are its answers. */
async function reinforcementPlanOf(
  request: FineTuningRequest,
  draft: TrainingJob,
  data: JobData,
): Promise<FineTuningPlan> {
  const { training } = data.material
  const examples = training.length
  const answerTokens = answerTokensOf(draft.context)
  const longest = longestOf(data.material)
  const context = Math.min(draft.context, Math.ceil((longest + answerTokens) / contextStep) * contextStep)
  const epochs = request.epochs === 'auto' ? epochsFor(examples) : request.epochs
  const batch = Math.min(request.batch === 'auto' ? promptsUsual : request.batch, examples)
  const rows = batch * groupOf(request)
  const microBatch = divisorOf(rows, Math.max(1, Math.floor(batchTokensMax / context)))
  const stepsPerEpoch = Math.max(1, Math.ceil(examples / batch))
  const steps = epochs * stepsPerEpoch
  const every = stepsPerEpoch * Math.ceil(epochs / checkpointsMax)
  const sizes: Sizes = {
    ...{ context, batch: microBatch, accumulate: rows / microBatch, steps, every },
    keep: checkpointsMax * 2,
  }
  const sized = { ...draft, ...{ context, batch: microBatch, accumulate: rows / microBatch, steps } }
  const { warnings } = await dataCheckOf(sized, data.kit, data.material, silent)
  return {
    ...{ ok: true, file: fileOf(request, sizes, answerTokens), examples, epochs, batch, warnings },
    rateMultiplier: request.rateMultiplier === 'auto' ? 1 : request.rateMultiplier,
    beta: undefined,
    // Of the prompts: how long answers get is known when they are written.
    trainedTokens: data.summary.trainingTokens * epochs,
  }
}

/** Of what is learned from and of what is held out: both are cut to the same rows. */
function longestOf({ training, validation }: JobData['material']): number {
  let longest = 0
  for (const list of [training, validation])
    for (let i = 0; i < list.length; i++) longest = Math.max(longest, list.lengthOf(i))
  return longest
}

/** Each answer of a pair has its half of the row, however short the other is: what does not fit there is cut. */
function rowFor(longest: number, perExample: number): number {
  return Math.ceil((perExample * longest + 1) / contextStep) * contextStep
}

function epochsFor(examples: number): number {
  if (examples * epochsUsual < examplesFew) return Math.min(epochsMax, Math.ceil(examplesFew / examples))
  if (examples * epochsUsual > examplesMany) return Math.max(1, Math.floor(examplesMany / examples))
  return epochsUsual
}

/** A fiftieth of the examples, so that an epoch has enough steps to learn by; at most 32. */
function batchFor(examples: number): number {
  return Math.max(1, Math.min(32, Math.round(examples / 50)))
}

function divisorOf(value: number, most: number): number {
  for (let divisor = Math.min(value, most); divisor > 1; divisor--) if (value % divisor === 0) return divisor
  return 1
}

function refused(
  error: unknown,
  request: FineTuningRequest,
  workspace: string,
  which: 'training' | 'model',
): FineTuningPlan {
  if (!(error instanceof UserError)) throw error
  const message = said(error)
  const isHeld = request.validation !== undefined && message.includes(request.validation)
  return { ok: false, which: isHeld ? 'validation' : which, message: cleaned(message, request, workspace) }
}

function said(error: UserError): string {
  return error.fix === undefined ? messageOf(error) : `${messageOf(error)} ${error.fix}`
}

/** People know their files by name, not by where this machine keeps them. */
function cleaned(
  message: string,
  { training, validation, model }: FineTuningRequest,
  workspace: string,
): string {
  let text = message.replaceAll(`${workspace}/`, '')
  for (const path of [training, validation])
    if (path !== undefined) text = text.replaceAll(path, path.slice(path.lastIndexOf('/') + 1))
  return text.replaceAll(model, 'the model')
}
