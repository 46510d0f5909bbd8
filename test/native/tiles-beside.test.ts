/**
 * ggml configures the tiles of a thread once, in its first product there, and never again: what our products leave
 * behind decides whether its next one ends the process. Where the processor has no tiles, other layouts take turns.
 */
import { describe, expect, test } from 'vitest'
import { noise } from '../../bench/harness/graphs.ts'
import { encodeRows } from '../../src/models/rows.ts'
import { Arena } from '../../src/runtime/arena.ts'
import { Device } from '../../src/runtime/device.ts'
import { Graph } from '../../src/runtime/graph.ts'
import { KernelContext, kernelStatus, linearOps } from '../../src/runtime/kernels.ts'

const [rows, inputs, outputs] = [32, 256, 64]
const { kernels } = kernelStatus()

describe.skipIf(kernels === undefined)('on one thread', () => {
  test.each(['q8', 'bf16'] as const)("ggml's fastest products and ours of %s take turns", (packed) => {
    using device = new Device({ device: 'cpu', threads: 1 })
    using context = new KernelContext(kernels!)
    using theirArena = new Arena(4)
    using ourArena = new Arena(4)
    const numbers = noise(outputs * inputs)
    const weight = encodeRows(device.ggml, numbers, 'Q8_0', outputs, inputs)
    const their = theirArena.leaf('Q8_0', [outputs, inputs])
    theirArena.allocate(device.productBufferType('Q8_0', outputs, inputs))
    their.write(weight)
    const our = ourArena.leaf('I8', [kernels!.packedBytes(packed, outputs, inputs)])
    ourArena.allocate(device.bufferType)
    const into = new Uint8Array(our.bytes)
    const data = new Uint8Array(numbers.buffer)
    kernels!.packRows(packed, into, inputs, 0, { dtype: 'F32', data, rows: outputs })
    our.write(into)
    const run = (node: (graph: Graph, x: ReturnType<Graph['input']>) => ReturnType<Graph['output']>) => {
      const graph = new Graph(device)
      const x = graph.input('F32', [rows, inputs], 'x')
      const y = node(graph, x)
      graph.allocate()
      x.write(noise(rows * inputs, 2))
      const compute = () => {
        graph.compute()
        return y.toFloats()
      }
      return { graph, compute }
    }
    const theirs = run((graph, x) => graph.output(graph.ops.matmul(x, their)))
    const params = { normed: 0, biased: 0, residual: 0, gated: 0, adapted: 0, epsilon: 0 }
    const { fn, userdata } = context.call(linearOps[packed], params)
    const ours = run((graph, x) =>
      graph.output(graph.ops.custom('linear', fn, 'F32', [rows, outputs], [x, our], userdata)),
    )
    const [first, mine] = [theirs.compute(), ours.compute()]
    for (let turn = 0; turn < 3; turn++) {
      expect(theirs.compute()).toEqual(first)
      expect(ours.compute()).toEqual(mine)
    }
    const apart = mine.reduce((most, value, i) => Math.max(most, Math.abs(value - first[i]!)), 0)
    expect(apart).toBeLessThan(0.1)
    for (const { graph } of [theirs, ours]) graph.dispose()
  })
})
