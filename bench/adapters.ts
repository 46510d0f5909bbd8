/**
 * What adapters cost: one decode iteration of many sequences without any, with one adapter for all, and with
 * adapters mixed, in turns. Adapters change every product inside the layers.
 */
import { Random } from '../src/base/random.ts'
import { type AdapterLayer, adaptableProducts } from '../src/models/adapter.ts'
import { openModel } from '../src/models/open.ts'
import type { Definition } from '../src/models/registry.ts'
import { loadWeights } from '../src/models/weights.ts'
import { Device } from '../src/runtime/device.ts'
import { loadKernels } from '../src/runtime/kernels.ts'
import type { SequenceWork } from '../src/serve/executor.ts'
import { ModelExecutor } from '../src/serve/model-executor.ts'
import { type Bench, type Findings, runFromCommandLine } from './harness/bench.ts'
import { type Comparison, interleave, type Side } from './harness/comparison.ts'

const parameters = {
  pairs: { small: 1, large: 7 },
  threads: { small: 1, large: 2 },
  sequences: { small: 4, large: 32 },
  context: { small: 16, large: 128 },
  adapters: { small: 2, large: 8 },
  rank: { small: 4, large: 16 },
  iterations: { small: 2, large: 4 },
} as const

function randomAdapter(definition: Definition, rank: number, seed: number): Map<string, AdapterLayer> {
  const random = new Random(seed)
  const values = (count: number) =>
    Float32Array.from({ length: count }, () => 0.02 * (random.uniform() - 0.5))
  const layers = new Map<string, AdapterLayer>()
  for (const [name, [outputs, inputs]] of adaptableProducts(definition)) {
    const [a, b] = [values(rank * inputs), values(outputs * rank)]
    layers.set(name, { name, inputs, outputs, rank, scale: 1, a, b, magnitude: undefined })
  }
  return layers
}

export const adaptersBench: Bench<typeof parameters> = {
  name: 'adapters',
  parameters,
  run: async (wanted, { modelPath, say }): Promise<Findings> => {
    using device = new Device({ device: 'cpu', threads: wanted.threads })
    using model = openModel(modelPath)
    using weights = loadWeights(model, device, { kernels: loadKernels() })
    const blocks = Math.ceil((wanted.context + 1) / 16)
    const cacheTokens = wanted.sequences * blocks * 16
    const executor = new ModelExecutor(model.definition, weights, device, { cacheTokens })
    try {
      for (let i = 0; i < wanted.adapters; i++)
        await executor.addAdapter(`a${i}`, randomAdapter(model.definition, wanted.rank, i))
      const sequences = (adapterOf: (i: number) => string | undefined) =>
        Array.from({ length: wanted.sequences }, (_, i): SequenceWork => {
          const adapter = adapterOf(i)
          return {
            blocks: Array.from({ length: blocks }, (_, block) => i * blocks + block),
            start: wanted.context,
            tokens: [i],
            outputs: 1,
            ...(adapter !== undefined && { adapter }),
          }
        })
      const side = (name: string, work: SequenceWork[]): Side => ({
        name,
        run: async () => {
          let quickest = Number.POSITIVE_INFINITY
          for (let i = 0; i < wanted.iterations; i++)
            quickest = Math.min(quickest, (await executor.execute({ sequences: work })).computeMs)
          return { iterationMs: quickest }
        },
      })
      const none = side(
        'no adapters',
        sequences(() => undefined),
      )
      const one = side(
        'one adapter',
        sequences(() => 'a0'),
      )
      const mixed = side(
        `${wanted.adapters} adapters mixed`,
        sequences((i) => `a${i % wanted.adapters}`),
      )
      const comparisons: Comparison[] = []
      for (const [first, second] of [
        [mixed, none],
        [mixed, one],
        [one, none],
      ] as const)
        comparisons.push(...(await interleave(wanted.pairs, first, second, say)))
      const adapterMiB = executor.adapters.bytes / wanted.adapters / 2 ** 20
      return { figures: { adapterMiB }, comparisons, chosen: { kernels: executor.kernelSet } }
    } finally {
      executor.dispose()
    }
  },
}

await runFromCommandLine(import.meta.url, adaptersBench)
