/**
 * What a job will need, before it needs it. Memory is found by laying out the job's own graphs: the system hands out
 * memory when it is written, so a layout that nobody computes costs nothing.
 */
import { bytesOf, type DType } from '../../base/dtype.ts'
import { type ParameterSpec, staysFloat, windowsOf } from '../../models/architecture.ts'
import { openModel } from '../../models/open.ts'
import { type Definition, defineModel } from '../../models/registry.ts'
import { keptDtype } from '../../models/rows.ts'
import { Weights } from '../../models/weights.ts'
import { Arena } from '../../runtime/arena.ts'
import { Device } from '../../runtime/device.ts'
import type { Tensor } from '../../runtime/tensor.ts'
import type { TrainingJob } from '../job.ts'
import { AdapterPart, freshAdapter } from '../methods/lora.ts'
import { policyOf } from '../methods/method.ts'
import { objectiveOf } from '../methods/objectives.ts'
import { modelConfig, type SpecialTokens } from '../model-config.ts'
import { AdamW } from '../optimizer.ts'
import { ownersOf, sumsOf } from '../parallel/team.ts'
import { Parameters, wholeModel } from '../parameters.ts'
import { adapterSettings, routerBalanceOf } from '../prepare-model.ts'

export interface MemoryEstimate {
  /** All of it, at its peak. */
  bytes: number
  /** The process with its data, before there is a model. */
  processBytes: number
  weightBytes: number
  /** Gradients, sums of them that several processes exchange, and the moments that this one keeps. */
  learningBytes: number
  /** Activations, logits, and what products put in order. */
  activationBytes: number
  /** Weights and moments once more, from where a checkpoint is written while training goes on. */
  snapshotBytes: number
}

/** What estimates must know of the data. */
export interface DataShape {
  tokens: SpecialTokens
  packed: boolean
  supervisedMax: number | undefined
  isEvaluated: boolean
}

/** Buffers of JavaScript and the allocator's slack while a job runs. */
const runtimeBytes = 24 << 20

/**
 * Of the first of `processes` that train together, which has most. `processBytes`: resident memory of the process now,
 * which is taken to stay.
 */
export function estimateMemory(
  job: TrainingJob,
  data: DataShape,
  processBytes: number,
  processes = 1,
): MemoryEstimate {
  using device = new Device({ device: 'cpu', threads: 1 })
  using parameters = plannedParameters(job, definitionOf(job, data.tokens), device)
  const owners = ownersOf(
    parameters.all.map(({ weight }) => weight.size),
    processes,
  )
  parameters.keepMoments((index) => owners[index] === 0)
  const objective = objectiveOf(job.method)
  const shape = {
    sequences: job.batch,
    tokens: job.context,
    packed: data.packed,
    recompute: job.recompute,
    precision: job.precision,
    routerBalance: routerBalanceOf(job, parameters.definition),
    ...(data.supervisedMax !== undefined && { supervisedMax: data.supervisedMax }),
  }
  const scratch = (mode: 'train' | 'evaluate') => {
    using graph = objective.graph(parameters, device, shape, mode)
    return graph.scratchBytes
  }
  using optimizer = new AdamW(parameters, device, {
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weightDecay: 0,
    clipNorm: 1,
  })
  const masks = windowsOf(parameters.definition.config).length
  const maskBytes = masks * (data.packed ? 8 * job.batch * job.context ** 2 : 4 * job.context ** 2)
  const activationBytes =
    scratch('train') +
    (data.isEvaluated || asksReference(job) ? scratch('evaluate') : 0) +
    (policyOf(job.method) === undefined ? 0 : answersBytes(job, parameters.definition)) +
    optimizer.scratchBytes +
    maskBytes
  const trainedBytes = parameters.all.reduce((sum, { weight }) => sum + weight.bytes, 0)
  const ownBytes = parameters.all.reduce(
    (sum, { weight }, index) => sum + (owners[index] === 0 ? weight.bytes : 0),
    0,
  )
  const sums = job.data_parallel ? sumsOf(job.accumulate, processes) : 0
  const learningBytes = (1 + sums) * trainedBytes + 2 * ownBytes
  const snapshotBytes = 3 * trainedBytes
  const isWhole = job.method?.lora === undefined
  const referenceBytes = isWhole && asksReference(job) ? parameters.bytes : 0
  const weightBytes = parameters.bytes + referenceBytes + (isWhole ? 0 : trainedBytes)
  const fixedBytes = processBytes + runtimeBytes
  return {
    bytes: fixedBytes + weightBytes + learningBytes + activationBytes + snapshotBytes,
    processBytes: fixedBytes,
    weightBytes,
    learningBytes,
    activationBytes,
    snapshotBytes,
  }
}

/** Whether a policy is held near the model that it starts from, which is then in memory beside it. */
function asksReference({ method }: TrainingJob): boolean {
  return (policyOf(method)?.beta ?? 0) > 0
}

/** Answers that the serving engine writes at once, at most: the decoder's own limit, which this folder cannot see. */
const answersTogether = 32

/** Keys and values of the answers that are being written, two bytes a number, and a step's logits. */
function answersBytes({ batch, accumulate, context }: TrainingJob, { config }: Definition): number {
  const answers = Math.min(answersTogether, batch * accumulate)
  const perToken = 2 * config.layers * config.keyValueHeads * config.headWidth * 2
  return answers * ((context + 16) * perToken + 4 * config.vocabularySize)
}

/** A model as the job would train it, as far as its memory is concerned: nothing is read or written. */
export function plannedParameters(job: TrainingJob, definition: Definition, device: Device): Parameters {
  const lora = job.method?.lora
  const weights = plannedWeights(definition, quantizeOf(job), device)
  if (lora === undefined || !('from' in job.model))
    return new Parameters(definition, weights, device, wholeModel(definition, weights), 'planned')
  const access = { weight: (name: string) => weights.get(name), has: (name: string) => weights.has(name) }
  // Row lengths cost a pass over weights that are not there; magnitudes are as many without it.
  const settings = adapterSettings(lora, definition, job.model.from)
  const adapter = freshAdapter(definition, access, settings, job.seed)
  return new Parameters(
    definition,
    weights,
    device,
    new AdapterPart(adapter, definition, access, device),
    'planned',
  )
}

/** Of the weights alone, without a layout: the system refuses one that is larger than its memory. */
export function weightBytesOf(job: TrainingJob, { architecture, config }: Definition): number {
  return architecture
    .parameters(config)
    .reduce((sum, spec) => sum + bytesOf(plannedDtype(spec, quantizeOf(job)), sizeOf(spec)), 0)
}

function quantizeOf({ method }: TrainingJob): DType | undefined {
  return method?.lora?.quantize.toUpperCase() as DType | undefined
}

function plannedDtype(spec: ParameterSpec, quantize: DType | undefined): DType {
  return staysFloat(spec) ? 'F32' : keptDtype('F32', spec.shape.at(-1)!, quantize)
}

function sizeOf({ shape }: ParameterSpec): number {
  return shape.reduce((product, length) => product * length, 1)
}

export function definitionOf(job: TrainingJob, tokens: SpecialTokens): Definition {
  if (!('from' in job.model)) return defineModel(modelConfig(job.model, job.context, tokens))
  using model = openModel(job.model.from)
  return model.definition
}

function plannedWeights(
  { architecture, config }: Definition,
  quantize: DType | undefined,
  device: Device,
): Weights {
  const specs = architecture.parameters(config)
  const arena = new Arena(specs.length + 1)
  const tensors = new Map<string, Tensor>()
  let bytes = 0
  for (const spec of specs) {
    const dtype = plannedDtype(spec, quantize)
    tensors.set(spec.name, arena.leaf(dtype, spec.shape, spec.name))
    bytes += bytesOf(dtype, sizeOf(spec))
  }
  tensors.set('rope_factors', arena.leaf('F32', [config.headWidth / 2], 'rope_factors'))
  arena.allocate(device.bufferType)
  return new Weights([arena], tensors, bytes)
}
