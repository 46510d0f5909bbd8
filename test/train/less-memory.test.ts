/** Two ways to train with less memory, which must not change what is learned. */
import { afterAll, describe, expect, test } from 'vitest'
import { Device } from '../../src/runtime/device.ts'
import { loadKernels } from '../../src/runtime/kernels.ts'
import { type Batch, emptyBatch } from '../../src/train/batch.ts'
import { LossGraph } from '../../src/train/loss-graph.ts'
import type { LoraOptions } from '../../src/train/methods/method.ts'
import { modelConfig } from '../../src/train/model-config.ts'
import type { GraphShape } from '../../src/train/objective.ts'
import { createModel, type Parameters } from '../../src/train/parameters.ts'
import { adaptedModel } from '../../src/train/prepare-model.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { testFolder } from './data/folder.ts'
import { tinyJob } from './tiny-job.ts'

const device = new Device({ device: 'cpu', threads: 1 })
afterAll(() => device.dispose())
const folder = testFolder()

const vocabulary = 300
const [sequences, tokens] = [3, 20]

function modelOf(
  architecture: 'llama' | 'qwen2' | 'qwen3' | 'gemma3_text' | 'olmoe' | 'gpt2',
  layers = 6,
): Parameters {
  const sizes = { architecture, layers, width: 24, heads: 4, bias: true, tied: architecture !== 'qwen2' }
  const special = { vocabularySize: vocabulary, bosToken: undefined, eosToken: 0 }
  return createModel(modelConfig(sizes, tokens, special), 7, device)
}

/** Two documents a row; of every three targets one is masked. */
function batchOf(): Batch {
  const batch = emptyBatch(sequences, tokens)
  for (let i = 0; i < batch.ids.length; i++) {
    const column = i % tokens
    batch.ids[i] = (i * i + 5 * i) % vocabulary
    batch.targets[i] = (i * i + 7 * i + 6) % vocabulary
    batch.positions[i] = column < 8 ? column : column - 8
    batch.documents![i] = column < 8 ? 0 : 1
    batch.weights[i] = i % 3 === 0 || column === 7 ? 0 : 1
  }
  return batch
}

async function learned(parameters: Parameters, shape: Partial<GraphShape>) {
  parameters.clearGradients()
  using graph = new LossGraph(parameters, device, { sequences, tokens, packed: true, ...shape }, 'train')
  const loss = await graph.run(batchOf(), 0.1)
  const gradients = parameters.all.map(({ gradient }) => gradient.toFloats())
  return { loss, gradients, bytes: graph.scratchBytes }
}

type Learned = Awaited<ReturnType<typeof learned>>

/** Largest difference of a gradient's number, as a share of the largest number of that gradient. */
function apart(a: Learned, b: Learned): number {
  const shares = a.gradients.map((values, i) => {
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-6)
    return (
      values.reduce((most, value, j) => Math.max(most, Math.abs(value - b.gradients[i]![j]!)), 0) / largest
    )
  })
  return Math.max(...shares)
}

describe.each(['llama', 'qwen2', 'qwen3', 'gemma3_text', 'olmoe', 'gpt2'] as const)('%s', (architecture) => {
  test('activations that are computed again give the same gradients, bit for bit, in less memory', async () => {
    using parameters = modelOf(architecture)
    const plain = await learned(parameters, {})
    const again = await learned(parameters, { recompute: true })
    expect(again.loss).toBe(plain.loss)
    for (const [i, gradient] of plain.gradients.entries())
      expect(again.gradients[i], parameters.all[i]!.spec.name).toEqual(gradient)
    expect(again.bytes).toBeLessThan(0.6 * plain.bytes)
  })

  test('a head in chunks gives the same loss and gradients to rounding, in less memory', async () => {
    using parameters = modelOf(architecture, 1)
    const plain = await learned(parameters, {})
    const chunked = await learned(parameters, { logitsBytesMax: 1 })
    expect(chunked.loss).toBeCloseTo(plain.loss, 5)
    expect(apart(plain, chunked)).toBeLessThan(1e-5)
    expect(chunked.bytes).toBeLessThan(plain.bytes)
  })

  test('chunks of gathered rows, with activations computed again, too', async () => {
    using parameters = modelOf(architecture)
    const plain = await learned(parameters, {})
    const all = await learned(parameters, { logitsBytesMax: 1, recompute: true, supervisedMax: 39 })
    expect(all.loss).toBeCloseTo(plain.loss, 5)
    expect(apart(plain, all)).toBeLessThan(1e-5)
  })
})

test('activations that only products read are kept in bfloat16 where those are', async () => {
  using parameters = modelOf('llama', 4)
  const plain = await learned(parameters, {})
  const narrow = await learned(parameters, { precision: 'bf16' })
  expect(narrow.loss / plain.loss).toBeCloseTo(1, 2)
  if (loadKernels() !== undefined) expect(narrow.bytes).toBeLessThan(0.85 * plain.bytes)
})

test('the deeper the model, the more of its memory is spared', async () => {
  const ratio = async (layers: number) => {
    using parameters = modelOf('llama', layers)
    return (await learned(parameters, {})).bytes / (await learned(parameters, { recompute: true })).bytes
  }
  const [shallow, deep] = [await ratio(4), await ratio(16)]
  expect(deep).toBeGreaterThan(1.5 * shallow)
})

test('adapters beside a quantised model learn the same, bit for bit, when activations are computed again', async () => {
  const model = { architecture: 'llama', layers: 3, heads: 2, width: 32 }
  const { folder: base } = await runTrainingJob(tinyJob(folder, { model, steps: 1 }))
  for (const dora of [false, true]) {
    const options: LoraOptions = {
      rank: 4,
      alpha: 8,
      targets: 'all',
      rank_stabilised: false,
      dora,
      quantize: 'q8_0',
    }
    using parameters = adaptedModel(base, options, 3, device)
    const { vocabularySize } = parameters.definition.config
    const batch = batchOf()
    for (const ids of [batch.ids, batch.targets])
      for (const [i, id] of ids.entries()) ids[i] = id % vocabularySize
    const gradientsOf = async (recompute: boolean) => {
      parameters.clearGradients()
      using graph = new LossGraph(parameters, device, { sequences, tokens, packed: true, recompute }, 'train')
      await graph.run(batch, 0.1)
      return parameters.all.map(({ gradient }) => gradient.toFloats())
    }
    expect(await gradientsOf(true)).toEqual(await gradientsOf(false))
  }
})
