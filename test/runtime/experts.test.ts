import { expect, test } from 'vitest'
import type { DType } from '../../src/base/dtype.ts'
import { Random } from '../../src/base/random.ts'
import { dequantize } from '../../src/formats/convert.ts'
import { encodeRows } from '../../src/models/rows.ts'
import { Arena } from '../../src/runtime/arena.ts'
import { Device } from '../../src/runtime/device.ts'
import { Graph } from '../../src/runtime/graph.ts'

// N rows, E experts, K used by a row, W inputs, F outputs of an expert.
const device = new Device({ device: 'cpu', threads: 1 })
const [experts, used, inputs, outputs] = [5, 2, 256, 12]
const random = new Random(1)
const numbers = (count: number) => Float32Array.from({ length: count }, () => random.normal())
const rows = numbers(experts * outputs * inputs) //       [E*F, W]
const x = numbers(40 * inputs) //                         [N, W]
const ids = Int32Array.from({ length: 40 * used }, () => random.integer(experts))

/** [N, K, F] */
function products(dtype: DType, first: number, count: number): Float32Array {
  using arena = new Arena(1)
  const weight = arena.leaf(dtype, [experts * outputs, inputs], 'weight')
  arena.allocate(device.bufferType)
  weight.write(encodeRows(device.ggml, rows, dtype, experts * outputs, inputs))
  using graph = new Graph(device, 64)
  const [input, chosen] = [
    graph.input('F32', [count, 1, inputs], 'x'),
    graph.input('I32', [count, used], 'ids'),
  ]
  const result = graph.output(graph.ops.expertProduct(input, weight, experts, chosen))
  graph.allocate()
  input.write(x.slice(first * inputs, (first + count) * inputs))
  chosen.write(ids.slice(first * used, (first + count) * used))
  graph.compute()
  return result.toFloats()
}

/** Activations are rounded as weights are, to 8 bits where those are codes; sums of 256 products have a spread of 16. */
const tolerance = { F32: 1e-4, F16: 0.03, BF16: 0.2, Q8_0: 0.8, Q4_0: 0.8, Q4_K: 0.8, Q6_K: 0.8, MXFP4: 0.8 }

test.each(['F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_K', 'Q6_K', 'MXFP4'] as const)(
  'rows are multiplied by the experts that each names, by the same bits in company as alone: %s',
  (dtype) => {
    const together = products(dtype, 0, 40)
    const weight = dequantize(dtype, encodeRows(device.ggml, rows, dtype, experts * outputs, inputs))
    for (let n = 0; n < 40; n++) {
      const alone = products(dtype, n, 1)
      expect(together.subarray(n * used * outputs, (n + 1) * used * outputs)).toEqual(alone)
      for (let i = 0; i < used * outputs; i++) {
        const expert = ids[n * used + Math.floor(i / outputs)]!
        const row = expert * outputs + (i % outputs)
        let sum = 0
        for (let w = 0; w < inputs; w++) sum += x[n * inputs + w]! * weight[row * inputs + w]!
        expect(Math.abs(alone[i]! - sum)).toBeLessThan(tolerance[dtype])
      }
    }
  },
)

test('of equal logits the first expert comes first, among 16 or fewer', () => {
  using graph = new Graph(device, 64)
  const input = graph.input('F32', [2, 16], 'logits')
  const order = graph.output(graph.ops.argsort(input))
  graph.allocate()
  input.write(Float32Array.from({ length: 32 }, (_, i) => (i < 16 ? 1 : i % 2)))
  graph.compute()
  const found = new Int32Array(32)
  order.read(found)
  const every = (from: number) => Array.from({ length: 8 }, (_, i) => from + 2 * i)
  expect([...found]).toEqual([...Array(16).keys(), ...every(1), ...every(0)])
})
