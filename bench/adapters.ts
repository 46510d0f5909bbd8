/**
 * What adapters cost: one adapter for all sequences beside none, and mixed adapters beside one for all, in turns; by
 * rank, number of adapters and rows, decodes and prompts. Adapters change every product inside the layers. Both sides take
 * turns iteration by iteration, by the clock and by the processor's time: the latter counts no neighbour's share.
 */
import { cpuUsage } from 'node:process'
import { Random } from '../src/base/random.ts'
import { type AdapterLayer, adaptableProducts } from '../src/models/adapter.ts'
import { openModel } from '../src/models/open.ts'
import type { Definition } from '../src/models/registry.ts'
import { loadWeights } from '../src/models/weights.ts'
import { Device } from '../src/runtime/device.ts'
import { loadKernels } from '../src/runtime/kernels.ts'
import type { SequenceWork } from '../src/serve/executor.ts'
import { ModelExecutor } from '../src/serve/model-executor.ts'
import { type Bench, type Findings, runFromCommandLine, type Values } from './harness/bench.ts'
import { type Comparison, interleave, type Side } from './harness/comparison.ts'

const parameters = {
  /** Turns of one iteration each, so many that their median stands still. */
  pairs: { small: 1, large: 9 },
  threads: { small: 1, large: 2 },
  sequences: { small: 4, large: 32 },
  context: { small: 16, large: 128 },
  promptTokens: { small: 8, large: 128 },
  adaptersMost: { small: 2, large: 32 },
  rankMost: { small: 8, large: 64 },
  /** Of a turn, the quickest counts. */
  iterations: { small: 2, large: 1 },
} as const

type Wanted = Values<typeof parameters>

const adapterCounts = [2, 8, 32] as const
const ranks = [8, 16, 64] as const
const blockTokens = 16

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

/** Work of `count` sequences, each with the adapter that `adapterOf` names. */
function workOf(
  wanted: Wanted,
  count: number,
  kind: 'decode' | 'prompt',
  adapterOf: (i: number) => string | undefined,
): SequenceWork[] {
  const perSequence = Math.ceil((wanted.context + wanted.promptTokens + 1) / blockTokens)
  const tokens = kind === 'decode' ? 1 : Math.ceil(wanted.promptTokens / count)
  return Array.from({ length: count }, (_, i): SequenceWork => {
    const adapter = adapterOf(i)
    return {
      blocks: Array.from({ length: perSequence }, (_, block) => i * perSequence + block),
      start: kind === 'decode' ? wanted.context : 0,
      tokens: Array.from({ length: tokens }, (_, t) => i + t + 1),
      outputs: 1,
      ...(adapter !== undefined && { adapter }),
    }
  })
}

function sideOf(
  executor: ModelExecutor,
  { iterations }: Wanted,
  figure: string,
  name: string,
  work: SequenceWork[],
): Side {
  return {
    name,
    run: async () => {
      let [iterationMs, processorMs] = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY]
      for (let i = 0; i < iterations; i++) {
        const before = cpuUsage()
        iterationMs = Math.min(iterationMs, (await executor.execute({ sequences: work })).computeMs)
        const { user, system } = cpuUsage(before)
        processorMs = Math.min(processorMs, (user + system) / 1000)
      }
      return { [`${figure}IterationMs`]: iterationMs, [`${figure}ProcessorMs`]: processorMs }
    },
  }
}

/** One rank: every number of rows, decodes and a prompt's tokens shared among as many sequences as adapters. */
async function compareRank(
  executor: ModelExecutor,
  wanted: Wanted,
  rank: number,
  say: (line: string) => void,
): Promise<Comparison[]> {
  const comparisons: Comparison[] = []
  const compare = async (figure: string, kind: 'decode' | 'prompt', rows: number, adapters: number) => {
    const side = (name: string, adapterOf: (i: number) => string | undefined) =>
      sideOf(executor, wanted, figure, name, workOf(wanted, rows, kind, adapterOf))
    const [mixed, one] = [adapters, 1].map((count) =>
      side(`${count} adapters`, (i) => `r${rank}a${i % count}`),
    ) as [Side, Side]
    const rival = adapters === 1 ? side('no adapters', () => undefined) : one
    for (const unmeasured of [mixed, rival]) await unmeasured.run(0)
    comparisons.push(...(await interleave(wanted.pairs, mixed, rival, say)))
  }
  for (const rows of new Set([1, Math.min(8, wanted.sequences), wanted.sequences]))
    for (const adapters of new Set([1, ...adapterCounts]))
      if (adapters <= Math.min(rows, wanted.adaptersMost))
        await compare(`decode${rows}Rank${rank}`, 'decode', rows, adapters)
  for (const adapters of [1, 2, 8])
    if (adapters <= Math.min(wanted.sequences, wanted.adaptersMost))
      await compare(`prompt${wanted.promptTokens}Rank${rank}`, 'prompt', adapters, adapters)
  return comparisons
}

export const adaptersBench: Bench<typeof parameters> = {
  name: 'adapters',
  parameters,
  run: async (wanted, { modelPath, say }): Promise<Findings> => {
    using device = new Device({ device: 'cpu', threads: wanted.threads })
    using model = openModel(modelPath)
    using weights = loadWeights(model, device, { kernels: loadKernels() })
    const perSequence = Math.ceil((wanted.context + wanted.promptTokens + 1) / blockTokens)
    const cacheTokens = wanted.sequences * perSequence * blockTokens
    const executor = new ModelExecutor(model.definition, weights, device, { cacheTokens })
    try {
      const comparisons: Comparison[] = []
      const figures: Record<string, number> = {}
      for (const rank of ranks.filter((rank) => rank <= wanted.rankMost)) {
        const before = executor.adapters.bytes
        const names = Array.from({ length: wanted.adaptersMost }, (_, i) => `r${rank}a${i}`)
        // The same numbers for all: each has memory of its own, which is what counts.
        const layers = randomAdapter(model.definition, rank, rank)
        for (const name of names) await executor.addAdapter(name, layers)
        figures[`rank${rank}AdapterMiB`] = (executor.adapters.bytes - before) / names.length / 2 ** 20
        comparisons.push(...(await compareRank(executor, wanted, rank, say)))
        for (const name of names) executor.removeAdapter(name)
      }
      return { figures, comparisons, chosen: { kernels: executor.kernelSet } }
    } finally {
      executor.dispose()
    }
  },
}

await runFromCommandLine(import.meta.url, adaptersBench)
