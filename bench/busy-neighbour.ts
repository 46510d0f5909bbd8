/**
 * Decode throughput beside a process that burns a core, against the same without it. Threads that spin at a
 * barrier while one of them is not scheduled lose far more than the core that was taken.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { defaultThreads } from '../src/runtime/device.ts'
import { type Bench, runFromCommandLine } from './harness/bench.ts'
import { type Comparison, interleave, type Side } from './harness/comparison.ts'
import { Ropeway } from './harness/ropeway.ts'
import { decodeTokensPerSecond, uniformWorkload } from './harness/workload.ts'

const parameters = {
  pairs: { small: 1, large: 5 },
  threadsFew: { small: 1, large: 1 },
  threadsMany: { small: 1, large: 0 },
  neighbours: { small: 1, large: 1 },
  running: { small: 3, large: 32 },
  promptTokens: { small: 8, large: 16 },
  outputTokens: { small: 12, large: 64 },
} as const

export const busyNeighbour: Bench<typeof parameters> = {
  name: 'busy-neighbour',
  parameters,
  run: async (wanted, { modelPath, say }) => {
    const { running, promptTokens, outputTokens } = wanted
    const comparisons: Comparison[] = []
    let versions = {}
    const threadCounts = new Set([wanted.threadsFew, wanted.threadsMany || defaultThreads()])
    for (const threads of threadCounts) {
      await using ropeway = await Ropeway.start({ modelPath, threads })
      versions = ropeway.versions
      const measure = async (turn: number) => {
        const seed = 100 * threads + turn + 1
        const workload = uniformWorkload(running, promptTokens, outputTokens, ropeway.vocabularySize, seed)
        const speed = decodeTokensPerSecond(await ropeway.run(workload))
        return { [`decodeTokensPerSecond@${threads}threads`]: speed }
      }
      await measure(-1)
      const busy: Side = {
        name: 'busy',
        run: (turn) => besideNeighbours(wanted.neighbours, () => measure(turn)),
      }
      const quiet: Side = { name: 'quiet', run: (turn) => measure(1000 + turn) }
      comparisons.push(...(await interleave(wanted.pairs, busy, quiet, say)))
    }
    return { figures: {}, comparisons, versions }
  },
}

/** Runs `work` while `count` other processes burn a core each. */
async function besideNeighbours<T>(count: number, work: () => Promise<T>): Promise<T> {
  const script = "process.stdout.write('burning'); for (;;) {}"
  const burners = Array.from({ length: count }, () =>
    spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] }),
  )
  try {
    await Promise.all(burners.map((burner) => once(burner.stdout!, 'data')))
    return await work()
  } finally {
    for (const burner of burners) burner.kill('SIGKILL')
  }
}

await runFromCommandLine(import.meta.url, busyNeighbour)
