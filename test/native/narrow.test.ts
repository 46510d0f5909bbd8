import { describe, expect, test } from 'vitest'
import { bf16ToF32, f32ToBf16 } from '../../src/formats/convert.ts'
import { type KernelOp, type KernelParams, matmulBehind } from '../../src/runtime/kernel-ops.ts'
import { KernelContext } from '../../src/runtime/kernels.ts'
import {
  bfloatTensor,
  everyKernels,
  type FakeTensor,
  fakeTensor,
  normals,
  runOp,
  sameBits,
} from './tensors.ts'

// What training keeps in bfloat16: N rows of W numbers; products [N, K] by [M, K].

const narrowed = (x: Float32Array) => Uint16Array.from(x, f32ToBf16)
const widened = (x: Uint16Array) => Float32Array.from(x, bf16ToF32)
const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1)

/** Numbers that bfloat16 holds, both ways. */
function both(shape: readonly number[], seed: number): { wide: FakeTensor; narrow: FakeTensor } {
  const halves = narrowed(normals(sizeOf(shape), seed))
  return { wide: fakeTensor(widened(halves), shape), narrow: bfloatTensor(halves, shape) }
}

describe.each(everyKernels.map((kernels) => ({ set: kernels.instructionSet, kernels })))(
  '$set',
  ({ kernels }) => {
    const run = <Op extends KernelOp>(op: Op, params: KernelParams<Op>, dst: FakeTensor, threads = 2) => {
      using context = new KernelContext(kernels)
      const call = context.call(op, params)
      runOp(kernels, call, dst, threads)
      runOp(kernels, call, dst, threads)
      return dst.data
    }
    const wideResult = <Op extends KernelOp>(
      op: Op,
      params: KernelParams<Op>,
      shape: readonly number[],
      sources: FakeTensor[],
    ) => run(op, params, fakeTensor(new Float32Array(sizeOf(shape)), shape, sources)) as Float32Array
    const narrowResult = <Op extends KernelOp>(
      op: Op,
      params: KernelParams<Op>,
      shape: readonly number[],
      sources: FakeTensor[],
      threads = 2,
    ) => run(op, params, bfloatTensor(new Uint16Array(sizeOf(shape)), shape, sources), threads) as Uint16Array

    test.each([
      [1, 1, 1],
      [5, 33, 17],
      [40, 70, 50],
      [29, 430, 37],
      // More inputs than one chunk, more outputs than sums of a block may wait; rows that are no whole tile.
      [26, 900, 600],
    ])(
      'a product of activations in bfloat16 has the bits of one in F32: %i rows, %i inputs, %i outputs',
      (n, k, m) => {
        for (const [aTransposed, bTransposed] of [
          [0, 0],
          [0, 1],
          [1, 1],
        ] as const) {
          const a = both(aTransposed ? [k, n] : [n, k], 1)
          const b = both(bTransposed ? [k, m] : [m, k], 2)
          const sources = [both([n, m], 3), both([n, m], 4)]
          for (const [kind, results, count] of [
            ['nothing', 1, 0],
            ['adds', 1, 1],
            ['times', 1, 1],
            ['gelu', 2, 0],
            ['addsGelu', 2, 1],
            ['siluMul', 2, 1],
            ['siluMulBack', 2, 2],
          ] as const) {
            const params = { aTransposed, bTransposed, behind: matmulBehind[kind] }
            const shape = results === 2 ? [2, n, m] : [n, m]
            const behind = sources.slice(0, count).map(({ wide }) => wide)
            const plain = wideResult('matmul_bf16', params, shape, [a.wide, b.wide, ...behind])
            const read = wideResult('matmul_bf16', params, shape, [a.narrow, b.narrow, ...behind])
            expect(sameBits(read, plain)).toBe(true)
            const mixed = narrowResult('matmul_bf16', params, shape, [a.narrow, b.wide, ...behind], 3)
            expect(sameBits(mixed, narrowed(plain))).toBe(true)
            const halves = sources.slice(0, count).map(({ narrow }) => narrow)
            const fromHalves = wideResult('matmul_bf16', params, shape, [a.wide, b.wide, ...halves])
            expect(sameBits(fromHalves, plain)).toBe(true)
          }
        }
      },
    )

    test('a large product in bfloat16 is stored past the caches, the same', () => {
      // More than 8 MiB.
      const [n, k, m] = [2100, 2, 2048]
      const [a, b] = [both([n, k], 4), both([m, k], 5)]
      const params = { aTransposed: 0, bTransposed: 0, behind: 0 }
      const plain = wideResult('matmul_bf16', params, [n, m], [a.wide, b.wide])
      const found = narrowResult('matmul_bf16', params, [n, m], [a.narrow, b.narrow])
      expect(sameBits(found, narrowed(plain))).toBe(true)
    })

    test('attention of queries, keys and values in bfloat16 has the bits of one in F32, both ways', () => {
      for (const { sequences, tokens, heads, groups, width, sinks } of [
        { sequences: 2, tokens: 37, heads: 4, groups: 2, width: 20, sinks: [] },
        { sequences: 1, tokens: 61, heads: 2, groups: 2, width: 33, sinks: [] },
        { sequences: 2, tokens: 61, heads: 3, groups: 1, width: 20, sinks: [0.5, -1, 2] },
      ]) {
        const rows = sequences * tokens
        const [q, k, v] = [
          both([rows, heads, width], 1),
          both([rows, groups, width], 2),
          both([rows, groups, width], 3),
        ]
        const first = fakeTensor(
          Int32Array.from({ length: rows }, (_, row) => row - (row % tokens)),
          [rows],
        )
        const dy = both([rows, heads * width], 4)
        const params = { sequences, scale: 1 / Math.sqrt(width), pairs: 1 }
        const behind = [first, ...(sinks.length ? [fakeTensor(Float32Array.from(sinks), [heads])] : [])]
        const wide = [q.wide, k.wide, v.wide, ...behind]
        const narrow = [q.narrow, k.narrow, v.narrow, ...behind]
        const shape = [rows, heads * width]
        const plain = wideResult('causal_attention', params, shape, wide)
        expect(sameBits(wideResult('causal_attention', params, shape, narrow), plain)).toBe(true)
        expect(sameBits(narrowResult('causal_attention', params, shape, wide), narrowed(plain))).toBe(true)
        const joined = [rows, (heads + 2 * groups) * width + sinks.length]
        const back = wideResult('causal_attention_back', params, joined, [...wide, dy.wide])
        const found = narrowResult('causal_attention_back', params, joined, [...narrow, dy.narrow])
        expect(sameBits(found, narrowed(back))).toBe(true)
      }
    })

    test('what stands between products rounds its result once when it stores it in bfloat16', () => {
      const same = <Op extends KernelOp>(
        op: Op,
        params: KernelParams<Op>,
        shape: number[],
        sources: FakeTensor[],
      ) => {
        const plain = wideResult(op, params, shape, sources)
        expect(sameBits(narrowResult(op, params, shape, sources), narrowed(plain)), op).toBe(true)
      }
      for (const [n, w] of [
        [1, 1],
        [19, 37],
        [33, 96],
      ] as const) {
        const [x, y, z] = [1, 2, 3].map((seed) => fakeTensor(normals(n * w, seed), [n, w])) as [
          FakeTensor,
          FakeTensor,
          FakeTensor,
        ]
        const weight = fakeTensor(normals(w, 4), [w])
        same('norm', { centred: 1, epsilon: 1e-5, weighted: 1 }, [n, w], [x, weight])
        same('norm', { centred: 0, epsilon: 1e-5, weighted: 0 }, [n, w], [x])
        same('gelu', {}, [n, w], [x])
        same('gelu_back', {}, [n, w], [y, x])
        same('silu_mul', {}, [n, w], [x, y])
        for (const ofUp of [0, 1]) same('silu_mul_back', { ofUp }, [n, w], [z, x, y])
        same('packed', {}, [n, w], [x])
      }
      const [rows, heads, width] = [7, 3, 10]
      const x = fakeTensor(normals(rows * heads * width, 5), [rows, heads, width])
      const table = fakeTensor(normals(rows * 6, 6), [rows, 6])
      same('rope', { pairs: 0 }, [rows, heads, width], [x, table])
    })
  },
)
