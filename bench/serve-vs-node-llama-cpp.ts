/**
 * The same GGUF in Ropeway and in node-llama-cpp, each in a process of its own, in turns. Both get the same
 * prompts (token ids) and hand out every token as it comes; fresh prompts each turn keep prefix caches out.
 */
import { defaultThreads } from '../src/runtime/device.ts'
import {
  type Bench,
  type Findings,
  runFromCommandLine,
  type Surroundings,
  type Values,
} from './harness/bench.ts'
import { interleave, type Measured, type Side } from './harness/comparison.ts'
import type { Contender } from './harness/contender.ts'
import { installRival, NodeLlamaCpp } from './harness/node-llama-cpp.ts'
import { Ropeway } from './harness/ropeway.ts'
import {
  type Delivery,
  decodeTokensPerSecond,
  firstTokenMs,
  latencyPerTokenMs,
  mixedWorkload,
  outputTokensPerSecond,
  uniformWorkload,
  type Workload,
} from './harness/workload.ts'

const parameters = {
  pairs: { small: 1, large: 5 },
  threads: { small: 1, large: 0 },
  alonePromptTokens: { small: 4, large: 16 },
  aloneOutputTokens: { small: 8, large: 96 },
  requests: { small: 3, large: 32 },
  promptTokens: { small: 12, large: 255 },
  outputTokens: { small: 6, large: 32 },
  mixPairs: { small: 1, large: 2 },
  mixRequests: { small: 4, large: 48 },
  mixConcurrency: { small: 2, large: 16 },
  mixPromptMin: { small: 4, large: 32 },
  mixPromptMax: { small: 16, large: 512 },
  mixOutputMin: { small: 1, large: 1 },
  mixOutputMax: { small: 8, large: 128 },
} as const

type Wanted = Values<typeof parameters>

/** A workload by turn and what is read off its deliveries. */
interface Scene {
  name: string
  pairs: number
  workload: (turn: number) => Workload
  read: (deliveries: readonly Delivery[]) => Measured
}

function scenes(wanted: Wanted, vocabularySize: number): Scene[] {
  const { alonePromptTokens, aloneOutputTokens, requests, promptTokens, outputTokens } = wanted
  return [
    {
      name: 'alone',
      pairs: wanted.pairs,
      workload: (turn) =>
        uniformWorkload(1, alonePromptTokens, aloneOutputTokens, vocabularySize, 100 + turn),
      read: (deliveries) => ({ aloneDecodeTokensPerSecond: decodeTokensPerSecond(deliveries) }),
    },
    {
      name: 'together',
      pairs: wanted.pairs,
      workload: (turn) => uniformWorkload(requests, promptTokens, outputTokens, vocabularySize, 200 + turn),
      read: (deliveries) => ({
        togetherOutputTokensPerSecond: outputTokensPerSecond(deliveries),
        togetherDecodeTokensPerSecond: decodeTokensPerSecond(deliveries),
        togetherFirstTokenMedianMs: firstTokenMs(deliveries).median,
      }),
    },
    {
      name: 'mixed',
      pairs: wanted.mixPairs,
      workload: (turn) =>
        mixedWorkload(
          wanted.mixRequests,
          wanted.mixConcurrency,
          { min: wanted.mixPromptMin, max: wanted.mixPromptMax },
          { min: wanted.mixOutputMin, max: wanted.mixOutputMax },
          vocabularySize,
          300 + turn,
        ),
      read: (deliveries) => ({
        mixedOutputTokensPerSecond: outputTokensPerSecond(deliveries),
        mixedLatencyPerTokenMs: latencyPerTokenMs(deliveries),
      }),
    },
  ]
}

type StartRival = (threads: number, surroundings: Surroundings) => Promise<Contender>

/** The bench against any rival; tests put ourselves in its place, where no network is needed. */
export function serveAgainst(startRival: StartRival): Bench<typeof parameters> {
  return {
    name: 'serve-vs-node-llama-cpp',
    parameters,
    run: async (wanted, surroundings): Promise<Findings> => {
      const { modelPath, say } = surroundings
      const threads = wanted.threads || defaultThreads()
      await using ropeway = await Ropeway.start({ modelPath, threads })
      await using rival = await startRival(threads, surroundings)
      const comparisons = []
      const chosen: Record<string, string> = { threads: String(threads) }
      for (const scene of scenes(wanted, ropeway.vocabularySize).filter(({ pairs }) => pairs > 0)) {
        // A first, unmeasured turn: pages and graphs are warm, and the rival shows what suits it.
        await ropeway.run(scene.workload(-1))
        if (rival instanceof NodeLlamaCpp) chosen[scene.name] = await rival.choose(scene.workload(-1))
        else await rival.run(scene.workload(-1))
        const side = (contender: Contender): Side => ({
          name: contender.name,
          run: async (turn) => scene.read(await contender.run(scene.workload(turn))),
        })
        comparisons.push(...(await interleave(scene.pairs, side(ropeway), side(rival), say)))
      }
      return { figures: {}, comparisons, versions: { ...ropeway.versions, ...rival.versions }, chosen }
    },
  }
}

export const serveVsNodeLlamaCpp = serveAgainst((threads, { modelPath, say }) => {
  installRival(say)
  return NodeLlamaCpp.start({ modelPath, threads })
})

await runFromCommandLine(import.meta.url, serveVsNodeLlamaCpp)
