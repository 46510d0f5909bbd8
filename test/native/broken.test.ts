/**
 * Numbers that are none. Whoever made them (weights that diverged, sums that ran over) must hear of it: what such a row
 * becomes is no number either, so that its request fails, and no other row changes by a bit.
 */
import { describe, expect, test } from 'vitest'
import { dtypes } from '../../src/base/dtype.ts'
import type { BatchSequence } from '../../src/runtime/kernels.ts'
import { attend, Cache, formatted, storeRows } from './paged.ts'
import { activations, cases, packed, runLinear } from './products.ts'
import { everyKernels, fakeTensor, normals, sameBits } from './tensors.ts'
import { randomWeight } from './weights.ts'

const poisons = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]

describe.each(everyKernels.map((kernels) => [kernels.instructionSet, kernels] as const))(
  '%s',
  (_, kernels) => {
    test.each(cases)('a row of a product of %s from %s', (format, dtype) => {
      const [inputs, outputs] = [dtypes[dtype].block === 256 ? 256 : 160, 33]
      const codes = packed(kernels, format, randomWeight(dtype, outputs, inputs, 1), inputs)
      for (const rows of [2, 7]) {
        const x = activations(rows, inputs)
        const run = (values: Float32Array, norm?: Float32Array) =>
          runLinear(kernels, format, fakeTensor(values, [rows, inputs]), [rows, inputs, outputs], codes, {
            ...(norm && { norm }),
          })
        for (const norm of [undefined, new Float32Array(inputs).fill(1)]) {
          const clean = run(x, norm)
          for (const poison of poisons) {
            const broken = x.slice()
            broken[inputs + 77] = poison
            const found = run(broken, norm)
            expect(found.subarray(outputs, 2 * outputs).some(Number.isFinite)).toBe(false)
            for (const own of [
              (y: Float32Array) => y.subarray(0, outputs),
              (y: Float32Array) => y.subarray(2 * outputs),
            ])
              expect(sameBits(own(found), own(clean))).toBe(true)
          }
        }
      }
    })

    test.each(formatted.filter(({ width, window }) => width !== 128 && window === undefined))(
      'a query, a key and a value of %o',
      (shape) => {
        const { width, heads, kvHeads } = shape
        const perRow = (heads + 2 * kvHeads) * width
        const counts = [40, 7] as const
        const blocks = [
          [3, 1, 4],
          [2, 0],
        ] as const
        const prompts: BatchSequence[] = counts.map((count, i) => ({ count, start: 0, blocks: blocks[i]! }))
        // Last of all, each sequence's newest token alone and a piece that ends there.
        const decodes: BatchSequence[] = [
          { count: 1, start: 39, blocks: blocks[0] },
          { count: 3, start: 37, blocks: blocks[0] },
          { count: 1, start: 6, blocks: blocks[1] },
        ]
        const qkv = normals(47 * perRow, 1)
        const q = normals(5 * heads * width, 2)
        const run = (rows: Float32Array, queries: Float32Array) => {
          const cache = new Cache(shape, 5)
          storeRows(kernels, cache, prompts, rows)
          return attend(kernels, cache, decodes, queries)
        }
        const clean = run(qkv, q)
        const own = (y: Float32Array, row: number, count = 1) =>
          y.subarray(row * heads * width, (row + count) * heads * width)
        for (const poison of [Number.NaN, Number.POSITIVE_INFINITY]) {
          const queries = q.slice()
          queries[width + 3] = poison
          const found = run(qkv, queries)
          expect(found.subarray(width, 2 * width).some(Number.isFinite)).toBe(false)
          expect(sameBits(own(found, 1, 4), own(clean, 1, 4))).toBe(true)
          for (const [offset, sees] of [
            [heads * width + 3, (y: Float32Array) => !own(y, 0).subarray(0, width).some(Number.isFinite)],
            [(heads + kvHeads) * width + 3, (y: Float32Array) => !Number.isFinite(y[3]!)],
          ] as const) {
            const rows = qkv.slice()
            rows[21 * perRow + offset] = poison
            const seen = run(rows, q)
            expect(sees(seen), `${poison} at ${offset}`).toBe(true)
            expect(sameBits(own(seen, 4), own(clean, 4))).toBe(true)
          }
        }
      },
    )
  },
)
