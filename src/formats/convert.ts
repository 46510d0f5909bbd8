import { assert } from '../base/assert.ts'
import { type DType, dtypes } from '../base/dtype.ts'
import { halfToFloat32, k2, k3, k4, k5, k6 } from './k-quants.ts'

/**
 * Number formats in plain TypeScript: the reference that native code is tested against, and the way for
 * small jobs. Block formats follow ggml's layouts and its arithmetic in 32-bit floats, bit for bit.
 */

const bitsOf = new Uint32Array(1)
const floatOf = new Float32Array(bitsOf.buffer)

/** The value of an IEEE 754 half. */
export function f16ToF32(half: number): number {
  return halfToFloat32[half & 0xffff]!
}

/** The nearest half, ties to even; beyond the largest half it is infinity. */
export function f32ToF16(value: number): number {
  floatOf[0] = value
  const bits = bitsOf[0]!
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00 // NaN stays NaN, quiet
  if (magnitude >= 0x47800000) return sign | 0x7c00
  // Halves below 2^-14 are multiples of 2^-24: adding 0.5 leaves exactly those in the float's last bits.
  if (magnitude < 0x38800000) {
    floatOf[0] = Math.abs(value) + 0.5
    return sign | (bitsOf[0]! - 0x3f000000)
  }
  const odd = (magnitude >>> 13) & 1
  // A carry out of the mantissa is the next exponent, and out of the largest half it is infinity.
  return sign | ((magnitude - 0x38000000 + 0xfff + odd) >>> 13)
}

/** The value of a bfloat16: the upper half of a float's bits. */
export function bf16ToF32(half: number): number {
  bitsOf[0] = half << 16
  return floatOf[0]!
}

/** The nearest bfloat16, ties to even. */
export function f32ToBf16(value: number): number {
  floatOf[0] = value
  const bits = bitsOf[0]!
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 64 // NaN stays NaN, quiet
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff
}

/** Decodes the block that starts at byte `at` of `bytes` into `into` from index `to` on. */
export type BlockDecoder = (bytes: Uint8Array, at: number, into: Float32Array, to: number) => void

/** A decoder of single numbers by a DataView getter. */
function plain(get: (view: DataView, at: number) => number): BlockDecoder {
  let view: DataView = new DataView(new ArrayBuffer(0))
  return (bytes, at, into, to) => {
    if (
      view.buffer !== bytes.buffer ||
      view.byteOffset !== bytes.byteOffset ||
      view.byteLength !== bytes.length
    )
      view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    into[to] = get(view, at)
  }
}

/** Adding 0 would turn -0 into 0; adding -0 changes no number at all. */
const nothing = -0

const decoders: { readonly [D in DType]: BlockDecoder } = {
  F32: plain((view, at) => view.getFloat32(at, true)),
  F64: plain((view, at) => view.getFloat64(at, true)),
  U8: (bytes, at, into, to) => {
    into[to] = bytes[at]!
  },
  I8: plain((view, at) => view.getInt8(at)),
  I16: plain((view, at) => view.getInt16(at, true)),
  I32: plain((view, at) => view.getInt32(at, true)),
  I64: plain((view, at) => Number(view.getBigInt64(at, true))),
  F16: (bytes, at, into, to) => {
    into[to] = half(bytes, at)
  },
  BF16: (bytes, at, into, to) => {
    into[to] = bf16ToF32(bytes[at]! | (bytes[at + 1]! << 8))
  },
  Q4_0: (bytes, at, into, to) => decodeNibbles(bytes, at + 2, into, to, half(bytes, at), -8, nothing),
  Q4_1: (bytes, at, into, to) =>
    decodeNibbles(bytes, at + 4, into, to, half(bytes, at), 0, half(bytes, at + 2)),
  Q5_0: (bytes, at, into, to) => decodeFives(bytes, at + 2, into, to, half(bytes, at), -16, nothing),
  Q5_1: (bytes, at, into, to) =>
    decodeFives(bytes, at + 4, into, to, half(bytes, at), 0, half(bytes, at + 2)),
  Q8_0: (bytes, at, into, to) => {
    const scale = half(bytes, at)
    for (let i = 0; i < 32; i++) into[to + i] = ((bytes[at + 2 + i]! << 24) >> 24) * scale
  },
  Q2_K: k2,
  Q3_K: k3,
  Q4_K: k4,
  Q5_K: k5,
  Q6_K: k6,
  MXFP4: decodeMicroscaled,
}

function half(bytes: Uint8Array, at: number): number {
  return halfToFloat32[bytes[at]! | (bytes[at + 1]! << 8)]!
}

/** 16 bytes hold elements 0-15 in their low and 16-31 in their high four bits. */
function decodeNibbles(
  bytes: Uint8Array,
  at: number,
  into: Float32Array,
  to: number,
  scale: number,
  shift: number,
  least: number,
): void {
  for (let i = 0; i < 16; i++) {
    const byte = bytes[at + i]!
    into[to + i] = Math.fround(((byte & 15) + shift) * scale) + least
    into[to + 16 + i] = Math.fround(((byte >> 4) + shift) * scale) + least
  }
}

/** As {@link decodeNibbles}, after 32 bits with the fifth bit of every element. */
function decodeFives(
  bytes: Uint8Array,
  at: number,
  into: Float32Array,
  to: number,
  scale: number,
  shift: number,
  least: number,
): void {
  for (let i = 0; i < 32; i++) {
    const fifth = ((bytes[at + (i >> 3)]! >> (i & 7)) & 1) << 4
    const four = (bytes[at + 4 + (i & 15)]! >> (i < 16 ? 0 : 4)) & 15
    into[to + i] = Math.fround(((four | fifth) + shift) * scale) + least
  }
}

/** Twice the numbers of E2M1, four bits with a sign in front. */
const twiceE2M1 = Float32Array.of(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

/** A power of two, biased by 127 (E8M0), before 32 numbers of E2M1 (OCP Microscaling Formats 1.0), as ggml has them in order. */
function decodeMicroscaled(bytes: Uint8Array, at: number, into: Float32Array, to: number): void {
  const exponent = bytes[at]!
  const half = exponent === 255 ? Number.NaN : 2 ** (exponent - 128)
  for (let i = 0; i < 16; i++) {
    const byte = bytes[at + 1 + i]!
    into[to + i] = twiceE2M1[byte & 15]! * half
    into[to + 16 + i] = twiceE2M1[byte >> 4]! * half
  }
}

/** Number of elements that `bytes` bytes of `dtype` encode; they must be whole blocks. */
function elementsOf(dtype: DType, bytes: number): number {
  const layout = dtypes[dtype]
  assert(bytes % layout.bytes === 0, `${bytes} bytes of ${dtype} are whole blocks of ${layout.bytes}`)
  return (bytes / layout.bytes) * layout.block
}

/**
 * Decodes the `elements` numbers that `bytes` encode, whatever the format. 64-bit numbers lose what a
 * 32-bit float cannot hold.
 */
export function dequantize(
  dtype: DType,
  bytes: Uint8Array,
  elements = elementsOf(dtype, bytes.length),
): Float32Array {
  assert(
    elements === elementsOf(dtype, bytes.length),
    `${bytes.length} bytes of ${dtype} hold ${elements} numbers`,
  )
  const { block, bytes: blockBytes } = dtypes[dtype]
  const decode = decoders[dtype]
  const into = new Float32Array(elements)
  for (let at = 0, to = 0; at < bytes.length; at += blockBytes, to += block) decode(bytes, at, into, to)
  return into
}

/** Formats that {@link quantize} encodes. */
export type EncodableDType = 'F32' | 'F16' | 'BF16' | 'Q8_0' | 'Q4_0'

/** Encodes the block of `values` that starts at index `from` into `into` from byte `to` on. */
type BlockEncoder = (values: Float32Array, from: number, into: DataView, to: number) => void

const encoders: { readonly [D in EncodableDType]: BlockEncoder } = {
  F32: (values, from, into, to) => into.setFloat32(to, values[from]!, true),
  F16: (values, from, into, to) => into.setUint16(to, f32ToF16(values[from]!), true),
  BF16: (values, from, into, to) => into.setUint16(to, f32ToBf16(values[from]!), true),
  Q8_0: encodeQ8,
  Q4_0: encodeQ4,
}

/** Encodes floats; block formats take whole blocks of 32. Equal to ggml's reference quantisation. */
export function quantize(dtype: EncodableDType, values: Float32Array): Uint8Array {
  const { block, bytes: blockBytes } = dtypes[dtype]
  assert(values.length % block === 0, `${values.length} values are whole blocks of ${block}`)
  const encoded = new Uint8Array((values.length / block) * blockBytes)
  const view = new DataView(encoded.buffer)
  for (let from = 0, to = 0; from < values.length; from += block, to += blockBytes)
    encoders[dtype](values, from, view, to)
  return encoded
}

/** Scale = largest magnitude / 127, so that it becomes 127 or -127. */
function encodeQ8(values: Float32Array, from: number, into: DataView, to: number): void {
  let largest = 0
  for (let i = 0; i < 32; i++) largest = Math.max(largest, Math.abs(values[from + i]!))
  const scale = Math.fround(largest / 127)
  const inverse = scale === 0 ? 0 : Math.fround(1 / scale)
  into.setUint16(to, f32ToF16(scale), true)
  for (let i = 0; i < 32; i++)
    into.setInt8(to + 2 + i, roundAwayFromZero(Math.fround(values[from + i]! * inverse)))
}

/** Scale = the value of largest magnitude / -8, so that this value, whatever its sign, becomes -8 exactly. */
function encodeQ4(values: Float32Array, from: number, into: DataView, to: number): void {
  let extreme = 0
  for (let i = 0; i < 32; i++) {
    const value = values[from + i]!
    if (Math.abs(value) > Math.abs(extreme)) extreme = value
  }
  const scale = Math.fround(extreme / -8)
  const inverse = scale === 0 ? 0 : Math.fround(1 / scale)
  into.setUint16(to, f32ToF16(scale), true)
  const nibble = (value: number) => Math.min(15, Math.trunc(Math.fround(Math.fround(value * inverse) + 8.5)))
  for (let i = 0; i < 16; i++)
    into.setUint8(to + 2 + i, nibble(values[from + i]!) | (nibble(values[from + 16 + i]!) << 4))
}

function roundAwayFromZero(value: number): number {
  return value < 0 ? -Math.round(-value) : Math.round(value)
}
