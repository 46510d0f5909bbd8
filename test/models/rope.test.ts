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
