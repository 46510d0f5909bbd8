import { expect, test } from 'vitest'
import { valuesOf } from '../../bench/harness/bench.ts'
import { kernelsBench } from '../../bench/kernels.ts'
import { everyKernels } from './tensors.ts'

test.skipIf(everyKernels.length === 0)(
  'the bench of the kernels measures every figure on both sides',
  async () => {
    const small = valuesOf(kernelsBench.parameters, 'small')
    const { comparisons } = await kernelsBench.run(small, { modelPath: 'none', say: () => undefined })
    expect(comparisons.length).toBeGreaterThan(20)
    for (const { values } of comparisons)
      for (const pair of values) expect(Math.min(...pair)).toBeGreaterThan(0)
  },
)
