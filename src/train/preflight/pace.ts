/**
 * How long a job will take, from a few measured steps: of a network as wide as the job's with a layer or two, because
 * every further layer takes as long as the one before.
 */
import { type Clock, systemClock } from '../../base/clock.ts'
import { uniformAt } from '../../base/random.ts'
import { type Definition, defineModel } from '../../models/registry.ts'
import { Device } from '../../runtime/device.ts'
import { type Batch, emptyBatch } from '../batch.ts'
import type { TrainingJob } from '../job.ts'
import { nextToken } from '../methods/objectives.ts'
import { AdamW } from '../optimizer.ts'
import { type DataShape, definitionOf, plannedParameters } from './memory.ts'

export interface Pace {
  stepSeconds: number
  /** Of all steps; evaluations and checkpoints come on top. */
  seconds: number
  tokensPerSecond: number
}

/** Tokens that are measured at once: enough for products to run at their full rate. */
const measuredTokens = 1024

export async function measurePace(
  job: TrainingJob,
  data: DataShape,
  clock: Clock = systemClock,
): Promise<Pace> {
  using device = new Device({
    ...(job.device !== undefined && { device: job.device }),
    ...(job.threads !== undefined && { threads: job.threads }),
  })
  device.keepThreads()
  const definition = definitionOf(job, data.tokens)
  const { layers } = definition.config
  // The last segment is never computed again, so it takes two layers to see what one more costs.
  const few = Math.min(layers, job.recompute ? 2 : 1)
  const [one, two] = [
    await measured(job, data, shortened(definition, few), device, clock),
    await measured(job, data, shortened(definition, 2 * few), device, clock),
  ]
  const grown = (of: 'rowMs' | 'updateMs') => one[of] + Math.max(0, two[of] - one[of]) * (layers / few - 1)
  const rows = job.batch * job.accumulate * (job.context / one.tokens)
  const stepSeconds = (rows * grown('rowMs') + grown('updateMs')) / 1000
  const tokens = job.batch * job.accumulate * job.context
  return { stepSeconds, seconds: stepSeconds * job.steps, tokensPerSecond: tokens / stepSeconds }
}

interface Measured {
  /** Tokens of the row that took `rowMs`. */
  tokens: number
  rowMs: number
  updateMs: number
}

async function measured(
  job: TrainingJob,
  data: DataShape,
  definition: Definition,
  device: Device,
  clock: Clock,
): Promise<Measured> {
  using parameters = plannedParameters(job, definition, device)
  for (const { weight, gradient, mean, square } of parameters.all) {
    weight.write(Float32Array.from({ length: weight.size }, (_, i) => 0.02 * Math.sin(i)))
    for (const tensor of [gradient, mean, square]) tensor.write(new Float32Array(tensor.size))
  }
  const tokens = job.context
  const sequences = Math.min(job.batch, Math.max(1, Math.floor(measuredTokens / tokens)))
  const share = (data.supervisedMax ?? job.batch * tokens) / (job.batch * tokens)
  const shape = {
    sequences,
    tokens,
    packed: data.packed,
    recompute: job.recompute,
    supervisedMax: Math.max(1, Math.ceil(share * sequences * tokens)),
  }
  using graph = nextToken.graph(parameters, device, shape, 'train')
  using optimizer = new AdamW(parameters, device, {
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weightDecay: 0.1,
    clipNorm: 1,
  })
  const batch = anyBatch(sequences, tokens, shape.supervisedMax, definition.config.vocabularySize)
  const timed = async (work: () => Promise<unknown>) => {
    const started = clock.nowMs()
    await work()
    return clock.nowMs() - started
  }
  const both = async () => ({
    rowMs: (await timed(() => graph.run(batch, 1))) / sequences,
    updateMs: await timed(async () => {
      const norms = await optimizer.gradientNorms()
      await optimizer.update(0, 1e-6, Math.hypot(...norms))
    }),
  })
  await both() // The first run touches memory for the first time.
  const runs = [await both(), await both()]
  const least = (of: 'rowMs' | 'updateMs') => Math.min(...runs.map((run) => run[of]))
  return { tokens, rowMs: least('rowMs'), updateMs: least('updateMs') }
}

function anyBatch(sequences: number, tokens: number, supervised: number, vocabulary: number): Batch {
  const { documents: _, ...batch } = emptyBatch(sequences, tokens)
  for (let i = 0; i < batch.ids.length; i++) {
    batch.ids[i] = Math.floor(uniformAt(1, i) * vocabulary)
    batch.targets[i] = Math.floor(uniformAt(2, i) * vocabulary)
    batch.positions[i] = i % tokens
    batch.weights[i] = i < supervised ? 1 : 0
  }
  return batch
}

/** The same network with other layers, of those that config.json has per layer only so many. */
function shortened({ config }: Definition, layers: number): Definition {
  const source: Record<string, unknown> = { ...config.source }
  for (const name of ['n_layer', 'num_hidden_layers']) if (name in source) source[name] = layers
  if (Array.isArray(source.layer_types)) source.layer_types = source.layer_types.slice(0, layers)
  return defineModel(source)
}
