/**
 * Decoders of ggml's K-quants: super-blocks of 256 elements whose sub-blocks share 16-bit scales.
 *
 * Every product and sum is rounded to 32 bits where ggml rounds it, so results are equal bit for bit:
 * a small integer times a float is exact in a double, and a double sum of two floats rounds once more
 * without harm (53 >= 2 * 24 + 2 bits; Figueroa 1995). Storing into a Float32Array is the last rounding.
 */

/** Every half's value as a float; a NaN loses its payload. */
export const halfToFloat32 = tableOfHalves()

function tableOfHalves(): Float32Array {
  const table = new Float32Array(65536)
  for (let half = 0; half < 65536; half++) {
    const sign = half & 0x8000 ? -1 : 1
    const exponent = (half >> 10) & 31
    const mantissa = half & 1023
    if (exponent === 31) table[half] = mantissa === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
    else
      table[half] = sign * (exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25))
  }
  return table
}

function half(bytes: Uint8Array, at: number): number {
  return halfToFloat32[bytes[at]! | (bytes[at + 1]! << 8)]!
}

/** Q2_K: 16 bytes of (minimum << 4 | scale), 64 bytes of 2-bit values, scale of scales, scale of minima. */
export function k2(bytes: Uint8Array, at: number, into: Float32Array, to: number): void {
  const scale = half(bytes, at + 80)
  const least = half(bytes, at + 82)
  for (let group = 0; group < 16; group++) {
    const pair = bytes[at + group]!
    const step = Math.fround(scale * (pair & 15))
    const base = Math.fround(least * (pair >> 4))
    const values = at + 16 + (group >> 3) * 32 + (group & 1) * 16
    const shift = ((group >> 1) & 3) * 2
    for (let i = 0; i < 16; i++)
      into[to + group * 16 + i] = Math.fround(step * ((bytes[values + i]! >> shift) & 3)) - base
  }
}

/** Q3_K: 32 bytes of third bits (set: no 4 is taken off), 64 bytes of lower bits, 12 bytes of 6-bit scales, scale. */
export function k3(bytes: Uint8Array, at: number, into: Float32Array, to: number): void {
  const scale = half(bytes, at + 108)
  const scales = at + 96
  for (let group = 0; group < 16; group++) {
    const low = group < 8 ? bytes[scales + group]! & 15 : bytes[scales + group - 8]! >> 4
    const high = (bytes[scales + 8 + (group & 3)]! >> ((group >> 2) * 2)) & 3
    const step = Math.fround(scale * ((low | (high << 4)) - 32))
    const thirdBits = at + (group & 1) * 16
    const values = at + 32 + (group >> 3) * 32 + (group & 1) * 16
    const shift = ((group >> 1) & 3) * 2
    for (let i = 0; i < 16; i++) {
      const third = (bytes[thirdBits + i]! >> (group >> 1)) & 1
      into[to + group * 16 + i] = step * (((bytes[values + i]! >> shift) & 3) - (third ? 0 : 4))
    }
  }
}

/** The 6-bit scale of sub-block `group` (of 8) in the 12 bytes at `at`, which Q4_K and Q5_K share. */
function sixBitScale(bytes: Uint8Array, at: number, group: number): number {
  if (group < 4) return bytes[at + group]! & 63
  return (bytes[at + group + 4]! & 15) | ((bytes[at + group - 4]! >> 6) << 4)
}

function sixBitMinimum(bytes: Uint8Array, at: number, group: number): number {
  if (group < 4) return bytes[at + group + 4]! & 63
  return (bytes[at + group + 4]! >> 4) | ((bytes[at + group]! >> 6) << 4)
}

/** Q4_K: scale of scales, scale of minima, 12 bytes of scales and minima, 128 bytes of 4-bit values. */
export function k4(bytes: Uint8Array, at: number, into: Float32Array, to: number): void {
  const scale = half(bytes, at)
  const least = half(bytes, at + 2)
  for (let group = 0; group < 8; group++) {
    const step = Math.fround(scale * sixBitScale(bytes, at + 4, group))
    const base = Math.fround(least * sixBitMinimum(bytes, at + 4, group))
    const values = at + 16 + (group >> 1) * 32
    const shift = (group & 1) * 4
    for (let i = 0; i < 32; i++)
      into[to + group * 32 + i] = Math.fround(step * ((bytes[values + i]! >> shift) & 15)) - base
  }
}

/** Q5_K: as Q4_K, with 32 bytes of fifth bits before the 4-bit values. */
export function k5(bytes: Uint8Array, at: number, into: Float32Array, to: number): void {
  const scale = half(bytes, at)
  const least = half(bytes, at + 2)
  for (let group = 0; group < 8; group++) {
    const step = Math.fround(scale * sixBitScale(bytes, at + 4, group))
    const base = Math.fround(least * sixBitMinimum(bytes, at + 4, group))
    const values = at + 48 + (group >> 1) * 32
    const shift = (group & 1) * 4
    for (let i = 0; i < 32; i++) {
      const fifth = ((bytes[at + 16 + i]! >> group) & 1) << 4
      into[to + group * 32 + i] = Math.fround(step * (((bytes[values + i]! >> shift) & 15) | fifth)) - base
    }
  }
}

/** Q6_K: 128 bytes of lower four bits, 64 bytes of upper two, 16 signed 8-bit scales, scale. */
export function k6(bytes: Uint8Array, at: number, into: Float32Array, to: number): void {
  const scale = half(bytes, at + 208)
  for (let group = 0; group < 16; group++) {
    // Each half of the block has four runs of 32: runs 0 and 1 are the low nibbles, 2 and 3 the high ones.
    const part = group >> 3
    const run = (group >> 1) & 3
    const first = (group & 1) * 16
    const step = Math.fround(scale * ((bytes[at + 192 + group]! << 24) >> 24))
    const lower = at + part * 64 + (run & 1) * 32 + first
    const upper = at + 128 + part * 32 + first
    for (let i = 0; i < 16; i++) {
      const four = (bytes[lower + i]! >> (run < 2 ? 0 : 4)) & 15
      const two = (bytes[upper + i]! >> (run * 2)) & 3
      into[to + group * 16 + i] = step * ((four | (two << 4)) - 32)
    }
  }
}
