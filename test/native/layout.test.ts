import koffi from 'koffi'
import { describe, expect, test } from 'vitest'
import { loadGgml } from '../../src/runtime/ffi.ts'
import { everyKernels } from './tensors.ts'

describe.skipIf(everyKernels.length === 0)('the layout of struct ggml_tensor', () => {
  test('the offsets of native/tensor.h are those of the loaded ggml', () => {
    const ggml = loadGgml()
    const context = ggml.init({ mem_size: 1 << 16, mem_buffer: null, no_alloc: false })
    try {
      const a = ggml.newTensor4d(context, 0, 5, 7, 3, 2)
      const b = ggml.newTensor4d(context, 0, 5, 7, 3, 2)
      const args = new BigUint64Array([a, b])
      const dst = ggml.custom4d(
        context,
        0,
        9,
        4,
        1,
        1,
        args,
        2,
        everyKernels[0]!.address('rope_table'),
        -1,
        null,
      )
      ggml.setName(dst, 'ropeway')
      const found = new BigInt64Array(7)
      expect(everyKernels[0]!.symbols.tensorOffsets(found)).toBe(7)
      const [ne, nb, op, src, data, name, size] = [...found].map(Number)
      const bytes = new DataView(koffi.view(dst, size!))
      const long = (offset: number) => bytes.getBigUint64(offset, true)
      expect([0, 1, 2, 3].map((i) => Number(long(ne! + 8 * i)))).toEqual([9, 4, 1, 1])
      expect([0, 1, 2, 3].map((i) => Number(long(nb! + 8 * i)))).toEqual([4, 36, 144, 144])
      expect(bytes.getInt32(op!, true)).toBeGreaterThan(0)
      expect([long(src!), long(src! + 8), long(src! + 16)]).toEqual([a, b, 0n])
      expect(long(data!)).toBe(ggml.getData(dst))
      expect(koffi.decode(dst + BigInt(name!), 'char', 7)).toBe('ropeway')
    } finally {
      ggml.free(context)
    }
  })
})
