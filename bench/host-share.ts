/**
 * What an iteration costs beside its arithmetic, and what the engine's process holds beside weights and
 * cache. Read from the trace, so that the time between iterations counts too: messages, the event loop's
 * turn, garbage collection.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { assert } from '../src/base/assert.ts'
import type { TraceLine } from '../src/serve/trace.ts'
import { type Bench, type Findings, runFromCommandLine } from './harness/bench.ts'
import { type Measured, roundedAll, spreadOf } from './harness/comparison.ts'
import { residentBytes } from './harness/resident.ts'
import { Ropeway, ranOn } from './harness/ropeway.ts'
import { uniformWorkload } from './harness/workload.ts'

const parameters = {
  repeats: { small: 1, large: 5 },
  threads: { small: 1, large: 0 },
  runningFew: { small: 1, large: 1 },
  runningSome: { small: 2, large: 8 },
  runningMany: { small: 3, large: 32 },
  promptTokens: { small: 8, large: 16 },
  outputTokens: { small: 12, large: 128 },
} as const

export const hostShare: Bench<typeof parameters> = {
  name: 'host-share',
  parameters,
  run: async (wanted, { modelPath, say }) => {
    const { promptTokens, outputTokens, repeats } = wanted
    const counts = [wanted.runningFew, wanted.runningSome, wanted.runningMany]
    // The widest run fills the cache, so that its pages are resident and can be subtracted.
    const cacheTokens = wanted.runningMany * (promptTokens + outputTokens + 16)
    const folder = mkdtempSync(join(tmpdir(), 'ropeway-bench-'))
    const traceFile = join(folder, 'trace.ndjson')
    try {
      let memory: Measured
      let ran: Pick<Findings, 'versions' | 'chosen'>
      {
        await using ropeway = await Ropeway.start({
          modelPath,
          threads: wanted.threads,
          setup: { traceFile, cacheTokens },
        })
        const { vocabularySize } = ropeway
        for (let repeat = 0; repeat < repeats; repeat++) {
          for (const [i, count] of counts.entries()) {
            await ropeway.run(
              uniformWorkload(count, promptTokens, outputTokens, vocabularySize, repeat * 10 + i),
            )
          }
        }
        memory = memoryOf(ropeway)
        ran = ranOn(ropeway)
      }
      const lines = readTrace(traceFile)
      const shares = counts.map((count) => shareAt(lines, count))
      for (const share of shares) say(JSON.stringify(share))
      const figures = roundedAll({ ...Object.assign({}, ...shares), ...memory })
      return { figures, comparisons: [], ...ran }
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  },
}

function readTrace(path: string): TraceLine[] {
  const lines = readFileSync(path, 'utf8').trim().split('\n')
  return lines.map((line) => JSON.parse(line) as TraceLine)
}

/** From iterations in which exactly `count` requests computed one token each, and the next did too. */
function shareAt(lines: readonly TraceLine[], count: number): Measured {
  const decodes = (line: TraceLine | undefined) =>
    line?.sequences.length === count && line.sequences.every((entry) => entry.count === 1)
  const steady = lines.flatMap((line, i) => {
    const next = lines[i + 1]
    if (!decodes(line) || !decodes(next)) return []
    const wallMs = next!.timeMs - line.timeMs
    return [{ wallMs, computeMs: line.computeMs, hostMs: line.hostMs }]
  })
  assert(steady.length > 0, `there are iterations with ${count} running`)
  const total = (pick: (line: (typeof steady)[number]) => number) =>
    steady.reduce((sum, line) => sum + pick(line), 0)
  const wallMs = total((line) => line.wallMs)
  return {
    [`iterationMs@${count}`]: spreadOf(steady.map((line) => line.wallMs)).median,
    [`outsideMs@${count}`]: spreadOf(steady.map((line) => line.wallMs - line.computeMs)).median,
    [`outsidePercent@${count}`]: (100 * total((line) => line.wallMs - line.computeMs)) / wallMs,
    [`hostPercent@${count}`]: (100 * total((line) => line.hostMs)) / wallMs,
  }
}

function memoryOf({ engine }: Ropeway): Measured {
  const { weightBytes, cacheBytes } = engine.info
  const resident = residentBytes(engine.pid!)
  const mebibytes = (bytes: number) => bytes / 2 ** 20
  return {
    residentMiB: mebibytes(resident),
    weightsMiB: mebibytes(weightBytes),
    cacheMiB: mebibytes(cacheBytes),
    besideWeightsAndCacheMiB: mebibytes(resident - weightBytes - cacheBytes),
  }
}

await runFromCommandLine(import.meta.url, hostShare)
