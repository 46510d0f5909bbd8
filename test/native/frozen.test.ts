import { describe, expect, test } from 'vitest'
import { bytesOf, type DType } from '../../src/base/dtype.ts'
import { Random } from '../../src/base/random.ts'
import { bf16ToF32, dequantize, f32ToBf16, f32ToF16 } from '../../src/formats/convert.ts'
import { KernelContext, type Kernels } from '../../src/runtime/kernels.ts'
import {
  everyKernels,
  type FakeTensor,
  fakeTensor,
  relativeError,
  runOp,
  sameBits,
  storedTensor,
} from './tensors.ts'

type Op = 'matmul_f32' | 'matmul_bf16'
type Frozen = 'BF16' | 'F16' | 'Q8_0' | 'Q4_0'

const formats = ['BF16', 'F16', 'Q8_0', 'Q4_0'] as const satisfies readonly Frozen[]

function noise(count: number, seed: number): Float32Array {
  const random = new Random(seed)
  return Float32Array.from({ length: count }, () => random.normal())
}

/** Rows as a file has them: any codes, scales of usual sizes. */
function stored(dtype: Frozen, count: number, seed: number): Uint8Array {
  const random = new Random(seed)
  const bytes = new Uint8Array(bytesOf(dtype, count))
  const view = new DataView(bytes.buffer)
  if (dtype === 'BF16' || dtype === 'F16') {
    const encode = dtype === 'BF16' ? f32ToBf16 : f32ToF16
    for (let i = 0; i < count; i++) view.setUint16(2 * i, encode(random.normal()), true)
    return bytes
  }
  const block = bytesOf(dtype, 32)
  for (let at = 0; at < bytes.length; at += block) {
    view.setUint16(at, f32ToF16(random.normal() / 100), true)
    for (let i = 2; i < block; i++) bytes[at + i] = random.integer(256)
  }
  return bytes
}

interface Weight {
  dtype: DType
  tensor: FakeTensor
  /** The same numbers in F32. */
  values: Float32Array
}

/** Of `outputs` rows, or turned: of `inputs` rows, which a product over outputs reads across. */
function randomWeight(dtype: Frozen, shape: readonly [number, number], seed: number): Weight {
  const count = shape[0] * shape[1]
  const bytes = stored(dtype, count, seed)
  return { dtype, tensor: storedTensor(dtype, bytes, shape), values: dequantize(dtype, bytes, count) }
}

interface Product {
  a: Float32Array
  rows: number
  b: FakeTensor
  bShape: readonly [number, number]
  turned: boolean
  added?: Float32Array
  tail?: readonly FakeTensor[]
}

/** Rows of a, each with the row of b behind it. */
function beside(a: Float32Array, b: Float32Array, rows: number): Float32Array {
  const [left, right] = [a.length / rows, b.length / rows]
  return Float32Array.from({ length: a.length + b.length }, (_, i) => {
    const [row, column] = [Math.floor(i / (left + right)), i % (left + right)]
    return column < left ? a[row * left + column]! : b[row * right + column - left]!
  })
}

function multiply(kernels: Kernels, op: Op, product: Product, threads = 2): Float32Array {
  const { a, rows, b, bShape, turned, added, tail = [] } = product
  const [outputs, inputs] = turned ? [bShape[1], bShape[0]] : bShape
  const shape = [rows, outputs]
  const sources = [fakeTensor(a, [rows, inputs]), b, ...(added ? [fakeTensor(added, shape)] : []), ...tail]
  const dst = fakeTensor(new Float32Array(rows * outputs), shape, sources)
  using context = new KernelContext(kernels)
  runOp(
    kernels,
    context.call(op, { aTransposed: 0, bTransposed: Number(turned), behind: added ? 1 : 0 }),
    dst,
    threads,
  )
  return dst.data as Float32Array
}

/** In 64-bit numbers; with factors rounded to bfloat16 where the product rounds them. */
function reference(op: Op, { a, rows, bShape, turned }: Product, values: Float32Array): Float64Array {
  const round = op === 'matmul_bf16' ? (x: number) => bf16ToF32(f32ToBf16(x)) : (x: number) => x
  const [left, right] = [a.map(round), values.map(round)]
  const [outputs, inputs] = turned ? [bShape[1], bShape[0]] : bShape
  const [outputStep, inputStep] = turned ? [1, outputs] : [inputs, 1]
  return Float64Array.from({ length: rows * outputs }, (_, i) => {
    const [row, output] = [Math.floor(i / outputs), i % outputs]
    let sum = 0
    for (let k = 0; k < inputs; k++)
      sum += left[row * inputs + k]! * right[output * outputStep + k * inputStep]!
    return sum
  })
}

describe.each(everyKernels.map((kernels) => [kernels.instructionSet, kernels] as const))(
  '%s',
  (_, kernels) => {
    describe.each(formats)('a frozen weight in %s', (dtype) => {
      const even =
        dtype === 'BF16' || dtype === 'F16'
          ? ([
              [1, 1],
              [17, 33],
              [50, 700],
            ] as const)
          : ([] as const)
      const shapes = [...even, [1, 32], [33, 64], [70, 416], [96, 2048]] as const

      test.each(['matmul_f32', 'matmul_bf16'] as const)(
        'is multiplied by %s as the numbers that it holds, forward and back',
        (op) => {
          for (const [index, bShape] of shapes.entries())
            for (const rows of [1, 3, 17])
              for (const turned of [false, true]) {
                const { tensor, values } = randomWeight(dtype, bShape, 10 + index)
                const a = noise(rows * (turned ? bShape[0] : bShape[1]), rows)
                const product = { a, rows, b: tensor, bShape, turned }
                const found = multiply(kernels, op, product)
                const decoded = multiply(kernels, op, { ...product, b: fakeTensor(values, bShape) }, 1)
                expect(sameBits(found, decoded)).toBe(true)
                expect(relativeError(found, reference(op, product, values))).toBeLessThan(2e-6)
              }
        },
      )
    })

    test('a vocabulary of 50,257 and sums over it keep their bits at any number of threads', () => {
      const bShape = [50_257, 32] as const
      const { tensor, values } = randomWeight('Q8_0', bShape, 3)
      for (const turned of [false, true]) {
        const product = {
          a: noise(3 * (turned ? bShape[0] : bShape[1]), 4),
          rows: 3,
          b: tensor,
          bShape,
          turned,
        }
        const alone = multiply(kernels, 'matmul_bf16', product, 1)
        expect(sameBits(multiply(kernels, 'matmul_bf16', product, 3), alone)).toBe(true)
        expect(relativeError(alone, reference('matmul_bf16', product, values))).toBeLessThan(1e-5)
      }
    })

    test.each(['matmul_f32', 'matmul_bf16'] as const)(
      'a tail of %s is more inputs of the same product',
      (op) => {
        for (const [rows, outputs, inputs, rank] of [
          [3, 40, 64, 16],
          [17, 33, 32, 2],
          [100, 70, 832, 40],
        ] as const)
          for (const turned of [false, true]) {
            const shape = (width: number) =>
              turned ? ([width, outputs] as const) : ([outputs, width] as const)
            const weight = randomWeight(
              inputs % 32 === 0 && (!turned || outputs % 32 === 0) ? 'Q8_0' : 'BF16',
              shape(inputs),
              20,
            )
            const [a, low, high] = [
              noise(rows * inputs, 21),
              noise(rows * rank, 22),
              noise(outputs * rank, 23),
            ]
            const tail = [fakeTensor(low, [rows, rank]), fakeTensor(high, shape(rank))]
            const product = { a, rows, b: weight.tensor, bShape: shape(inputs), turned, tail }
            const added = noise(rows * outputs, 24)
            const joined = {
              a: beside(a, low, rows),
              rows,
              b: fakeTensor(
                turned ? Float32Array.of(...weight.values, ...high) : beside(weight.values, high, outputs),
                shape(inputs + rank),
              ),
              bShape: shape(inputs + rank),
              turned,
            }
            expect(sameBits(multiply(kernels, op, product, 3), multiply(kernels, op, joined))).toBe(true)
            const both = multiply(kernels, op, { ...product, added })
            expect(sameBits(both, multiply(kernels, op, { ...joined, added }))).toBe(true)
          }
      },
    )

    test.each(['matmul_f32', 'matmul_bf16'] as const)(
      'a tail of %s counts beside one input, which lies as a transposed side does',
      (op) => {
        const [rows, outputs, rank] = [7, 21, 3]
        const [a, low] = [noise(rows, 31), noise(rows * rank, 32)]
        const [b, high] = [noise(outputs, 33), noise(outputs * rank, 34)]
        const tail = [fakeTensor(low, [rows, rank]), fakeTensor(high, [outputs, rank])]
        const bShape = [outputs, 1] as const
        const found = multiply(kernels, op, {
          a,
          rows,
          b: fakeTensor(b, bShape),
          bShape,
          turned: false,
          tail,
        })
        const joined = {
          a: beside(a, low, rows),
          rows,
          b: fakeTensor(new Float32Array(0), [0]),
          bShape: [outputs, 1 + rank] as const,
          turned: false,
        }
        expect(relativeError(found, reference(op, joined, beside(b, high, outputs)))).toBeLessThan(2e-6)
      },
    )

    test('what is added behind the product is added to it', () => {
      const bShape = [40, 64] as const
      const { tensor } = randomWeight('Q4_0', bShape, 5)
      const product = { a: noise(5 * 64, 6), rows: 5, b: tensor, bShape, turned: false }
      const added = noise(5 * 40, 7)
      const plain = multiply(kernels, 'matmul_f32', product)
      const sum = plain.map((value, i) => value + added[i]!)
      expect(sameBits(multiply(kernels, 'matmul_f32', { ...product, added }), sum)).toBe(true)
    })
  },
)
