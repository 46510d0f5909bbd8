/**
 * Our AVX2 kernels beside ggml's build for Haswell, which has AVX2 and no more, on whatever machine this is:
 * `ROPEWAY_GGML_CPU=haswell npx tsx bench/avx2.ts --model none`.
 */
import { openKernels } from '../src/runtime/kernels.ts'
import {
  type Bench,
  type Findings,
  runFromCommandLine,
  type Surroundings,
  type Values,
} from './harness/bench.ts'
import { compareKernels, parameters as shared } from './kernels.ts'

const parameters = {
  ...shared,
  threads: { small: 1, large: 1 },
  pairs: { small: 1, large: 3 },
  weightMiB: { small: 1, large: 64 },
  outputs: { small: 96, large: 2048 },
  trainingRows: { small: 8, large: 1024 },
} as const

const weights = [
  { dtype: 'Q8_0', packed: 'q8' },
  { dtype: 'Q4_0', packed: 'q4s' },
  { dtype: 'Q4_K', packed: 'q4k' },
  { dtype: 'Q5_K', packed: 'q5k' },
  { dtype: 'Q6_K', packed: 'q6k' },
  { dtype: 'F16', packed: 'f16' },
  { dtype: 'BF16', packed: 'bf16' },
  { dtype: 'F32', packed: 'f32' },
] as const

const rowCounts = [1, 4, 16, 128, 512] as const

/** One set of ours beside the build of ggml that `ROPEWAY_GGML_CPU` names. */
export function benchOfSet(set: 'avx2' | 'portable'): Bench<typeof parameters> {
  const run = async (wanted: Values<typeof parameters>, { say }: Surroundings): Promise<Findings> => {
    const found = await compareKernels(openKernels(set), wanted, { weights, rowCounts }, say)
    return { ...found, chosen: { kernels: set, ggml: process.env.ROPEWAY_GGML_CPU ?? 'the best here' } }
  }
  return { name: set, parameters, run }
}

export const avx2Bench = benchOfSet('avx2')

await runFromCommandLine(import.meta.url, avx2Bench)
