import { readFileSync } from 'node:fs'
import koffi from 'koffi'
import { bytesOf, type DType, dtypes } from '../../src/base/dtype.ts'
import { Random } from '../../src/base/random.ts'
import { findCompiler } from '../../src/runtime/compiler.ts'
import { everyUnit } from '../../src/runtime/instruction-sets.ts'
import type { KernelOp, KernelParams } from '../../src/runtime/kernel-ops.ts'
import { type KernelCall, KernelContext, Kernels } from '../../src/runtime/kernels.ts'
import { buildKernels } from '../../src/runtime/kernels-build.ts'

/**
 * Tensors as ggml lays them out, made by hand, so that ops are tested without ggml. Lengths are given as in
 * the rest of the code, slowest first.
 */
type Data = Float32Array | Int32Array | Uint16Array | Uint8Array

export interface FakeTensor {
  struct: Uint8Array
  data: Data
  /** Keeps sources from being collected while native code may read them. */
  sources: readonly FakeTensor[]
}

const offsets = { ne: 16, nb: 48, src: 152, data: 248, size: 336 }

export function fakeTensor(
  data: Data,
  shape: readonly number[],
  sources: readonly FakeTensor[] = [],
): FakeTensor {
  const struct = new Uint8Array(offsets.size)
  const view = new DataView(struct.buffer)
  const lengths = [...shape].reverse()
  let stride = data.BYTES_PER_ELEMENT
  for (let i = 0; i < 4; i++) {
    const length = lengths[i] ?? 1
    view.setBigInt64(offsets.ne + 8 * i, BigInt(length), true)
    view.setBigUint64(offsets.nb + 8 * i, BigInt(stride), true)
    stride *= length
  }
  sources.forEach((source, i) => {
    view.setBigUint64(offsets.src + 8 * i, koffi.address(source.struct), true)
  })
  view.setBigUint64(offsets.data, koffi.address(data), true)
  return { struct, data, sources }
}

/** A weight [rows, columns] as a file has it, rows one behind the other. */
export function storedTensor(
  dtype: DType,
  data: Uint8Array,
  [rows, columns]: readonly [number, number],
): FakeTensor {
  const tensor = fakeTensor(data, [rows, columns])
  const view = new DataView(tensor.struct.buffer)
  const rowBytes = bytesOf(dtype, columns)
  view.setInt32(0, dtypes[dtype].ggml, true)
  view.setBigUint64(offsets.nb, BigInt(dtypes[dtype].bytes), true)
  view.setBigUint64(offsets.nb + 8, BigInt(rowBytes), true)
  view.setBigUint64(offsets.nb + 16, BigInt(rowBytes * rows), true)
  view.setBigUint64(offsets.nb + 24, BigInt(rowBytes * rows), true)
  return tensor
}

/** Numbers in BF16 without gaps, as sources or as room for a result. */
export function bfloatTensor(
  data: Uint16Array,
  shape: readonly number[],
  sources: readonly FakeTensor[] = [],
): FakeTensor {
  const tensor = fakeTensor(data, shape, sources)
  new DataView(tensor.struct.buffer).setInt32(0, dtypes.BF16.ggml, true)
  return tensor
}

/** A tensor [rows, heads, width] with given strides, starting at `offset` elements of `data`. */
export function stridedTensor(
  data: Float32Array,
  [rows, heads, width]: readonly [number, number, number],
  rowStride: number,
  offset: number,
  headStride = width,
): FakeTensor {
  const tensor = fakeTensor(data.subarray(offset), [rows, heads, width])
  const view = new DataView(tensor.struct.buffer)
  view.setBigUint64(offsets.nb + 8, BigInt(headStride * 4), true)
  view.setBigUint64(offsets.nb + 16, BigInt(rowStride * 4), true)
  return tensor
}

export function runOp(kernels: Kernels, call: KernelCall, dst: FakeTensor, threads = 2): void {
  kernels.run(call, dst.struct, threads)
}

const build = buildKernels(undefined, everyUnit)
// A machine without a compiler skips; sources that do not compile are a failure.
if (!build.ok && findCompiler() !== undefined) throw new Error(build.reason)
if (!build.ok) console.warn(`skipped: native kernels, because ${build.reason}`)

/**
 * Every set of kernels that this machine runs; empty (with a printed reason) without a compiler. Where there is
 * AVX-512, the AMX kernels run on emulated tiles too.
 */
export const everyKernels: readonly Kernels[] = build.ok ? kernelsIn(build.path) : []

function kernelsIn(path: string): Kernels[] {
  const { available } = new Kernels(path)
  const emulated = available.includes('avx512') ? (['amx-emulated'] as const) : []
  return [...available, ...emulated].map((set) => new Kernels(path, set))
}

const pairsHere =
  process.platform === 'linux' && /\bavx512_bf16\b/.test(readFileSync('/proc/cpuinfo', 'utf8'))

/** True where weights and caches in bfloat16 are multiplied by activations rounded to bfloat16 (AVX-512 BF16, tiles). */
export function multipliesPairs({ instructionSet }: Kernels): boolean {
  return instructionSet.startsWith('amx') || (instructionSet === 'avx512' && pairsHere)
}

function decodeHalf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >> 10) & 31
  const fraction = half & 1023
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  if (exponent === 0) return sign * fraction * 2 ** -24
  return sign * (1024 + fraction) * 2 ** (exponent - 25)
}

const halves = Float64Array.from({ length: 65536 }, (_, half) => decodeHalf(half))

export function halfToNumber(half: number): number {
  return halves[half]!
}

/** Largest difference between two arrays, relative to the largest magnitude in `expected`. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let difference = 0
  let magnitude = 1e-30
  for (let i = 0; i < expected.length; i++) {
    const d = Math.abs(actual[i]! - expected[i]!)
    if (!(d <= difference)) difference = d
    magnitude = Math.max(magnitude, Math.abs(expected[i]!))
  }
  return difference / magnitude
}

/** True when two arrays are the same to the last bit; far quicker than a deep comparison. */
export function sameBits(a: Data, b: Data): boolean {
  const bytes = (data: Data) => Buffer.from(data.buffer, data.byteOffset, data.byteLength)
  return bytes(a).equals(bytes(b))
}

export function normals(count: number, seed: number): Float32Array {
  const random = new Random(seed)
  return Float32Array.from({ length: count }, () => random.normal())
}

/** Runs an op twice through one call, so that counters must come back to their start; `before` lies in the result. */
export function runTwice<Op extends KernelOp>(
  kernels: Kernels,
  op: Op,
  params: KernelParams<Op>,
  shape: readonly number[],
  sources: readonly FakeTensor[],
  { threads = 2, before = 0 }: { threads?: number; before?: number } = {},
): Float32Array {
  const dst = fakeTensor(new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(before), shape, sources)
  using context = new KernelContext(kernels)
  const call = context.call(op, params)
  runOp(kernels, call, dst, threads)
  runOp(kernels, call, dst, threads)
  return dst.data as Float32Array
}
