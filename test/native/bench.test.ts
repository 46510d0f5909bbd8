import { dirname, join } from 'node:path'
import { expect, test } from 'vitest'
import { avx2Bench } from '../../bench/avx2.ts'
import { valuesOf } from '../../bench/harness/bench.ts'
import { kernelsBench } from '../../bench/kernels.ts'
import { OwnProduct } from '../../bench/onednn.ts'
import { perplexityBench } from '../../bench/perplexity.ts'
import { portableBench } from '../../bench/portable.ts'
import { Device } from '../../src/runtime/device.ts'
import { loadKernels } from '../../src/runtime/kernels.ts'
import { sharedData } from '../shared.ts'
import { everyKernels } from './tensors.ts'

// What serves here: none by ROPEWAY_KERNELS=ggml.
const kernels = loadKernels()

test.skipIf(kernels === undefined)(
  'the bench of the kernels measures every figure on both sides',
  async () => {
    const small = valuesOf(kernelsBench.parameters, 'small')
    const { comparisons } = await kernelsBench.run(small, { modelPath: 'none', say: () => undefined })
    expect(comparisons.length).toBeGreaterThan(20)
    for (const { values } of comparisons)
      for (const pair of values) expect(Math.min(...pair)).toBeGreaterThan(0)
  },
)

test
  .skipIf(!everyKernels.some(({ instructionSet }) => instructionSet === 'avx2'))
  .each([avx2Bench, portableBench])(
  'the bench of $name beside ggml measures every figure on both sides',
  async (bench) => {
    const small = valuesOf(bench.parameters, 'small')
    const { comparisons } = await bench.run(small, { modelPath: 'none', say: () => undefined })
    expect(comparisons.length).toBeGreaterThan(30)
    for (const { values } of comparisons)
      for (const pair of values) expect(Math.min(...pair)).toBeGreaterThan(0)
  },
)

test.skipIf(everyKernels.length === 0).each(['bf16', 'q8'] as const)(
  'the product that stands beside oneDNN in %s runs',
  (packed) => {
    using device = new Device({ device: 'cpu', threads: 2 })
    const product = { kind: packed, packed, rows: 3, inputs: 64, outputs: 40, threads: 2 }
    using own = new OwnProduct(everyKernels[0]!, device, product)
    expect(own.quickestMs()).toBeGreaterThan(0)
  },
)

const stories = sharedData('text', 'tinystories-val.txt')
test.skipIf(kernels === undefined || stories === undefined)(
  'the bench of perplexities finds bfloat16 and int8 near F32',
  async () => {
    const small = valuesOf(perplexityBench.parameters, 'small')
    const modelPath = join(dirname(stories!), '..')
    const { figures } = await perplexityBench.run(small, { modelPath, say: () => undefined })
    for (const model of ['stories260K', 'babyllama-char-1M']) {
      // A few dozen tokens only: the bars are for the large size.
      expect(Math.abs(figures[`${model} weights BF16 cache F16 movedPercent`]!)).toBeLessThan(1)
      expect(Math.abs(figures[`${model} weights Q8_0 cache F16 movedPercent`]!)).toBeLessThan(3)
    }
  },
)
