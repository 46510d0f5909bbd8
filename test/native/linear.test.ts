import { describe, expect, test } from 'vitest'
import { bytesOf, dtypes } from '../../src/base/dtype.ts'
import { KernelContext, type Kernels, type PackedFormat, packedFormats } from '../../src/runtime/kernels.ts'
import {
  activations,
  cases,
  epsilon,
  isCoded,
  packed,
  prepared,
  product,
  runLinear,
  stored,
} from './products.ts'
import {
  everyKernels,
  fakeTensor,
  multipliesPairs,
  relativeError,
  runOp,
  sameBits,
  stridedTensor,
} from './tensors.ts'
import { randomWeight } from './weights.ts'

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
      [2, 2304, 17],
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
    // More blocks of activations than scales are made for at once.
    [2, 2208, 17],
  ] as const
  // Only floats can have rows that are no multiple of a group.
  return block === 1 ? [...whole, [5, 172, 64], [1, 20, 33]] : whole
}

const gates = {
  silu: (x: number) => x / (1 + Math.exp(-x)),
  gelu: (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
}

/** A number that lies between two codes or two of bfloat16 may be rounded the other way than here. */
function toleranceOf(kernels: Kernels, format: PackedFormat): number {
  return isCoded(format) || (format === 'bf16' && multipliesPairs(kernels)) ? 2e-3 : 1e-5
}

const everyFormat = cases.filter(([format], i) => cases.findIndex(([other]) => other === format) === i)

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
          const values = stored(format, weight, inputs)
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
      const values = stored(format, some, inputs)
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
        const values = stored('q8', weight, inputs)
        const expected = product(
          prepared(kernels, 'q8', x.subarray(row * inputs, (row + 1) * inputs)),
          values,
          outputs,
        )
        expect(relativeError(y.subarray(row * outputs, (row + 1) * outputs), expected)).toBeLessThan(2e-3)
      }
    })

    test.each(everyFormat)(
      'a row of %s has the same bits in every batch and on any number of threads',
      (format, dtype) => {
        // The last rows lie behind those of a whole piece.
        const [rows, inputs, outputs] = [205, dtypes[dtype].block === 256 ? 256 : 224, 49]
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
          [188, 17, 2],
          [204, 1, 1],
        ] as const) {
          const some = fakeTensor(x.slice(first * inputs, (first + count) * inputs), [count, inputs])
          const alone = runLinear(kernels, format, some, [count, inputs, outputs], codes, {}, threads)
          expect(sameBits(alone, together.slice(first * outputs, (first + count) * outputs))).toBe(true)
        }
      },
    )

    test.each(everyFormat)('norm, bias and residual around %s are those of separate ops', (format, dtype) => {
      const [rows, inputs, outputs] = [7, dtypes[dtype].block === 256 ? 256 : 96, 50]
      const weight = randomWeight(dtype, outputs, inputs, 4)
      const x = activations(rows, inputs)
      const [norm, bias, residual] = [
        activations(1, inputs, 6),
        activations(1, outputs, 7),
        activations(rows, outputs, 8),
      ]
      const codes = packed(kernels, format, weight, inputs)
      const values = stored(format, weight, inputs)
      const y = runLinear(kernels, format, fakeTensor(x, [rows, inputs]), [rows, inputs, outputs], codes, {
        norm,
        bias,
        residual,
      })
      const expected = Array.from({ length: rows }, (_, r) => {
        const row = x.subarray(r * inputs, (r + 1) * inputs)
        const mean = row.reduce((sum, v) => sum + v * v, 0) / inputs
        const normal = row.map((v, k) => (v / Math.sqrt(mean + epsilon)) * norm[k]!)
        return [...product(prepared(kernels, format, normal), values, outputs)].map(
          (v, o) => v + bias[o]! + residual[r * outputs + o]!,
        )
      }).flat()
      expect(relativeError(y, expected)).toBeLessThan(toleranceOf(kernels, format))
    })

    test.each(
      everyFormat.flatMap(([format, dtype]) => [
        [format, 'silu', dtype] as const,
        [format, 'gelu', dtype] as const,
      ]),
    )('a gated layer of %s is %s(gate) * up, whatever its width', (format, gated, dtype) => {
      const whole = dtypes[dtype].block === 256
      for (const [rows, inputs, outputs] of [
        [9, whole ? 256 : 64, 48],
        [3, whole ? 512 : 32, 25],
      ] as const) {
        const [gate, up] = [randomWeight(dtype, outputs, inputs, 9), randomWeight(dtype, outputs, inputs, 10)]
        const codes = new Uint8Array(kernels.packedBytes(format, outputs, inputs, true))
        kernels.packRows(format, codes, inputs, 0, gate.source, 'gate')
        kernels.packRows(format, codes, inputs, 0, up.source, 'up')
        const x = activations(rows, inputs)
        const y = runLinear(kernels, format, fakeTensor(x, [rows, inputs]), [rows, inputs, outputs], codes, {
          gated,
        })
        const expected = Array.from({ length: rows }, (_, r) => {
          const row = prepared(kernels, format, x.subarray(r * inputs, (r + 1) * inputs))
          const right = product(row, stored(format, up, inputs), outputs)
          return [...product(row, stored(format, gate, inputs), outputs)].map(
            (v, o) => gates[gated](v) * right[o]!,
          )
        }).flat()
        expect(relativeError(y, expected)).toBeLessThan(2 * toleranceOf(kernels, format))
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
        const values = stored(format, weight, inputs)
        const ids = Int32Array.of(0, 49, 17, 16, 17)
        const codes = packed(kernels, format, weight, inputs)
        const dst = fakeTensor(
          new Float32Array(ids.length * inputs),
          [ids.length, inputs],
          [fakeTensor(ids, [ids.length]), fakeTensor(codes, [codes.length])],
        )
        using context = new KernelContext(kernels)
        const call = context.call('embed', { format: packedFormats[format] })
        runOp(kernels, call, dst)
        const found = dst.data.slice()
        runOp(kernels, call, dst, 5)
        expect(sameBits(dst.data, found)).toBe(true)
        const expected = [...ids].flatMap((id) => [...values.subarray(id * inputs, (id + 1) * inputs)])
        expect(relativeError(dst.data, expected)).toBeLessThan(6e-4)
      }
    })
  },
)

/** Sets whose products of codes are one another's to the bit; skipped where a machine lacks one of them. */
describe.each([
  ['avx512', 'amx-emulated'],
  ['avx2', 'avxvnni'],
] as const)('%s and %s', (...names) => {
  const [one, other] = names.map((set) => everyKernels.find((kernels) => kernels.instructionSet === set))
  // The last two are cut into chunks of inputs.
  test.skipIf(one === undefined || other === undefined).each([
    ['q8', 'Q8_0', 37, 160],
    ['q4', 'Q4_1', 37, 160],
    ['q5', 'Q5_1', 37, 160],
    ['q4s', 'Q4_0', 37, 160],
    ['q5s', 'Q5_0', 37, 160],
    ['q4k', 'Q4_K', 37, 512],
    ['q5k', 'Q5_K', 37, 512],
    ['q6k', 'Q6_K', 37, 512],
    ['mx4', 'MXFP4', 37, 160],
    ['q8', 'Q8_0', 63, 416],
    ['q8', 'Q8_0', 70, 2400],
    ['q4', 'Q4_1', 70, 2400],
  ] as const)('give the same bits for %s from %s, %i rows by %i inputs', (format, dtype, rows, inputs) => {
    // Three units of four panels, the last one of two.
    const outputs = 150
    const weight = randomWeight(dtype, outputs, inputs, 14)
    const x = activations(rows, inputs)
    const [a, b] = [one!, other!].map((kernels) => {
      const codes = packed(kernels, format, weight, inputs)
      return runLinear(kernels, format, fakeTensor(x, [rows, inputs]), [rows, inputs, outputs], codes)
    })
    expect(sameBits(a!, b!)).toBe(true)
  })
})
