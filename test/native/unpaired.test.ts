import koffi from 'koffi'
import { vi } from 'vitest'

/**
 * Cascade Lake and Ice Lake have AVX-512 VNNI but do not multiply pairs of bfloat16. The tests of all that asks for them,
 * once more on the way that those processors take.
 */
vi.mock(import('./tensors.ts'), async (load) => {
  const tensors = await load()
  const everyKernels = tensors.everyKernels.filter(({ instructionSet }) => instructionSet === 'avx512')
  for (const { path } of everyKernels) koffi.load(path).func('void rw_forget_pairs()')()
  return { ...tensors, everyKernels, multipliesPairs: () => false }
})

for (const subject of ['linear', 'adapter', 'attention', 'matmul', 'frozen', 'training'])
  await import(`./${subject}.test.ts`)
