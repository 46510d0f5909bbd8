/** Scores that heads have of their own (gpt-oss), where they learn. */
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { Device } from '../../src/runtime/device.ts'
import { loadKernels } from '../../src/runtime/kernels.ts'
import type { Batch } from '../../src/train/batch.ts'
import { LossGraph } from '../../src/train/loss-graph.ts'
import type { GraphShape } from '../../src/train/objective.ts'
import { loadModel, type Parameters } from '../../src/train/parameters.ts'
import { relativeError } from '../native/tensors.ts'
import {
  batchOf,
  countedModel,
  device,
  ownGoldens,
  readGolden,
  sequences,
  tokens,
  trainerOf,
} from './golden.ts'
import { temporaryFolder } from './temporary-folder.ts'

const kernels = loadKernels()
const golden = readGolden(join(ownGoldens, 'gpt_oss.json'))
const folder = countedModel(join(temporaryFolder('sinks', afterAll), 'model'), golden.config!)

const open = () => loadModel(folder, device)
const isSinks = (name: string) => name.endsWith('.sinks')
const sinksOf = (parameters: Parameters) => parameters.all.filter(({ spec }) => isSinks(spec.name))

/** Documents of 9, 3 and 12 tokens in a row: beside the model's windows of 8 some end before and some behind them. */
const batch: Batch = batchOf(1000, { packed: [9, 3, 12] })

/** Gradients of all parameters by name. */
async function learned(shape: Partial<GraphShape> = {}, threads = 1): Promise<Map<string, Float32Array>> {
  using own = new Device({ device: 'cpu', threads })
  using parameters = loadModel(folder, own)
  using graph = new LossGraph(parameters, own, { sequences, tokens, packed: true, ...shape }, 'train')
  await graph.run(batch, 0.1)
  return new Map(parameters.all.map(({ spec, gradient }) => [spec.name, gradient.toFloats()]))
}

describe.skipIf(kernels === undefined)('by our kernels', () => {
  test('gradients of packed rows are those of plain ggml, which keeps all scores', async () => {
    const [ours, plain] = [await learned(), await learned({ ownKernels: false })]
    for (const [name, gradient] of ours) {
      const theirs = plain.get(name)!
      if (isSinks(name)) expect(Math.max(...theirs.map(Math.abs)), name).toBeGreaterThan(1e-5)
      expect(relativeError(gradient, theirs), name).toBeLessThan(1e-4)
    }
  })

  test.each(['f32', 'bf16'] as const)(
    'gradients in %s have the same bits on any number of threads, and where activations are computed again',
    async (precision) => {
      const one = await learned({ precision })
      for (const threads of [2, 3]) expect(await learned({ precision }, threads)).toEqual(one)
      expect(await learned({ precision, recompute: true })).toEqual(one)
    },
  )

  test('a graph takes less memory than one matrix of all scores', () => {
    using parameters = open()
    const bytesOf = (count: number) => {
      using graph = new LossGraph(parameters, device, { sequences: 1, tokens: count }, 'train')
      return graph.scratchBytes
    }
    const [heads, most] = [4, 4096]
    expect(golden.config!.num_attention_heads).toBe(heads)
    expect(bytesOf(most)).toBeLessThan(4 * heads * most * (most + 1))
    expect(bytesOf(most) / bytesOf(most / 2)).toBeLessThan(2.05)
  })
})

test('a run moves every sink, by our kernels as by plain ggml', async () => {
  const after = async (shape: Partial<GraphShape>) => {
    using parameters = open()
    using trainer = trainerOf(parameters, golden.opt, shape)
    for (let step = 0; step < 5; step++) await trainer.step()
    return sinksOf(parameters).flatMap(({ weight }) => [...weight.toFloats()])
  }
  using parameters = open()
  const before = sinksOf(parameters).flatMap(({ weight }) => [...weight.toFloats()])
  const [ours, plain] = [await after({}), await after({ ownKernels: false })]
  const moved = plain.map((sink, i) => sink - before[i]!)
  expect(moved).toHaveLength(8)
  for (const way of moved) expect(Math.abs(way)).toBeGreaterThan(1e-3)
  expect(
    relativeError(
      ours.map((sink, i) => sink - before[i]!),
      moved,
    ),
  ).toBeLessThan(1e-3)
})
