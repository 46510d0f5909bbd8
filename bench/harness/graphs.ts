/** What benches of single products share: how a graph is timed, and numbers to run it on. */
import { Random } from '../../src/base/random.ts'
import type { Graph } from '../../src/runtime/graph.ts'

/** Milliseconds of the quickest of some runs: what other work on the machine adds is not ours to report. */
export function quickestMs(graph: Graph, runs = 3): number {
  let best = Number.POSITIVE_INFINITY
  for (let run = 0; run < runs; run++) {
    const startMs = performance.now()
    graph.compute()
    best = Math.min(best, performance.now() - startMs)
  }
  return best
}

/** Numbers from -0.5 to 0.5. */
export function noise(count: number, seed = 1): Float32Array {
  const random = new Random(seed)
  return Float32Array.from({ length: count }, () => random.uniform() - 0.5)
}
