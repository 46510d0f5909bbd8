import { describe, expect, test } from 'vitest'
import type { DType } from '../../src/base/dtype.ts'
import { bytesOf, dtypes } from '../../src/base/dtype.ts'
import { Random } from '../../src/base/random.ts'
import {
  KernelContext,
  type Kernels,
  linearOps,
  type PackedFormat,
  packedFormats,
} from '../../src/runtime/kernels.ts'
import {
  everyKernels,
  type FakeTensor,
  fakeTensor,
  multipliesPairs,
  relativeError,
  runOp,
  sameBits,
  stridedTensor,
} from './tensors.ts'
import { randomWeight, type Weight } from './weights.ts'

// N rows, K inputs, M outputs.

/** What a row of activations becomes on its way into the product. */
function prepared(kernels: Kernels, format: PackedFormat, row: Float32Array): Float64Array {
  if (isCoded(format)) return rounded(row, 128)
  const pairs = format === 'bf16' && multipliesPairs(kernels)
  return Float64Array.from(row, (x) => (pairs ? toBfloat(x) : x))
}

function toBfloat(x: number): number {
  const float = new DataView(new ArrayBuffer(4))
  float.setFloat32(0, x)
  const bits = float.getUint32(0)
  float.setUint32(0, (bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000)
  return float.getFloat32(0)
}

/** What a row is after rounding to 127 steps per group: 128 activations, or 32 weights of Q8_0. */
function rounded(row: ArrayLike<number>, groupInputs: 128 | 32): Float64Array {
  const out = Float64Array.from(row)
  for (let g = 0; g < row.length; g += groupInputs) {
    const group = out.subarray(g, g + groupInputs)
    const scale = group.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127
    group.forEach((x, i) => {
      group[i] = scale > 0 ? Math.round(x / scale) * scale : 0
    })
  }
  return out
}

function roundedRows(weights: Float64Array, inputs: number): Float64Array {
  const out = new Float64Array(weights.length)
  for (let at = 0; at < out.length; at += inputs) out.set(rounded(weights.subarray(at, at + inputs), 32), at)
  return out
}

function product(x: Float64Array, weight: Float64Array, outputs: number): Float64Array {
  const inputs = weight.length / outputs
  return Float64Array.from({ length: outputs }, (_, o) => {
    let sum = 0
    for (let k = 0; k < inputs; k++) sum += x[k]! * weight[o * inputs + k]!
    return sum
  })
}

interface Extras {
  norm?: Float32Array
  bias?: Float32Array
  residual?: Float32Array
  gated?: boolean
}

const epsilon = 1e-5

function runLinear(
  kernels: Kernels,
  format: PackedFormat,
  x: FakeTensor,
  [rows, inputs, outputs]: readonly [number, number, number],
  packed: Uint8Array,
  { norm, bias, residual, gated }: Extras = {},
  threads = 2,
): Float32Array {
  const dst = fakeTensor(
    new Float32Array(rows * outputs),
    [rows, outputs],
    [
      x,
      fakeTensor(packed, [packed.length]),
      ...(norm ? [fakeTensor(norm, [inputs])] : []),
      ...(bias ? [fakeTensor(bias, [outputs])] : []),
      ...(residual ? [fakeTensor(residual, [rows, outputs])] : []),
    ],
  )
  using context = new KernelContext(kernels)
  const call = context.call(linearOps[format], {
    normed: norm ? 1 : 0,
    biased: bias ? 1 : 0,
    residual: residual ? 1 : 0,
    gated: gated ? 1 : 0,
    adapted: 0,
    epsilon,
  })
  runOp(kernels, call, dst, threads)
  runOp(kernels, call, dst, threads)
  return dst.data as Float32Array
}

function packed(kernels: Kernels, format: PackedFormat, weight: Weight, inputs: number): Uint8Array {
  const into = new Uint8Array(kernels.packedBytes(format, weight.source.rows, inputs))
  kernels.packRows(format, into, inputs, 0, weight.source)
  return into
}

function activations(rows: number, inputs: number, seed = 5): Float32Array {
  const random = new Random(seed)
  return Float32Array.from({ length: rows * inputs }, () => random.normal())
}

const cases: readonly (readonly [PackedFormat, DType])[] = [
  ['q8', 'Q8_0'],
  ['q8', 'F32'],
  ['q4', 'Q4_0'],
  ['q4', 'Q4_1'],
  ['q5', 'Q5_0'],
  ['q5', 'Q5_1'],
  ['q4k', 'Q4_K'],
  ['q5k', 'Q5_K'],
  ['q6k', 'Q6_K'],
  ['f16', 'F16'],
  ['bf16', 'BF16'],
  ['f32', 'F32'],
]

const isCoded = (format: PackedFormat) => format.startsWith('q')

/** Rows N, inputs K, outputs M of blocks of so many inputs. */
function oddShapes(block: number): readonly (readonly [number, number, number])[] {
  if (block === 256) {
    return [
      [1, 256, 1],
      [3, 512, 33],
      [7, 768, 50],
      [13, 256, 257],
      [1, 512, 131],
      [4, 256, 112],
    ]
  }
  const whole = [
    [1, 32, 1],
    [2, 64, 16],
    [3, 96, 33],
    [5, 160, 47],
    [7, 288, 50],
    [13, 64, 257],
    [25, 128, 70],
    [1, 64, 131],
    [4, 96, 112],
  ] as const
  // Only floats can have rows that are no multiple of a group.
  return block === 1 ? [...whole, [5, 172, 64], [1, 20, 33]] : whole
}

describe.each(everyKernels.map((kernels) => [kernels.instructionSet, kernels] as const))(
  '%s',
  (_, kernels) => {
    test.each(cases)(
      '%s from %s is the product of the stored weights and the prepared activations',
      (format, dtype) => {
        for (const [rows, inputs, outputs] of oddShapes(dtypes[dtype].block)) {
          const weight = randomWeight(dtype, outputs, inputs, 1)
          const x = activations(rows, inputs)
          const y = runLinear(
            kernels,
            format,
            fakeTensor(x, [rows, inputs]),
            [rows, inputs, outputs],
            packed(kernels, format, weight, inputs),
          )
          const values =
            format === 'q8' && dtype === 'F32' ? roundedRows(weight.values, inputs) : weight.values
          const expected = Array.from({ length: rows }, (_, r) => {
            const row = prepared(kernels, format, x.subarray(r * inputs, (r + 1) * inputs))
            return [...product(row, values, outputs)]
          }).flat()
          expect(relativeError(y, expected)).toBeLessThan(isCoded(format) ? 2e-3 : 1e-5)
        }
      },
    )

    test.each(cases)('one row of %s from %s through a vocabulary of 50257', (format, dtype) => {
      // Rows of the weight repeat with a period that no tile has.
      const [inputs, outputs, period] = [dtypes[dtype].block === 256 ? 256 : 32, 50257, 97]
      const some = randomWeight(dtype, period, inputs, 12)
      const data = new Uint8Array(bytesOf(dtype, outputs * inputs))
      const piece = some.source.data as Uint8Array
      for (let at = 0; at < data.length; at += piece.length) data.set(piece.subarray(0, data.length - at), at)
      const codes = packed(
        kernels,
        format,
        { source: { dtype, data, rows: outputs }, values: some.values },
        inputs,
      )
      const x = activations(1, inputs)
      const y = runLinear(kernels, format, fakeTensor(x, [1, inputs]), [1, inputs, outputs], codes)
      const values = format === 'q8' && dtype === 'F32' ? roundedRows(some.values, inputs) : some.values
      const expected = product(prepared(kernels, format, x), values, period)
      const repeated = Float64Array.from({ length: outputs }, (_, o) => expected[o % period]!)
      expect(relativeError(y, repeated)).toBeLessThan(isCoded(format) ? 2e-3 : 1e-5)
    })

    test('rows and outputs that fill whole registers are summed as odd ones are', () => {
      const [rows, inputs, outputs] = [200, 64, 96]
      const weight = randomWeight('Q8_0', outputs, inputs, 2)
      const x = activations(rows, inputs)
      const y = runLinear(
        kernels,
        'q8',
        fakeTensor(x, [rows, inputs]),
        [rows, inputs, outputs],
        packed(kernels, 'q8', weight, inputs),
      )
      for (const row of [0, 5, 6, 191, 192, 199]) {
        const expected = product(
          rounded(x.subarray(row * inputs, (row + 1) * inputs), 128),
          weight.values,
          outputs,
        )
        expect(relativeError(y.subarray(row * outputs, (row + 1) * outputs), expected)).toBeLessThan(2e-3)
      }
    })

    test.each([
      ['q8', 'Q8_0'],
      ['q4', 'Q4_1'],
      ['q5', 'Q5_1'],
      ['q4k', 'Q4_K'],
      ['q5k', 'Q5_K'],
      ['q6k', 'Q6_K'],
      ['f16', 'F16'],
      ['bf16', 'BF16'],
      ['f32', 'F32'],
    ] as const)(
      'a row of %s has the same bits in every batch and on any number of threads',
      (format, dtype) => {
        const [rows, inputs, outputs] = [47, dtypes[dtype].block === 256 ? 256 : 224, 145]
        const weight = randomWeight(dtype, outputs, inputs, 3)
        const codes = packed(kernels, format, weight, inputs)
        const x = activations(rows, inputs)
        const together = runLinear(
          kernels,
          format,
          fakeTensor(x, [rows, inputs]),
          [rows, inputs, outputs],
          codes,
        )
        for (const [first, count, threads] of [
          [0, 1, 1],
          [22, 1, 3],
          [4, 2, 2],
          [7, 5, 1],
          [3, 16, 4],
          [0, 46, 2],
        ] as const) {
          const some = fakeTensor(x.slice(first * inputs, (first + count) * inputs), [count, inputs])
          const alone = runLinear(kernels, format, some, [count, inputs, outputs], codes, {}, threads)
          expect(sameBits(alone, together.slice(first * outputs, (first + count) * outputs))).toBe(true)
        }
      },
    )

    test('norm, bias and residual are those of separate ops', () => {
      const [rows, inputs, outputs] = [7, 96, 50]
      const weight = randomWeight('Q8_0', outputs, inputs, 4)
      const x = activations(rows, inputs)
      const [norm, bias, residual] = [
        activations(1, inputs, 6),
        activations(1, outputs, 7),
        activations(rows, outputs, 8),
      ]
      const codes = packed(kernels, 'q8', weight, inputs)
      const y = runLinear(kernels, 'q8', fakeTensor(x, [rows, inputs]), [rows, inputs, outputs], codes, {
        norm,
        bias,
        residual,
      })
      const expected = Array.from({ length: rows }, (_, r) => {
        const row = x.subarray(r * inputs, (r + 1) * inputs)
        const mean = row.reduce((sum, v) => sum + v * v, 0) / inputs
        const normal = row.map((v, k) => (v / Math.sqrt(mean + epsilon)) * norm[k]!)
        return [...product(rounded(normal, 128), weight.values, outputs)].map(
          (v, o) => v + bias[o]! + residual[r * outputs + o]!,
        )
      }).flat()
      expect(relativeError(y, expected)).toBeLessThan(2e-3)
    })

    test('a gated layer is silu(gate) * up, whatever its width', () => {
      for (const [rows, inputs, outputs] of [
        [9, 64, 48],
        [3, 32, 25],
      ] as const) {
        const [gate, up] = [
          randomWeight('Q8_0', outputs, inputs, 9),
          randomWeight('Q8_0', outputs, inputs, 10),
        ]
        const codes = new Uint8Array(kernels.packedBytes('q8', outputs, inputs, true))
        kernels.packRows('q8', codes, inputs, 0, gate.source, 'gate')
        kernels.packRows('q8', codes, inputs, 0, up.source, 'up')
        const x = activations(rows, inputs)
        const y = runLinear(kernels, 'q8', fakeTensor(x, [rows, inputs]), [rows, inputs, outputs], codes, {
          gated: true,
        })
        const expected = Array.from({ length: rows }, (_, r) => {
          const row = rounded(x.subarray(r * inputs, (r + 1) * inputs), 128)
          const right = product(row, up.values, outputs)
          return [...product(row, gate.values, outputs)].map((v, o) => (v / (1 + Math.exp(-v))) * right[o]!)
        }).flat()
        expect(relativeError(y, expected)).toBeLessThan(4e-3)
      }
    })

    test('weights that are packed in parts, and rows that lie apart, give the same bits', () => {
      const [rows, inputs, outputs] = [4, 64, 64]
      const weight = randomWeight('Q8_0', outputs, inputs, 12)
      const whole = packed(kernels, 'q8', weight, inputs)
      const parts = new Uint8Array(whole.length)
      const data = weight.source.data as Uint8Array
      const rowBytes = bytesOf('Q8_0', inputs)
      for (const [first, end] of [
        [32, 64],
        [0, 32],
      ] as const) {
        const source = {
          dtype: 'Q8_0' as const,
          data: data.subarray(first * rowBytes, end * rowBytes),
          rows: end - first,
        }
        kernels.packRows('q8', parts, inputs, first, source)
      }
      expect(sameBits(parts, whole)).toBe(true)
      const x = activations(rows, inputs)
      const apart = new Float32Array(rows * 100)
      for (let r = 0; r < rows; r++) apart.set(x.subarray(r * inputs, (r + 1) * inputs), r * 100 + 7)
      const shape = [rows, inputs, outputs] as const
      const dense = runLinear(kernels, 'q8', fakeTensor(x, [rows, inputs]), shape, whole)
      const strided = stridedTensor(apart, [1, rows, inputs], rows * 100, 7, 100)
      expect(sameBits(runLinear(kernels, 'q8', strided, shape, whole), dense)).toBe(true)
    })

    test.each(cases)('a row of %s from %s is looked up as it is stored', (format, dtype) => {
      for (const inputs of { 1: [64, 172], 32: [64], 256: [512] }[dtypes[dtype].block]!) {
        const outputs = 50
        const weight = randomWeight(dtype, outputs, inputs, 13)
        const values = format === 'q8' && dtype === 'F32' ? roundedRows(weight.values, inputs) : weight.values
        const ids = Int32Array.of(0, 49, 17, 16, 17)
        const codes = packed(kernels, format, weight, inputs)
        const dst = fakeTensor(
          new Float32Array(ids.length * inputs),
          [ids.length, inputs],
          [fakeTensor(ids, [ids.length]), fakeTensor(codes, [codes.length])],
        )
        using context = new KernelContext(kernels)
        runOp(kernels, context.call('embed', { format: packedFormats[format] }), dst)
        const expected = [...ids].flatMap((id) => [...values.subarray(id * inputs, (id + 1) * inputs)])
        expect(relativeError(dst.data, expected)).toBeLessThan(6e-4)
      }
    })
  },
)

const [vectors, tiles] = ['avx512', 'amx-emulated'].map((set) =>
  everyKernels.find((kernels) => kernels.instructionSet === set),
)
describe.skipIf(vectors === undefined || tiles === undefined)('tiles and vectors', () => {
  test.each([
    ['q8', 'Q8_0'],
    ['q4', 'Q4_1'],
    ['q5', 'Q5_1'],
    ['q4k', 'Q4_K'],
    ['q5k', 'Q5_K'],
    ['q6k', 'Q6_K'],
  ] as const)('give the same bits for %s', (format, dtype) => {
    const [rows, inputs, outputs] = [37, dtypes[dtype].block === 256 ? 512 : 160, 50]
    const weight = randomWeight(dtype, outputs, inputs, 14)
    const x = activations(rows, inputs)
    const [a, b] = [vectors!, tiles!].map((kernels) => {
      const codes = packed(kernels, format, weight, inputs)
      return runLinear(kernels, format, fakeTensor(x, [rows, inputs]), [rows, inputs, outputs], codes)
    })
    expect(sameBits(a!, b!)).toBe(true)
  })
})
