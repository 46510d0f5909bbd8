/**
 * Our kernels for machines without AVX2 beside ggml's build for Ivy Bridge, the best of those that have none, on whatever
 * machine this is: `ROPEWAY_GGML_CPU=ivybridge npx tsx bench/portable.ts --model none`.
 */
import { benchOfSet } from './avx2.ts'
import { runFromCommandLine } from './harness/bench.ts'

export const portableBench = benchOfSet('portable')

await runFromCommandLine(import.meta.url, portableBench)
