/**
 * The engine on a GPU under the mix of lengths of serve-vs-node-llama-cpp: output tokens a second by how many requests
 * are in flight. The device is the one that `ROPEWAY_DEVICE` names, 'auto' when absent.
 */
import { type Bench, type Findings, runFromCommandLine } from './harness/bench.ts'
import { rounded, spreadOf } from './harness/comparison.ts'
import { Ropeway, ranOn } from './harness/ropeway.ts'
import { latencyPerTokenMs, mixedWorkload, outputTokensPerSecond } from './harness/workload.ts'

const parameters = {
  /** Measured turns of each number in flight; a first one is not, as it meets every shape anew. */
  turns: { small: 1, large: 3 },
  few: { small: 2, large: 16 },
  many: { small: 3, large: 64 },
  requestsOfEach: { small: 2, large: 3 },
  promptMin: { small: 4, large: 32 },
  promptMax: { small: 16, large: 512 },
  outputMin: { small: 1, large: 1 },
  outputMax: { small: 8, large: 128 },
} as const

export const gpuServeBench: Bench<typeof parameters> = {
  name: 'gpu-serve',
  parameters,
  run: async (wanted, { modelPath, say }): Promise<Findings> => {
    const device = process.env.ROPEWAY_DEVICE ?? 'auto'
    // Room for all at their longest: what is measured is computing, not waiting for places.
    const cacheTokens = wanted.many * (wanted.promptMax + wanted.outputMax)
    await using ropeway = await Ropeway.start({ modelPath, threads: 0, setup: { device, cacheTokens } })
    const figures: Record<string, number> = {}
    for (const concurrency of [wanted.few, wanted.many]) {
      const speeds: number[] = []
      const latencies: number[] = []
      for (let turn = -1; turn < wanted.turns; turn++) {
        const deliveries = await ropeway.run(
          mixedWorkload(
            concurrency * wanted.requestsOfEach,
            concurrency,
            { min: wanted.promptMin, max: wanted.promptMax },
            { min: wanted.outputMin, max: wanted.outputMax },
            ropeway.vocabularySize,
            300 + turn,
          ),
        )
        const speed = outputTokensPerSecond(deliveries)
        say(`${concurrency} in flight, turn ${turn + 1}: ${speed.toFixed(0)} output tokens/s`)
        if (turn < 0) figures[`firstOutputTokensPerSecond@${concurrency}`] = rounded(speed)
        else {
          speeds.push(speed)
          latencies.push(latencyPerTokenMs(deliveries))
        }
      }
      const { median, min, max } = spreadOf(speeds)
      figures[`outputTokensPerSecond@${concurrency}`] = rounded(median)
      figures[`outputTokensPerSecondLeast@${concurrency}`] = rounded(min)
      figures[`outputTokensPerSecondMost@${concurrency}`] = rounded(max)
      figures[`latencyPerTokenMs@${concurrency}`] = rounded(spreadOf(latencies).median)
    }
    const { versions, chosen } = ranOn(ropeway)
    return { figures, comparisons: [], versions, chosen: { ...chosen, device: ropeway.engine.info.device } }
  },
}

await runFromCommandLine(import.meta.url, gpuServeBench)
