/**
 * Whole iterations of a model on a GPU and on this machine's CPU, in turns: a prompt, a token of each of many
 * sequences, a token of one. What the executor computes for one plan, without HTTP, sampling or scheduling.
 *
 * The GPU is the one that `ROPEWAY_DEVICE` names ('auto' takes the first); without one the CPU stands on both sides,
 * by plain ggml and by our kernels, and the record says so.
 */
import { availableParallelism } from 'node:os'
import { openModel } from '../src/models/open.ts'
import { loadKernels } from '../src/runtime/kernels.ts'
import { type Bench, type Findings, runFromCommandLine } from './harness/bench.ts'
import { interleave, rounded } from './harness/comparison.ts'
import { decodes, prompt, Way } from './iterations.ts'

const parameters = {
  pairs: { small: 1, large: 3 },
  /** Of the CPU's side; never more than there are. */
  threads: { small: 1, large: 16 },
  iterations: { small: 1, large: 5 },
  restMs: { small: 0, large: 100 },
  promptTokens: { small: 24, large: 512 },
  sequences: { small: 3, large: 32 },
  context: { small: 16, large: 256 },
} as const

export const gpuBench: Bench<typeof parameters> = {
  name: 'gpu',
  parameters,
  run: async (given, { modelPath, say }): Promise<Findings> => {
    const wanted = { ...given, threads: Math.min(given.threads, availableParallelism()) }
    const kernels = loadKernels()
    using model = openModel(modelPath)
    using gpu = new Way('gpu', model, wanted, undefined, process.env.ROPEWAY_DEVICE ?? 'auto')
    using cpu = new Way('cpu', model, wanted, kernels)
    say(`${gpu.description} beside ${cpu.description}, ${wanted.threads} threads`)
    const scenes = {
      [`prompt${wanted.promptTokens}TokensPerSecond`]: prompt(wanted),
      [`decode${wanted.sequences}TokensPerSecond`]: decodes(wanted.sequences, wanted),
      decode1TokensPerSecond: decodes(1, wanted),
    }
    const comparisons = []
    const figures: Record<string, number> = {}
    for (const [figure, sequences] of Object.entries(scenes)) {
      // The first computation builds the graph (and, on a GPU, the driver its code), the second on a GPU is recorded.
      const first = performance.now()
      await gpu.executor.execute({ sequences })
      figures[figure.replace('TokensPerSecond', 'FirstMs')] = rounded(performance.now() - first)
      const sides = [gpu.side(wanted, figure, sequences), cpu.side(wanted, figure, sequences)] as const
      for (const side of sides) await side.run(-1)
      comparisons.push(...(await interleave(wanted.pairs, ...sides, say)))
    }
    return { figures, comparisons, chosen: { gpu: gpu.description, kernels: cpu.executor.kernelSet } }
  },
}

await runFromCommandLine(import.meta.url, gpuBench)
