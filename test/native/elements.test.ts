import { describe, expect, test } from 'vitest'
import type { KernelOp, KernelParams } from '../../src/runtime/kernel-ops.ts'
import { KernelContext, type Kernels } from '../../src/runtime/kernels.ts'
import {
  everyKernels,
  type FakeTensor,
  fakeTensor,
  normals,
  relativeError,
  runOp,
  runTwice,
  sameBits,
  stridedTensor,
} from './tensors.ts'

// N rows of W numbers; M rows of V logits; H heads of D dimensions, R of which turn.

/** The result on one thread, after which three have to give the same bits. */
function run<Op extends KernelOp>(
  kernels: Kernels,
  op: Op,
  params: KernelParams<Op>,
  shape: readonly number[],
  sources: readonly FakeTensor[],
): Float32Array {
  const once = (threads: number) => runTwice(kernels, op, params, shape, sources, { threads, before: 7 })
  const one = once(1)
  expect(sameBits(once(3), one)).toBe(true)
  return one
}

describe.each(everyKernels.map((kernels) => ({ set: kernels.instructionSet, kernels })))(
  '$set',
  ({ kernels }) => {
    test.each([
      { shape: [5, 7, 13], of: [5, 7, 13], at: (i: number) => i },
      { shape: [5, 7, 13], of: [13], at: (i: number) => i % 13 },
      { shape: [35, 13], of: [35, 1], at: (i: number) => Math.floor(i / 13) },
      { shape: [5, 7, 13], of: [5, 1, 13], at: (i: number) => Math.floor(i / 91) * 13 + (i % 13) },
      { shape: [9000, 1], of: [1], at: () => 0 },
    ])('tensors $shape and $of combine element by element', ({ shape, of, at }) => {
      const a = normals(
        shape.reduce((x, y) => x * y, 1),
        1,
      )
      const b = normals(
        of.reduce((x, y) => x * y, 1),
        2,
      )
      const sources = [fakeTensor(a, shape), fakeTensor(b, of)]
      const results = [
        (x: number, y: number) => x + y,
        (x: number, y: number) => x - y,
        (x: number, y: number) => x * y,
        (x: number, y: number) => x / y,
      ]
      results.forEach((combine, kind) => {
        const expected = Float32Array.from(a, (x, i) => combine(x, b[at(i)]!))
        const found = run(kernels, 'elementwise', { kind, into: 0 }, shape, sources)
        expect(relativeError(found, expected)).toBeLessThan(1e-7)
      })
      const into = a.slice()
      using context = new KernelContext(kernels)
      const dst = fakeTensor(new Float32Array(4), [4], [fakeTensor(into, shape), sources[1]!])
      runOp(kernels, context.call('elementwise', { kind: 0, into: 1 }), dst)
      expect(sameBits(into, run(kernels, 'elementwise', { kind: 0, into: 0 }, shape, sources))).toBe(true)
    })

    test('a factor, a gate and a packed copy are as written down', () => {
      const [x, up] = [normals(8192 + 37, 3), normals(8192 + 37, 4)]
      const shape = [x.length]
      const [xs, ups] = [fakeTensor(x, shape), fakeTensor(up, shape)]
      const scaled = run(kernels, 'affine', { factor: 3, offset: -0.5 }, shape, [xs])
      expect(
        relativeError(
          scaled,
          x.map((value) => value * 3 - 0.5),
        ),
      ).toBeLessThan(1e-6)
      const gated = Array.from(x, (value, i) => (value / (1 + Math.exp(-value))) * up[i]!)
      expect(relativeError(run(kernels, 'silu_mul', {}, shape, [xs, ups]), gated)).toBeLessThan(1e-6)
      const [rows, heads, width, stride, offset] = [6, 3, 5, 40, 9]
      const strided = stridedTensor(x, [rows, heads, width], stride, offset)
      const packed = Float32Array.from(
        { length: rows * heads * width },
        (_, i) => x[offset + Math.floor(i / (heads * width)) * stride + (i % (heads * width))]!,
      )
      expect(sameBits(run(kernels, 'packed', {}, [rows, heads, width], [strided]), packed)).toBe(true)
    })

    test('rows are looked up, and added back in their order', () => {
      const [rows, width, count] = [11, 150, 70]
      const table = normals(rows * width, 5)
      const ids = Int32Array.from({ length: count }, (_, i) => (i * 7) % (rows - 1))
      const [tables, named] = [fakeTensor(table, [rows, width]), fakeTensor(ids, [count])]
      const found = run(kernels, 'gather_rows', {}, [count, width], [tables, named])
      const expected = found.map((_, i) => table[ids[Math.floor(i / width)]! * width + (i % width)]!)
      expect(sameBits(found, expected)).toBe(true)
      const dy = normals(count * width, 6)
      const sums = new Float32Array(rows * width)
      const grown = table.slice()
      dy.forEach((value, i) => {
        const at = ids[Math.floor(i / width)]! * width + (i % width)
        sums[at] = sums[at]! + value
        grown[at] = grown[at]! + value
      })
      const slopes = fakeTensor(dy, [count, width])
      const spread = run(kernels, 'scatter_rows', { into: 0 }, [rows, width], [slopes, named])
      expect(sameBits(spread, sums)).toBe(true)
      using context = new KernelContext(kernels)
      const dst = fakeTensor(new Float32Array(4), [4], [slopes, named, tables])
      runOp(kernels, context.call('scatter_rows', { into: 1 }), dst)
      expect(sameBits(table, grown)).toBe(true)
    })

    test('shares of targets and their gradients are those of a softmax, down to where numbers end', () => {
      const [rows, width] = [37, 65]
      const logits = normals(rows * width, 7).map((x) => 4 * x)
      logits[3 * width + 5] = -83 // Some 94 below the highest of its row: a share below 2^-126.
      const weights = normals(rows, 8)
      weights[4] = 0
      const targets = Array.from({ length: rows }, (_, row) => (row === 3 ? 5 : (row * 11) % width))
      const cells = Int32Array.from(targets, (target, row) => row * width + target)
      const shares = Array.from({ length: rows }, (_, row) => {
        const own = Array.from(logits.subarray(row * width, (row + 1) * width))
        const highest = Math.max(...own)
        const powers = own.map((x) => Math.exp(x - highest))
        const sum = powers.reduce((a, b) => a + b)
        return powers.map((x) => x / sum)
      })
      const sources = [fakeTensor(logits, [rows, width]), fakeTensor(cells, [rows])]
      const chosen = run(kernels, 'chosen_shares', {}, [rows, 1], sources)
      targets.forEach((target, row) => {
        const share = shares[row]![target]!
        expect(Math.abs(chosen[row]! / share - 1)).toBeLessThan(row === 3 ? 1e-2 : 4e-6)
      })
      expect(chosen[3]).toBeGreaterThan(0)
      const slopes = shares.flatMap((own, row) =>
        own.map((share, i) => weights[row]! * (share - (i === targets[row] ? 1 : 0))),
      )
      const found = run(
        kernels,
        'shares_back',
        {},
        [rows, width],
        [...sources, fakeTensor(weights, [rows, 1])],
      )
      expect(relativeError(found, slopes)).toBeLessThan(1e-6)
      expect(found.subarray(4 * width, 5 * width).every((slope) => slope === 0)).toBe(true)
    })

    test.each([
      { pairs: 0, pairOf: (i: number) => [i, i + 5] },
      { pairs: 1, pairOf: (i: number) => [2 * i, 2 * i + 1] },
    ])('rotary positions turn pairs by their angle, and back (pairing $pairs)', ({ pairs, pairOf }) => {
      const [rows, heads, width, rotary] = [9, 3, 14, 10]
      const positions = Int32Array.from({ length: rows }, (_, i) => 40 * i)
      const divisors = Float32Array.from({ length: rotary / 2 }, (_, i) => 1 + i / 4)
      const sources = [fakeTensor(positions, [rows]), fakeTensor(divisors, [rotary / 2])]
      const plain = { divided: 1, base: 10000, scale: 0.5, mixed: 0, low: 0, high: 1, factor: 1 }
      const tables = [1, -1].map((sign) =>
        run(kernels, 'rope_angles', { ...plain, sign }, [rows, rotary], sources),
      )
      const x = normals(rows * 64, 9)
      const shape = [rows, heads, width] as const
      const strided = stridedTensor(x, shape, 64, 3)
      const turned = run(kernels, 'rope', { pairs }, shape, [strided, fakeTensor(tables[0]!, [rows, rotary])])
      const expected = Float64Array.from(turned, (_, i) => {
        const [row, rest] = [Math.floor(i / (heads * width)), i % (heads * width)]
        return x[3 + row * 64 + rest]!
      })
      const before = Float32Array.from(expected)
      for (let head = 0; head < rows * heads; head++)
        for (let i = 0; i < rotary / 2; i++) {
          const position = positions[Math.floor(head / heads)]!
          const angle = (position * 0.5 * 10000 ** ((-2 * i) / rotary)) / divisors[i]!
          const [a, b] = pairOf(i).map((at) => head * width + at!) as [number, number]
          const [u, v] = [expected[a]!, expected[b]!]
          expected[a] = u * Math.cos(angle) - v * Math.sin(angle)
          expected[b] = u * Math.sin(angle) + v * Math.cos(angle)
        }
      expect(relativeError(turned, expected)).toBeLessThan(2e-5)
      const back = run(kernels, 'rope', { pairs }, shape, [
        fakeTensor(turned, shape),
        fakeTensor(tables[1]!, [rows, rotary]),
      ])
      expect(relativeError(back, before)).toBeLessThan(1e-6)
    })
  },
)
