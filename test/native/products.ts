/** Products of packed weights run by hand, and what they are by definition. */
import { bytesOf, type DType } from '../../src/base/dtype.ts'
import { Random } from '../../src/base/random.ts'
import { linearGates } from '../../src/runtime/kernel-ops.ts'
import {
  KernelContext,
  type Kernels,
  linearOps,
  type PackedFormat,
  type PackSource,
} from '../../src/runtime/kernels.ts'
import { type FakeTensor, fakeTensor, halfToNumber, multipliesPairs, runOp } from './tensors.ts'
import type { Weight } from './weights.ts'

// N rows, K inputs, M outputs.

/** What a row of activations becomes on its way into the product. */
export function prepared(kernels: Kernels, format: PackedFormat, row: Float32Array): Float64Array {
  if (isCoded(format)) return rounded(row, scaledTogether(format))
  const pairs = format === 'bf16' && multipliesPairs(kernels)
  return Float64Array.from(row, (x) => (pairs ? toBfloat(x) : x))
}

const oneFloat = new DataView(new ArrayBuffer(4))

function toBfloat(x: number): number {
  oneFloat.setFloat32(0, x)
  const bits = oneFloat.getUint32(0)
  oneFloat.setUint32(0, (bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000)
  return oneFloat.getFloat32(0)
}

/** Inputs of q8 weights that share a scale. */
const shared = 256

/** Activations that share a scale. */
export const scaledTogether = (format: PackedFormat) => (format === 'q8' ? shared : 128)

/** What a row is after rounding to 127 steps per `shared` numbers. */
export function rounded(row: ArrayLike<number>, shared: number): Float64Array {
  const out = Float64Array.from(row)
  for (let g = 0; g < row.length; g += shared) {
    const group = out.subarray(g, g + shared)
    const scale = group.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127
    group.forEach((x, i) => {
      group[i] = scale > 0 ? Math.round(x / scale) * scale : 0
    })
  }
  return out
}

/** The numbers of a weight once it is packed: in q8 eight groups are multiples of the largest of their scales. */
export function stored(format: PackedFormat, { source, values }: Weight, inputs: number): Float64Array {
  if (format !== 'q8') return values
  const out = new Float64Array(values.length)
  for (let row = 0; row < values.length; row += inputs) {
    const end = row + inputs
    if (source.dtype !== 'Q8_0') out.set(rounded(values.subarray(row, end), shared), row)
    else
      for (let at = row; at < end; at += shared)
        shareScale(source, values, at, Math.min(at + shared, end), out)
  }
  return out
}

function shareScale(
  { data }: PackSource,
  values: Float64Array,
  from: number,
  end: number,
  out: Float64Array,
): void {
  const { buffer, byteOffset } = data as Uint8Array
  const bytes = new DataView(buffer, byteOffset)
  let scale = 0
  for (let at = from; at < end; at += 32) {
    scale = Math.max(scale, halfToNumber(bytes.getUint16((at / 32) * bytesOf('Q8_0', 32), true)))
  }
  for (let at = from; at < end; at++) {
    const steps = values[at]! / scale
    out[at] = Math.sign(steps) * Math.round(Math.abs(steps)) * scale
  }
}

export function product(x: Float64Array, weight: Float64Array, outputs: number): Float64Array {
  const inputs = weight.length / outputs
  return Float64Array.from({ length: outputs }, (_, o) => {
    let sum = 0
    for (let k = 0; k < inputs; k++) sum += x[k]! * weight[o * inputs + k]!
    return sum
  })
}

export interface Extras {
  norm?: Float32Array
  bias?: Float32Array
  residual?: Float32Array
  gated?: keyof typeof linearGates
}

export const epsilon = 1e-5

export function runLinear(
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
    gated: gated ? linearGates[gated] : 0,
    adapted: 0,
    epsilon,
  })
  runOp(kernels, call, dst, threads)
  runOp(kernels, call, dst, threads)
  return dst.data as Float32Array
}

export function packed(kernels: Kernels, format: PackedFormat, weight: Weight, inputs: number): Uint8Array {
  const into = new Uint8Array(kernels.packedBytes(format, weight.source.rows, inputs))
  kernels.packRows(format, into, inputs, 0, weight.source)
  return into
}

export function activations(rows: number, inputs: number, seed = 5): Float32Array {
  const random = new Random(seed)
  return Float32Array.from({ length: rows * inputs }, () => random.normal())
}

export const cases: readonly (readonly [PackedFormat, DType])[] = [
  ['q8', 'Q8_0'],
  ['q8', 'F32'],
  ['q4s', 'Q4_0'],
  ['q4', 'Q4_1'],
  ['q5s', 'Q5_0'],
  ['q5', 'Q5_1'],
  ['q4k', 'Q4_K'],
  ['q5k', 'Q5_K'],
  ['q6k', 'Q6_K'],
  ['mx4', 'MXFP4'],
  ['f16', 'F16'],
  ['bf16', 'BF16'],
  ['f32', 'F32'],
]

export const isCoded = (format: PackedFormat) => format.startsWith('q') || format === 'mx4'
