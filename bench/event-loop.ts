/**
 * How long the HTTP server's event loop keeps its timers waiting while many clients stream. The server runs
 * here, the engine in its child, the clients in another process: what is measured is the server's own work
 * and what the operating system takes from it.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as pause } from 'node:timers/promises'
import { systemClock } from '../src/base/clock.ts'
import { loadTextModel } from '../src/cli/text-model.ts'
import { createOpenAiServer } from '../src/openai/server.ts'
import { type Bench, runFromCommandLine } from './harness/bench.ts'
import { type Measured, roundedAll } from './harness/comparison.ts'
import { Ropeway, ranOn } from './harness/ropeway.ts'
import { StreamingClients } from './harness/streaming-clients.ts'

const parameters = {
  threads: { small: 1, large: 0 },
  clients: { small: 3, large: 64 },
  promptTokens: { small: 8, large: 64 },
  outputTokens: { small: 16, large: 128 },
  idleMs: { small: 50, large: 5000 },
  measuredMs: { small: 200, large: 30000 },
} as const

/** Milliseconds between the samples of the monitor; each sample counts what came on top. */
const resolutionMs = 1

export const eventLoop: Bench<typeof parameters> = {
  name: 'event-loop',
  parameters,
  run: async (wanted, { modelPath, say }) => {
    const { clients, promptTokens, outputTokens } = wanted
    const text = loadTextModel(modelPath)
    await using ropeway = await Ropeway.start({
      modelPath,
      threads: wanted.threads,
      setup: { cacheTokens: clients * (promptTokens + outputTokens + 16) * 2 },
    })
    const { engine } = ropeway
    const models = [{ id: 'bench', created: 0 }]
    const server = createOpenAiServer({ engine, tokenizer: text.tokenizer, models })
    const url = await server.listen(0, '127.0.0.1')
    try {
      const idle = await delayDuring(() => pause(wanted.idleMs))
      say(`idle: ${JSON.stringify(idle)}`)
      await using crowd = StreamingClients.start({
        ...{ url, clients, promptTokens, outputTokens },
        vocabularySize: ropeway.vocabularySize,
      })
      await crowd.allStreaming
      const startedMs = systemClock.nowMs()
      const before = await engine.gauges()
      const full = await delayDuring(() => pause(wanted.measuredMs))
      const after = await engine.gauges()
      const seconds = (systemClock.nowMs() - startedMs) / 1000
      say(`${clients} streams: ${JSON.stringify(full)}`)
      const figures = {
        ...named('idle', idle),
        ...named('full', full),
        outputTokensPerSecond: (after.generatedTokens - before.generatedTokens) / seconds,
        events: await crowd.stop(),
      }
      return { figures: roundedAll(figures), comparisons: [], ...ranOn(ropeway) }
    } finally {
      await server.close(0)
    }
  },
}

async function delayDuring(work: () => Promise<unknown>): Promise<Measured> {
  const histogram = monitorEventLoopDelay({ resolution: resolutionMs })
  histogram.enable()
  await work()
  histogram.disable()
  const late = (nanoseconds: number) => Math.max(0, nanoseconds / 1e6 - resolutionMs)
  return {
    DelayP50Ms: late(histogram.percentile(50)),
    DelayP99Ms: late(histogram.percentile(99)),
    DelayMaxMs: late(histogram.max),
  }
}

function named(prefix: string, measured: Measured): Measured {
  return Object.fromEntries(Object.entries(measured).map(([name, value]) => [`${prefix}${name}`, value]))
}

await runFromCommandLine(import.meta.url, eventLoop)
