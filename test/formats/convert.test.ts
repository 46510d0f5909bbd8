import { expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { bf16ToF32, dequantize, f16ToF32, f32ToBf16, f32ToF16, quantize } from '../../src/formats/convert.ts'

const known: [number, number][] = [
  [0, 0x0000],
  [-0, 0x8000],
  [1, 0x3c00],
  [-2, 0xc000],
  [65504, 0x7bff],
  [65519.99, 0x7bff],
  [65520, 0x7c00],
  [1e30, 0x7c00],
  [Number.POSITIVE_INFINITY, 0x7c00],
  [Number.NEGATIVE_INFINITY, 0xfc00],
  [2 ** -14, 0x0400],
  [2 ** -24, 0x0001],
  [2 ** -25, 0x0000],
  [2 ** -25 * 1.0001, 0x0001],
  [3 * 2 ** -25, 0x0002],
  [1 + 2 ** -11, 0x3c00],
  [1 + 3 * 2 ** -11, 0x3c02],
  [2 ** -149, 0x0000],
]

test.each(known)('the half nearest to %d, ties to even, is %i', (value, half) => {
  expect(f32ToF16(value)).toBe(half)
})

test('every half comes back from its float, and every bfloat16 too; NaN stays NaN', () => {
  for (let bits = 0; bits < 65536; bits++) {
    const half = f16ToF32(bits)
    if (Number.isNaN(half)) expect(f16ToF32(f32ToF16(half))).toBeNaN()
    else if (f32ToF16(half) !== bits) expect(f32ToF16(half)).toBe(bits)
    const brain = bf16ToF32(bits)
    if (Number.isNaN(brain)) expect(bf16ToF32(f32ToBf16(brain))).toBeNaN()
    else if (f32ToBf16(brain) !== bits) expect(f32ToBf16(brain)).toBe(bits)
  }
})

/** The finite neighbour of `value` among those of `decode` by search, ties to the even code: no bit tricks. */
function nearest(value: number, decode: (bits: number) => number, largest: number): number {
  let low = 0
  let high = largest
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if (decode(middle) <= value) low = middle
    else high = middle
  }
  const below = value - decode(low)
  const above = decode(high) - value
  return below < above || (below === above && low % 2 === 0) ? low : high
}

test('random floats round to the nearest half and bfloat16, as a search through all of them finds', () => {
  const random = new Random(7)
  for (let round = 0; round < 5000; round++) {
    const small = Math.fround(random.uniform() * 2 ** (random.integer(41) - 26))
    expect(f32ToF16(small)).toBe(nearest(small, f16ToF32, 0x7bff))
    const any = Math.fround(random.uniform() * 2 ** (random.integer(240) - 120))
    expect(f32ToBf16(any)).toBe(nearest(any, bf16ToF32, 0x7f7f))
    expect(f32ToBf16(-any)).toBe(f32ToBf16(any) | 0x8000)
  }
})

test('a bfloat16 tie goes to the even code and the largest float goes to infinity', () => {
  expect(f32ToBf16(1 + 2 ** -8)).toBe(0x3f80)
  expect(f32ToBf16(1 + 3 * 2 ** -8)).toBe(0x3f82)
  expect(f32ToBf16(3.4028234663852886e38)).toBe(0x7f80)
})

test('plain formats decode as their numbers, from an odd address too', () => {
  const store = new Uint8Array(65)
  const odd = store.subarray(1)
  odd.set(new Uint8Array(new Float32Array([1.5, -2]).buffer))
  expect([...dequantize('F32', odd.subarray(0, 8))]).toEqual([1.5, -2])
  expect([...dequantize('I8', Uint8Array.of(255, 1))]).toEqual([-1, 1])
  expect([...dequantize('I16', new Uint8Array(new Int16Array([-300]).buffer))]).toEqual([-300])
  expect([...dequantize('I32', new Uint8Array(new Int32Array([-70000]).buffer))]).toEqual([-70000])
  expect([...dequantize('I64', new Uint8Array(new BigInt64Array([-5n]).buffer))]).toEqual([-5])
  expect([...dequantize('F64', new Uint8Array(new Float64Array([0.1]).buffer))]).toEqual([Math.fround(0.1)])
  expect([...dequantize('F16', Uint8Array.of(0, 0x3c))]).toEqual([1])
  expect([...dequantize('BF16', Uint8Array.of(0x80, 0x3f))]).toEqual([1])
})

test.each([
  ['F16', 2 ** -11],
  ['BF16', 2 ** -8],
  ['Q8_0', 1 / 127],
  ['Q4_0', 1 / 7],
] as const)(
  'encoding in %s and decoding again errs by at most its step of the largest value',
  (dtype, step) => {
    const random = new Random(3)
    const values = Float32Array.from({ length: 256 }, () => random.normal())
    const decoded = dequantize(dtype, quantize(dtype, values))
    for (let block = 0; block < 256; block += 32) {
      const largest = Math.max(...values.subarray(block, block + 32).map(Math.abs))
      for (let i = block; i < block + 32; i++)
        expect(Math.abs(decoded[i]! - values[i]!)).toBeLessThanOrEqual(largest * step * 1.01)
    }
  },
)

test('a block of zeros stays zero', () => {
  for (const dtype of ['Q8_0', 'Q4_0'] as const)
    expect(dequantize(dtype, quantize(dtype, new Float32Array(32))).every((value) => value === 0)).toBe(true)
})
