/**
 * Our AVX2 kernels beside ggml's build for Haswell, which has AVX2 and no more, on whatever machine this is:
 * `ROPEWAY_GGML_CPU=haswell npx tsx bench/avx2.ts --model none`.
 */
import { UserError } from '../src/base/errors.ts'
import { Device } from '../src/runtime/device.ts'
import { openKernels } from '../src/runtime/kernels.ts'
import {
  type Bench,
  type Findings,
  runFromCommandLine,
  type Surroundings,
  type Values,
} from './harness/bench.ts'
import type { Comparison } from './harness/comparison.ts'
import { attentionShapes, compareDecode, compareTraining, Products, parameters as shared } from './kernels.ts'

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
  { dtype: 'Q4_0', packed: 'q4' },
  { dtype: 'Q4_K', packed: 'q4k' },
  { dtype: 'Q5_K', packed: 'q5k' },
  { dtype: 'Q6_K', packed: 'q6k' },
  { dtype: 'F16', packed: 'f16' },
  { dtype: 'BF16', packed: 'bf16' },
  { dtype: 'F32', packed: 'f32' },
] as const

async function run(wanted: Values<typeof parameters>, { say }: Surroundings): Promise<Findings> {
  const status = openKernels('avx2')
  if (status.kernels === undefined)
    throw new UserError(`There are no kernels: ${status.reason}.`, { fix: status.fix })
  const { kernels, compiler } = status
  using device = new Device({ device: 'cpu', threads: wanted.threads })
  const comparisons: Comparison[] = []
  for (const weight of weights) {
    using products = new Products(device, kernels, wanted, weight)
    for (const rows of [1, 4, 16, 128, 512]) {
      if (rows <= wanted.rowsMax) comparisons.push(...(await products.compare(rows, say)))
    }
  }
  for (const shape of attentionShapes) {
    comparisons.push(...(await compareDecode(device, kernels, wanted, shape, say)))
  }
  comparisons.push(...(await compareTraining(device, kernels, wanted, say)))
  const chosen = { kernels: 'avx2', ggml: process.env.ROPEWAY_GGML_CPU ?? 'the best here' }
  return { figures: {}, comparisons, chosen, versions: { compiler } }
}

export const avx2Bench: Bench<typeof parameters> = { name: 'avx2', parameters, run }

await runFromCommandLine(import.meta.url, avx2Bench)
