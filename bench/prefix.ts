/**
 * Many streams that share a long prefix and arrive at once, with the prefix cache off and on. Nobody has
 * computed the prefix before: with the cache on, the first request computes it and the others wait for that.
 */
import { Random } from '../src/base/random.ts'
import { type Bench, runFromCommandLine, type Values } from './harness/bench.ts'
import { interleave, type Side } from './harness/comparison.ts'
import { Ropeway, ranOn } from './harness/ropeway.ts'
import { firstTokenMs, outputTokensPerSecond, randomPrompt, type Workload } from './harness/workload.ts'

const parameters = {
  pairs: { small: 1, large: 5 },
  threads: { small: 1, large: 0 },
  streams: { small: 4, large: 64 },
  prefixTokens: { small: 48, large: 1000 },
  ownTokens: { small: 4, large: 16 },
  outputTokens: { small: 2, large: 8 },
} as const

export const prefix: Bench<typeof parameters> = {
  name: 'prefix',
  parameters,
  run: async (wanted, { modelPath, say }) => {
    const { threads, streams, prefixTokens, ownTokens, outputTokens } = wanted
    const cacheTokens = streams * (prefixTokens + ownTokens + outputTokens + 16)
    const start = (prefixCache: boolean) =>
      Ropeway.start({ modelPath, threads, setup: { cacheTokens, scheduler: { prefixCache } } })
    await using off = await start(false)
    await using on = await start(true)
    const { vocabularySize } = on
    for (const ropeway of [off, on]) {
      await ropeway.run(sharingWorkload({ ...wanted, streams: 2 }, vocabularySize, 99))
    }
    const side = (name: string, ropeway: Ropeway): Side => ({
      name,
      run: async (turn) => {
        const deliveries = await ropeway.run(sharingWorkload(wanted, vocabularySize, 100 + turn))
        const { median, p90 } = firstTokenMs(deliveries)
        const perSecond = outputTokensPerSecond(deliveries)
        return { firstTokenMedianMs: median, firstTokenP90Ms: p90, outputTokensPerSecond: perSecond }
      },
    })
    const comparisons = await interleave(
      wanted.pairs,
      side('prefix cache off', off),
      side('prefix cache on', on),
      say,
    )
    const { cachedTokens, promptTokens } = await on.engine.gauges()
    return { figures: { cachedTokens, promptTokens }, comparisons, ...ranOn(on) }
  },
}

function sharingWorkload(
  { streams, prefixTokens, ownTokens, outputTokens }: Values<typeof parameters>,
  vocabularySize: number,
  seed: number,
): Workload {
  const random = new Random(seed)
  const shared = randomPrompt(random, prefixTokens, vocabularySize)
  const items = Array.from({ length: streams }, () => ({
    prompt: [...shared, ...randomPrompt(random, ownTokens, vocabularySize)],
    outputTokens,
  }))
  return { items, concurrency: streams }
}

await runFromCommandLine(import.meta.url, prefix)
