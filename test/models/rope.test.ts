import { expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { parseRope, rotaryAngles } from '../../src/models/rope.ts'
import { Device } from '../../src/runtime/device.ts'
import { Graph } from '../../src/runtime/graph.ts'

const device = new Device({ device: 'cpu', threads: 1 })
const dimensions = 16
const positions = [0, 1, 17, 900]

/** What ggml makes of one head of each position. */
function turnedByGgml(config: Record<string, unknown>, x: Float32Array): Float32Array {
  const { attributes, factors } = parseRope(config, dimensions, 4096)
  using graph = new Graph(device)
  const input = graph.input('F32', [positions.length, 1, dimensions], 'x')
  const places = graph.input('I32', [positions.length], 'positions')
  const divisors = factors && graph.input('F32', [factors.length], 'factors')
  const output = graph.output(graph.ops.rope(input, places, attributes, divisors))
  graph.allocate()
  input.write(x)
  places.write(Int32Array.from(positions))
  if (factors !== undefined) divisors!.write(factors)
  graph.compute()
  const result = new Float32Array(x.length)
  output.read(result)
  return result
}

test.each([
  { name: 'no scaling', config: {} },
  { name: 'linear scaling', config: { rope_scaling: { rope_type: 'linear', factor: 4 } } },
  {
    name: "Llama 3.1's bands",
    config: {
      rope_scaling: { rope_type: 'llama3', factor: 8, original_max_position_embeddings: 64 },
    },
  },
  {
    name: 'YaRN',
    config: { rope_scaling: { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 1024 } },
  },
  {
    name: 'LongRoPE',
    config: {
      original_max_position_embeddings: 1024,
      rope_scaling: {
        rope_type: 'longrope',
        short_factor: Array(8).fill(1),
        long_factor: [1, 2, 3, 4, 5, 6, 7, 8],
      },
    },
  },
])('the angles of our kernels turn heads as ggml does with $name', ({ config }) => {
  const random = new Random(3)
  const x = Float32Array.from({ length: positions.length * dimensions }, () => random.normal())
  const expected = turnedByGgml(config, x)
  const { angles, factor } = rotaryAngles(parseRope(config, dimensions, 4096))
  for (const [row, position] of positions.entries()) {
    for (let i = 0; i < dimensions / 2; i++) {
      const [a, b] = [row * dimensions + i, row * dimensions + i + dimensions / 2]
      const angle = position * angles[i]!
      const [cos, sin] = [Math.cos(angle) * factor, Math.sin(angle) * factor]
      // ggml multiplies its way from angle to angle in single precision.
      expect(expected[a]!).toBeCloseTo(x[a]! * cos - x[b]! * sin, 3)
      expect(expected[b]!).toBeCloseTo(x[a]! * sin + x[b]! * cos, 3)
    }
  }
})

// From transformers 5.18 (ROPE_INIT_FUNCTIONS.yarn): heads of 16, 1024 of 4096 tokens, a factor of 4 where none is said.
const wholePairs = [1, 0.3162278, 0.08125, 0.01976424, 0.004375, 0.0007905695, 0.00025, 7.905695e-5]
const anyPairs = [1, 0.3162278, 0.08539864, 0.01912678, 0.003556971, 0.0007905695, 0.00025, 7.905695e-5]
const halved = [1, 0.3162278, 0.125, 0.04743417, 0.0175, 0.006324556, 0.002, 0.0006324556]
const ratio = 1.0648216253695715
test.each([
  { own: {}, angles: wholePairs, factor: 1.138629436111989 },
  { own: { mscale: 1, mscale_all_dim: 1 }, angles: wholePairs, factor: 1 },
  { own: { mscale: 1, mscale_all_dim: 0.5 }, angles: wholePairs, factor: ratio },
  { own: { mscale: 0.75, mscale_all_dim: 1 }, angles: wholePairs, factor: 0.9695622140717355 },
  { own: { mscale: 2, mscale_all_dim: 0 }, angles: wholePairs, factor: 1.138629436111989 },
  { own: { mscale: 2 }, angles: wholePairs, factor: 1.138629436111989 },
  { own: { mscale: 2, mscale_all_dim: 1, attention_factor: 1.25 }, angles: wholePairs, factor: 1.25 },
  { own: { mscale: 1, mscale_all_dim: 0.5, truncate: false }, angles: anyPairs, factor: ratio },
  { own: { mscale: 1, mscale_all_dim: 0.5, factor: null }, angles: wholePairs, factor: ratio },
  { own: { factor: 0.5 }, angles: halved, factor: 1 },
])('YaRN with $own turns and stretches heads as transformers does', ({ own, angles, factor }) => {
  const scaling = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 1024, ...own }
  const turned = rotaryAngles(parseRope({ rope_scaling: scaling }, dimensions, 4096))
  for (const [pair, angle] of angles.entries()) expect(turned.angles[pair]! / angle).toBeCloseTo(1, 6)
  expect(turned.factor).toBeCloseTo(factor, 12)
})

test('LongRoPE takes the divisors of the context that is used, and its factor from what the model takes', () => {
  const config = {
    partial_rotary_factor: 0.75,
    original_max_position_embeddings: 1024,
    rope_scaling: { type: 'su', short_factor: Array(6).fill(1), long_factor: [1, 2, 3, 4, 5, 6] },
  }
  const rope = (context?: number) => parseRope(config, dimensions, 4096, context)
  expect(rope().attributes.dimensions).toBe(12)
  expect([...rope().factors!]).toEqual([1, 2, 3, 4, 5, 6])
  expect([...rope(1025).factors!]).toEqual([1, 2, 3, 4, 5, 6])
  expect([...rope(1024).factors!]).toEqual([1, 1, 1, 1, 1, 1])
  // transformers: sqrt(1 + ln(4096 / 1024) / ln 1024), whatever the length.
  for (const context of [1024, undefined])
    expect(rope(context).attributes.attnFactor).toBeCloseTo(Math.sqrt(1.2), 12)
  const wrong = { ...config, rope_scaling: { ...config.rope_scaling, long_factor: [1, 2] } }
  expect(() => parseRope(wrong, dimensions, 4096)).toThrow(
    /long_factor is \[1,2\]; it must be a list of 6 numbers/,
  )
  expect(() => parseRope({ partial_rotary_factor: 0.7 }, dimensions, 4096)).toThrow(/partial_rotary_factor/)
  expect(() => parseRope({}, 33, 4096)).toThrow(/heads of 33 dimensions .* turn pairs/)
})
