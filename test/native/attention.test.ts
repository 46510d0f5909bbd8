import { describe, expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { rotaryPairs } from '../../src/runtime/kernel-ops.ts'
import { KernelContext } from '../../src/runtime/kernels.ts'
import {
  attend,
  Cache,
  filled,
  formatted,
  normals,
  reference,
  shapes,
  storeRows,
  tableOf,
  toleranceOf,
} from './paged.ts'
import { everyKernels, fakeTensor, relativeError, runOp, sameBits, stridedTensor } from './tensors.ts'

describe.each(everyKernels.map((kernels) => [kernels.instructionSet, kernels] as const))(
  '%s',
  (_, kernels) => {
    test.each(formatted)('paged attention is softmax attention for %o', (shape) => {
      const { cache, whole, q } = filled(kernels, shape, shape.format === 'F16' ? [1, 17, 130] : [1, 67])
      const error = relativeError(attend(kernels, cache, whole, q), reference(cache, whole, q))
      expect(error).toBeLessThan(toleranceOf(kernels, shape))
    })

    test.each(formatted.filter(({ width }) => width === 64 || width === 80))(
      'a sink of each head takes its share, in a row as in its pieces (%o)',
      (shape) => {
        const lengths = [700, 90]
        const { cache, blocks, whole, q } = filled(kernels, shape, lengths)
        // One that is nothing beside the scores, one that is nearly all, and some between.
        const sinks = Float32Array.from({ length: shape.heads }, (_, h) => [-60, 4, 0.5, 90][h % 4]!)
        const together = attend(kernels, cache, whole, q, 2, sinks)
        expect(relativeError(together, reference(cache, whole, q, sinks))).toBeLessThan(
          toleranceOf(kernels, shape),
        )
        const perRow = shape.heads * shape.width
        for (const [start, count] of [
          [0, 1],
          [511, 5],
          [699, 1],
        ] as const)
          for (const threads of [1, 5]) {
            const piece = [{ start, count, blocks: blocks[0]! }]
            const rows = q.slice(start * perRow, (start + count) * perRow)
            const expected = together.slice(start * perRow, (start + count) * perRow)
            expect(sameBits(attend(kernels, cache, piece, rows, threads, sinks), expected)).toBe(true)
          }
        sinks[1] = Number.NaN
        const broken = attend(kernels, cache, whole, q, 2, sinks)
        for (const [at, value] of broken.entries()) {
          if (Math.floor(at / shape.width) % shape.heads === 1) expect(value).toBeNaN()
          else if (value !== together[at]) throw new Error(`head ${at} is not what it was`)
        }
      },
    )

    test.each(formatted.filter(({ width, window }) => width === 64 && window === undefined))(
      'a decode behind any context is softmax attention for %o',
      (shape) => {
        const lengths = shape.format === 'F16' ? [1, 2, 15, 16, 33, 64, 65, 511, 512, 513, 700] : [2, 33, 513]
        const { cache, blocks } = filled(kernels, shape, lengths)
        const last = lengths.map((length, i) => ({ count: 1, start: length - 1, blocks: blocks[i]! }))
        const q = normals(new Random(7), lengths.length * shape.heads * shape.width)
        const error = relativeError(attend(kernels, cache, last, q), reference(cache, last, q))
        expect(error).toBeLessThan(toleranceOf(kernels, shape))
      },
    )

    test.each(formatted.filter(({ width }) => width === 64 || width === 80))(
      'a row has the same bits in a whole prompt, in pieces and alone (%o)',
      (shape) => {
        const lengths = [700, 90]
        const { cache, blocks, whole, q } = filled(kernels, shape, lengths)
        const together = attend(kernels, cache, whole, q)
        const perRow = shape.heads * shape.width
        for (const [start, count] of [
          [0, 1],
          [63, 2],
          [100, 7],
          [511, 5],
          [600, 100],
          [699, 1],
        ] as const) {
          const piece = [{ start, count, blocks: blocks[0]! }]
          const rows = q.slice(start * perRow, (start + count) * perRow)
          const expected = together.slice(start * perRow, (start + count) * perRow)
          for (const threads of [1, 2, 5]) {
            expect(sameBits(attend(kernels, cache, piece, rows, threads), expected)).toBe(true)
          }
        }
        expect(sameBits(attend(kernels, cache, whole, q, 5), together)).toBe(true)
        // Many lone tokens go by several heads at a time.
        const decodes = Array.from({ length: 40 }, (_, i) => ({
          start: 500 + i,
          count: 1,
          blocks: blocks[0]!,
        }))
        const rows = q.slice(500 * perRow, 540 * perRow)
        expect(
          sameBits(attend(kernels, cache, decodes, rows), together.slice(500 * perRow, 540 * perRow)),
        ).toBe(true)
      },
    )

    test.each(formatted.filter(({ width }) => width === 20 || width === 80 || width === 128))(
      'what is stored of a row has the same bits whatever is stored beside it (%o)',
      (shape) => {
        const blocks = [1, 2, 3, 4, 5]
        const perRow = (shape.heads + 2 * shape.kvHeads) * shape.width
        const qkv = normals(new Random(5), 23 * perRow)
        const [whole, single] = [new Cache(shape, 6), new Cache(shape, 6)]
        storeRows(kernels, whole, [{ count: 23, start: 0, blocks }], qkv)
        for (let row = 0; row < 23; row++)
          storeRows(
            kernels,
            single,
            [{ count: 1, start: row, blocks }],
            qkv.slice(row * perRow, (row + 1) * perRow),
          )
        expect(sameBits(single.memory, whole.memory)).toBe(true)
      },
    )

    test('blocks that a sliding window has passed may be gone', () => {
      const shape = shapes[6]!
      const { cache, blocks } = filled(kernels, shape, [400])
      const q = normals(new Random(3), shape.heads * shape.width)
      const held = attend(kernels, cache, [{ count: 1, start: 399, blocks: blocks[0]! }], q)
      const passed = blocks[0]!.map((id, i) => ((i + 1) * 16 <= 300 ? -1 : id))
      expect(attend(kernels, cache, [{ count: 1, start: 399, blocks: passed }], q)).toEqual(held)
    })

    test.each([
      ['halves', 64, 0],
      ['neighbours', 64, 0],
      ['halves', 20, 0],
      ['neighbours', 64, 1],
    ] as const)(
      'keys and queries are stored rotated: %s, %i dimensions, normed %i',
      (pairs, rotaryDims, normed) => {
        const [heads, kvHeads, width, blockTokens, epsilon] = [6, 2, 64, 16, 1e-6]
        const sequences = [
          { count: 3, start: 40, blocks: [4, 2, 7] },
          { count: 1, start: 0, blocks: [1] },
        ]
        const random = new Random(11)
        const cache = new Cache({ width, heads, kvHeads, blockTokens }, 8)
        const [rows, perRow] = [4, (heads + 2 * kvHeads) * width]
        const qkv = normals(random, rows * perRow)
        const norms = [normals(random, width), normals(random, width)] as const
        const frequencies = Float32Array.from(
          { length: rotaryDims / 2 },
          (_, i) => 10000 ** ((-2 * i) / rotaryDims),
        )
        using context = new KernelContext(kernels)
        const table = fakeTensor(
          new Float32Array(rows * rotaryDims),
          [rows, rotaryDims],
          [tableOf(sequences, blockTokens), fakeTensor(frequencies, [rotaryDims / 2])],
        )
        runOp(kernels, context.call('rope_table', { factor: 1.5 }), table)
        const dst = fakeTensor(
          new Float32Array(rows * heads * width),
          [rows, heads, width],
          [
            stridedTensor(qkv, [rows, heads, width], perRow, 0),
            stridedTensor(qkv, [rows, kvHeads, width], perRow, heads * width),
            stridedTensor(qkv, [rows, kvHeads, width], perRow, (heads + kvHeads) * width),
            fakeTensor(cache.memory, [cache.memory.length]),
            tableOf(sequences, blockTokens),
            table,
            ...(normed ? norms.map((norm) => fakeTensor(norm, [width])) : []),
          ],
        )
        const params = { rotaryDims, rotaryPairs: rotaryPairs[pairs], normed, epsilon, cacheFormat: 0 }
        runOp(kernels, context.call('store_keys_values', params), dst)

        const positions = [40, 41, 42, 0]
        const expectedHead = (row: number, offset: number, norm: Float32Array): number[] => {
          let head = [...qkv.subarray(row * perRow + offset, row * perRow + offset + width)]
          if (normed) {
            const mean = head.reduce((sum, x) => sum + x * x, 0) / width
            head = head.map((x, d) => (x / Math.sqrt(mean + epsilon)) * norm[d]!)
          }
          for (let i = 0; i < rotaryDims / 2; i++) {
            const [a, b] = pairs === 'halves' ? [i, i + rotaryDims / 2] : [2 * i, 2 * i + 1]
            const angle = positions[row]! * frequencies[i]!
            const [x, y] = [head[a]!, head[b]!]
            head[a] = 1.5 * (x * Math.cos(angle) - y * Math.sin(angle))
            head[b] = 1.5 * (x * Math.sin(angle) + y * Math.cos(angle))
          }
          return head
        }
        const q = dst.data as Float32Array
        for (let row = 0; row < rows; row++) {
          const block = row < 3 ? 7 : 1
          const inside = positions[row]! % blockTokens
          for (let h = 0; h < heads; h++) {
            const at = (row * heads + h) * width
            expect(
              relativeError(q.subarray(at, at + width), expectedHead(row, h * width, norms[0])),
            ).toBeLessThan(1e-6)
          }
          for (let h = 0; h < kvHeads; h++) {
            const keys = Array.from({ length: width }, (_, d) => cache.key(block, h, d, inside))
            const values = Array.from({ length: width }, (_, d) => cache.value(block, h, d, inside))
            expect(relativeError(keys, expectedHead(row, (heads + h) * width, norms[1]))).toBeLessThan(6e-4)
            const at = row * perRow + (heads + kvHeads + h) * width
            expect(relativeError(values, qkv.subarray(at, at + width))).toBeLessThan(6e-4)
          }
        }
      },
    )
  },
)
