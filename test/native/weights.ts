/** Weights of every GGUF format, of random bytes, with what their numbers mean. */
import type { DType } from '../../src/base/dtype.ts'
import { bytesOf, dtypes } from '../../src/base/dtype.ts'
import { Random } from '../../src/base/random.ts'
import { dequantize } from '../../src/formats/convert.ts'
import type { PackSource } from '../../src/runtime/kernels.ts'
import { halfToNumber } from './tensors.ts'

export interface Weight {
  source: PackSource
  /** What the stored numbers mean, [M, K]. */
  values: Float64Array
}

/** A float16 with a magnitude between 2^-8 and 2^-6. */
function smallHalf(random: Random): number {
  return (7 + random.integer(2)) * 1024 + random.integer(1024)
}

/** Any bytes are codes, once the halves among them are small; test/formats holds their meaning against ggml. */
function anyCodes(
  dtype: DType,
  halves: readonly number[],
  random: Random,
  block: DataView,
  values: Float64Array,
): void {
  for (let i = 0; i < block.byteLength; i++) block.setUint8(i, random.integer(256))
  for (const at of halves) block.setUint16(at, smallHalf(random), true)
  values.set(dequantize(dtype, new Uint8Array(block.buffer, block.byteOffset, block.byteLength)))
}

/** For all of them: one of its own for each number takes longer than all else. */
const oneFloat = new DataView(new ArrayBuffer(4))

/** Random blocks of a GGUF format, and the numbers that its specification says they are. */
const codecs: Partial<Record<DType, (random: Random, block: DataView, values: Float64Array) => void>> = {
  Q8_0: (random, block, values) => {
    const scale = smallHalf(random)
    block.setUint16(0, scale, true)
    for (let i = 0; i < 32; i++) {
      const code = random.integer(255) - 127
      block.setInt8(2 + i, code)
      values[i] = code * halfToNumber(scale)
    }
  },
  Q4_0: (random, block, values) => {
    const scale = smallHalf(random)
    block.setUint16(0, scale, true)
    for (let i = 0; i < 16; i++) {
      const [low, high] = [random.integer(16), random.integer(16)]
      block.setUint8(2 + i, low | (high << 4))
      values[i] = (low - 8) * halfToNumber(scale)
      values[i + 16] = (high - 8) * halfToNumber(scale)
    }
  },
  Q4_1: (random, block, values) => {
    const [scale, least] = [smallHalf(random), smallHalf(random) | 0x8000]
    block.setUint16(0, scale, true)
    block.setUint16(2, least, true)
    for (let i = 0; i < 16; i++) {
      const [low, high] = [random.integer(16), random.integer(16)]
      block.setUint8(4 + i, low | (high << 4))
      values[i] = low * halfToNumber(scale) + halfToNumber(least)
      values[i + 16] = high * halfToNumber(scale) + halfToNumber(least)
    }
  },
  Q5_0: (random, block, values) => anyCodes('Q5_0', [0], random, block, values),
  Q5_1: (random, block, values) => anyCodes('Q5_1', [0, 2], random, block, values),
  Q4_K: (random, block, values) => anyCodes('Q4_K', [0, 2], random, block, values),
  Q5_K: (random, block, values) => anyCodes('Q5_K', [0, 2], random, block, values),
  Q6_K: (random, block, values) => anyCodes('Q6_K', [208], random, block, values),
  MXFP4: (random, block, values) => {
    for (let i = 0; i < block.byteLength; i++) block.setUint8(i, random.integer(256))
    block.setUint8(0, 118 + random.integer(5))
    values.set(dequantize('MXFP4', new Uint8Array(block.buffer, block.byteOffset, block.byteLength)))
  },
  F32: (random, block, values) => {
    values[0] = Math.fround(random.normal())
    block.setFloat32(0, values[0], true)
  },
  F16: (random, block, values) => {
    const half = smallHalf(random) | (random.integer(2) << 15)
    block.setUint16(0, half, true)
    values[0] = halfToNumber(half)
  },
  BF16: (random, block, values) => {
    oneFloat.setFloat32(0, random.normal())
    block.setUint16(0, oneFloat.getUint16(0), true)
    oneFloat.setUint16(2, 0)
    values[0] = oneFloat.getFloat32(0)
  },
}

/** Random rows of a format, with what they mean. */
export function randomWeight(dtype: DType, rows: number, inputs: number, seed: number): Weight {
  const random = new Random(seed)
  const data = new Uint8Array(bytesOf(dtype, rows * inputs))
  const perBlock = dtypes[dtype].block
  const blockBytes = bytesOf(dtype, perBlock)
  const values = new Float64Array(rows * inputs)
  for (let b = 0; b < values.length / perBlock; b++) {
    const block = new DataView(data.buffer, b * blockBytes, blockBytes)
    codecs[dtype]!(random, block, values.subarray(b * perBlock, (b + 1) * perBlock))
  }
  return { source: { dtype, data, rows }, values }
}
