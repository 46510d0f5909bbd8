import { describe, expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { type KernelOp, type KernelParams, matmulBehind } from '../../src/runtime/kernel-ops.ts'
import { KernelContext, type Kernels } from '../../src/runtime/kernels.ts'
import { everyKernels, type FakeTensor, fakeTensor, relativeError, runOp, sameBits } from './tensors.ts'

type Op = 'matmul_f32' | 'matmul_bf16'

interface Sides {
  a: Float32Array
  b: Float32Array
  aTransposed: boolean
  bTransposed: boolean
}

function noise(count: number, seed: number): Float32Array {
  const random = new Random(seed)
  return Float32Array.from({ length: count }, () => random.normal())
}

function transposed(data: Float32Array, rows: number, columns: number): Float32Array {
  return Float32Array.from(
    { length: data.length },
    (_, i) => data[(i % rows) * columns + Math.floor(i / rows)]!,
  )
}

function multiply(
  kernels: Kernels,
  op: Op,
  [n, k, m]: readonly [number, number, number],
  { a, b, aTransposed, bTransposed }: Sides,
  { added, threads = 2 }: { added?: Float32Array; threads?: number } = {},
): Float32Array {
  const dst = fakeTensor(
    new Float32Array(n * m),
    [n, m],
    [
      fakeTensor(a, aTransposed ? [k, n] : [n, k]),
      fakeTensor(b, bTransposed ? [k, m] : [m, k]),
      ...(added ? [fakeTensor(added, [n, m])] : []),
    ],
  )
  using context = new KernelContext(kernels)
  const flags = { aTransposed: Number(aTransposed), bTransposed: Number(bTransposed), behind: added ? 1 : 0 }
  const call = context.call(op, flags)
  runOp(kernels, call, dst, threads)
  runOp(kernels, call, dst, threads)
  return dst.data as Float32Array
}

const shapes = [
  [1, 1, 1],
  [5, 33, 17],
  [40, 70, 50],
  [200, 64, 96],
  // More inputs than one chunk, more outputs than sums of a block may wait.
  [26, 900, 600],
  // Few and long tiles, which threads share towards the end.
  [26, 900, 140],
] as const

describe.each(everyKernels.map((kernels) => [kernels.instructionSet, kernels] as const))(
  '%s',
  (_, kernels) => {
    test.each(['matmul_f32', 'matmul_bf16'] as const)(
      '%s is the product, whichever side lies transposed',
      (op) => {
        for (const [n, k, m] of shapes) {
          const [a, b, added] = [noise(n * k, 1), noise(m * k, 2), noise(n * m, 3)]
          const expected = Float64Array.from({ length: n * m }, (_, i) => {
            const [row, column] = [Math.floor(i / m), i % m]
            let sum = added[i]!
            for (let j = 0; j < k; j++) sum += a[row * k + j]! * b[column * k + j]!
            return sum
          })
          const plain = multiply(
            kernels,
            op,
            [n, k, m],
            { a, b, aTransposed: false, bTransposed: false },
            { added },
          )
          // bf16 keeps 8 bits of each factor.
          expect(relativeError(plain, expected)).toBeLessThan(op === 'matmul_f32' ? 1e-6 : 1e-2)
          const [turnedA, turnedB] = [transposed(a, n, k), transposed(b, m, k)]
          for (const sides of [
            { a: turnedA, b, aTransposed: true, bTransposed: false },
            { a, b: turnedB, aTransposed: false, bTransposed: true },
            { a: turnedA, b: turnedB, aTransposed: true, bTransposed: true },
          ]) {
            const turned = multiply(kernels, op, [n, k, m], sides, { added, threads: 3 })
            expect(sameBits(turned, plain)).toBe(true)
          }
        }
      },
    )

    test.each(['matmul_f32', 'matmul_bf16'] as const)(
      'what comes behind %s is the same as a pass of its own',
      (op) => {
        const [n, k, m] = [29, 430, 37]
        const [a, b, source] = [noise(n * k, 5), noise(m * k, 6), noise(n * m, 7)]
        const sides = { a, b, aTransposed: false, bTransposed: false }
        const plain = multiply(kernels, op, [n, k, m], sides)
        using context = new KernelContext(kernels)
        const factors = [fakeTensor(a, [n, k]), fakeTensor(b, [m, k])]
        const behind = (kind: keyof typeof matmulBehind, shape: number[], ...last: FakeTensor[]) => {
          const dst = fakeTensor(new Float32Array(shape.reduce((x, y) => x * y)), shape, [
            ...factors,
            ...last,
          ])
          runOp(
            kernels,
            context.call(op, { aTransposed: 0, bTransposed: 0, behind: matmulBehind[kind] }),
            dst,
            2,
          )
          return dst.data as Float32Array
        }
        const sum = plain.map((value, i) => value + source[i]!)
        expect(sameBits(behind('adds', [n, m], fakeTensor(source, [n, m])), sum)).toBe(true)
        const into = Float32Array.from(source)
        behind('addsInto', [4], fakeTensor(into, [n, m]))
        expect(sameBits(into, sum)).toBe(true)
        const row = source.slice(0, m)
        const everyRow = plain.map((value, i) => value + row[i % m]!)
        expect(sameBits(behind('adds', [n, m], fakeTensor(row, [m])), everyRow)).toBe(true)
        const times = plain.map((value, i) => value * source[i]!)
        expect(sameBits(behind('times', [n, m], fakeTensor(source, [n, m])), times)).toBe(true)
        const pass = <Op extends KernelOp>(op: Op, params: KernelParams<Op>, ...sources: Float32Array[]) => {
          const tensors = sources.map((data) => fakeTensor(data, [n, m]))
          const dst = fakeTensor(new Float32Array(n * m), [n, m], tensors)
          runOp(kernels, context.call(op, params), dst)
          return dst.data as Float32Array
        }
        const ones = new Float32Array(n * m).fill(1)
        for (const [x, both] of [
          [plain, behind('gelu', [2, n, m])],
          [everyRow, behind('addsGelu', [2, n, m], fakeTensor(row, [m]))],
          [sum, behind('addsGelu', [2, n, m], fakeTensor(source, [n, m]))],
        ] as const) {
          expect(sameBits(both.subarray(0, n * m), pass('gelu', {}, x))).toBe(true)
          expect(sameBits(both.subarray(n * m), pass('gelu_back', {}, ones, x))).toBe(true)
        }
        const [gate, up] = [source, noise(n * m, 8)]
        const gated = behind('siluMul', [2, n, m], fakeTensor(gate, [n, m]))
        expect(sameBits(gated.subarray(0, n * m), pass('silu_mul', {}, gate, plain))).toBe(true)
        expect(sameBits(gated.subarray(n * m), plain)).toBe(true)
        const back = behind('siluMulBack', [2, n, m], fakeTensor(gate, [n, m]), fakeTensor(up, [n, m]))
        for (const ofUp of [0, 1])
          expect(
            sameBits(
              back.subarray(ofUp * n * m, (ofUp + 1) * n * m),
              pass('silu_mul_back', { ofUp }, plain, gate, up),
            ),
          ).toBe(true)
      },
    )

    test('an activated product too large for a cache is stored past it, the same', () => {
      // Both halves together more than 8 MiB.
      const [n, k, m] = [730, 2, 1504]
      const sides = { a: noise(n * k, 8), b: noise(m * k, 9), aTransposed: false, bTransposed: false }
      const plain = multiply(kernels, 'matmul_f32', [n, k, m], sides)
      using context = new KernelContext(kernels)
      const factors = [fakeTensor(sides.a, [n, k]), fakeTensor(sides.b, [m, k])]
      const both = fakeTensor(new Float32Array(2 * n * m), [2, n, m], factors)
      const params = { aTransposed: 0, bTransposed: 0, behind: matmulBehind.gelu }
      runOp(kernels, context.call('matmul_f32', params), both, 2)
      const found = both.data as Float32Array
      const cube = (x: number) => x + 0.044715 * x ** 3
      const gelu = Float64Array.from(
        plain,
        (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * cube(x))),
      )
      expect(relativeError(found.subarray(0, n * m), gelu)).toBeLessThan(1e-6)
      const ones = fakeTensor(new Float32Array(n * m).fill(1), [n, m])
      const slopes = fakeTensor(new Float32Array(n * m), [n, m], [ones, fakeTensor(plain, [n, m])])
      runOp(kernels, context.call('gelu_back', {}), slopes)
      expect(sameBits(found.subarray(n * m), slopes.data as Float32Array)).toBe(true)
    })

    test('a product too large for a cache is stored past it, the same', () => {
      // More than 8 MiB.
      const [n, k, m] = [1450, 2, 1504]
      const [a, b] = [noise(n * k, 8), noise(m * k, 9)]
      const found = multiply(kernels, 'matmul_f32', [n, k, m], {
        a,
        b,
        aTransposed: false,
        bTransposed: false,
      })
      const expected = Float64Array.from({ length: n * m }, (_, i) => {
        const [row, column] = [Math.floor(i / m), i % m]
        return a[row * k]! * b[column * k]! + a[row * k + 1]! * b[column * k + 1]!
      })
      expect(relativeError(found, expected)).toBeLessThan(1e-6)
    })

    test('argmax is the lowest index of the largest number of each row', () => {
      const [rows, count] = [7, 1003]
      const x = noise(rows * count, 4)
      for (const [row, first] of [0, 1, 15, 16, 500, 1001, 1002].entries()) {
        x[row * count + first] = 9
        x[row * count + 1002] = 9
      }
      const dst = fakeTensor(new Int32Array(rows), [rows], [fakeTensor(x, [rows, count])])
      using context = new KernelContext(kernels)
      runOp(kernels, context.call('argmax', {}), dst)
      expect([...dst.data]).toEqual([0, 1, 15, 16, 500, 1001, 1002])
    })

    test('argmax never chooses what is no number, and says so where nothing is one', () => {
      const count = 53
      const rows = [
        Float32Array.from({ length: count }, (_, i) => (i === 0 || i === 40 || i === 52 ? Number.NaN : -i)),
        new Float32Array(count).fill(Number.NaN),
        new Float32Array(count).fill(Number.NEGATIVE_INFINITY),
        Float32Array.from({ length: count }, (_, i) => (i === 51 ? -3e38 : Number.NEGATIVE_INFINITY)),
        Float32Array.from({ length: count }, (_, i) => (i === 50 ? Number.POSITIVE_INFINITY : i)),
      ]
      const x = Float32Array.of(...rows.flatMap((row) => [...row]))
      const dst = fakeTensor(
        new Int32Array(rows.length),
        [rows.length],
        [fakeTensor(x, [rows.length, count])],
      )
      using context = new KernelContext(kernels)
      runOp(kernels, context.call('argmax', {}), dst)
      expect([...dst.data]).toEqual([1, -1, -1, 51, 50])
    })
  },
)
