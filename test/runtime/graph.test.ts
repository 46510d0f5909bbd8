import { readdirSync } from 'node:fs'
import { expect, test } from 'vitest'
import { Arena } from '../../src/runtime/arena.ts'
import { Device } from '../../src/runtime/device.ts'
import { loadGgml } from '../../src/runtime/ffi.ts'
import { Graph, GraphMemory } from '../../src/runtime/graph.ts'

const device = new Device({ device: 'cpu', threads: 1 })

test('a graph computes the same product as plain arithmetic and can be run again with other inputs', () => {
  using graph = new Graph(device, 16)
  const a = graph.input('F32', [2, 3], 'a')
  const b = graph.input('F32', [4, 3], 'b')
  const y = graph.output(graph.ops.matmul(a, b))
  graph.allocate()
  b.write(Float32Array.from({ length: 12 }, (_, i) => i))
  for (const factor of [1, 2]) {
    a.write(Float32Array.of(1, 0, 0, 1, 1, 1).map((value) => value * factor))
    graph.compute()
    const expected = [0, 3, 6, 9, 3, 12, 21, 30].map((value) => value * factor)
    expect([...y.toFloats()]).toEqual(expected)
  }
})

test('permute follows numpy: dimension i of the result is dimension order[i] of the source', () => {
  using graph = new Graph(device, 16)
  const x = graph.input('F32', [2, 3, 4], 'x')
  const y = graph.output(graph.ops.contiguous(graph.ops.permute(x, [2, 0, 1])))
  graph.allocate()
  x.write(Float32Array.from({ length: 24 }, (_, i) => i))
  graph.compute()
  expect(y.shape).toEqual([4, 2, 3])
  const out = y.toFloats()
  for (let k = 0; k < 4; k++)
    for (let i = 0; i < 2; i++)
      for (let j = 0; j < 3; j++) expect(out[k * 6 + i * 3 + j]).toBe(i * 12 + j * 4 + k)
})

test('an output that is a view keeps its value to the end of the run', () => {
  using graph = new Graph(device, 64)
  const x = graph.input('F32', [4, 8], 'x')
  const view = graph.output(graph.ops.reshape(graph.ops.scale(x, 2), [8, 4]))
  let other = graph.ops.scale(x, 3)
  for (let i = 0; i < 4; i++) other = graph.ops.scale(graph.ops.add(other, x), 3)
  graph.output(other)
  graph.allocate()
  x.write(new Float32Array(32).fill(1))
  graph.compute()
  expect([...view.toFloats()]).toEqual(new Array(32).fill(2))
})

test('a slice reads the middle of a dimension', () => {
  using graph = new Graph(device, 16)
  const x = graph.input('F32', [2, 6], 'x')
  const y = graph.output(graph.ops.contiguous(graph.ops.slice(x, 1, 2, 3)))
  graph.allocate()
  x.write(Float32Array.from({ length: 12 }, (_, i) => i))
  graph.compute()
  expect([...y.toFloats()]).toEqual([2, 3, 4, 8, 9, 10])
})

test('an arena is freed even when the step throws', () => {
  let kept: Arena | undefined
  expect(() => {
    using arena = new Arena(4)
    kept = arena
    arena.leaf('F32', [8], 'x')
    arena.allocate(device.bufferType)
    throw new Error('step')
  }).toThrow('step')
  expect(kept?.disposed).toBe(true)
})

test('computing on another thread leaves the event loop running', async () => {
  using graph = new Graph(device, 16)
  const a = graph.input('F32', [512, 2048], 'a')
  const b = graph.input('F32', [2048, 2048], 'b')
  const y = graph.output(graph.ops.matmul(a, b))
  graph.allocate()
  a.write(new Float32Array(a.size).fill(1))
  b.write(new Float32Array(b.size).fill(0.5))
  let turns = 0
  let done = false
  const count = () => {
    turns++
    if (!done) setImmediate(count)
  }
  setImmediate(count)
  await graph.computeAsync()
  done = true
  expect(turns).toBeGreaterThan(10)
  expect(y.toFloats()[5]).toBe(1024)
})

test.skipIf(process.platform !== 'linux')(
  'kept threads outlive a computation, others are started for each',
  () => {
    const threads = () => readdirSync('/proc/self/task').length
    const threadsAfterComputing = (keep: boolean) => {
      using pair = new Device({ device: 'cpu', threads: 2 })
      const before = threads()
      if (keep) pair.keepThreads()
      using graph = new Graph(pair, 16)
      const x = graph.input('F32', [128, 1, 128], 'x')
      graph.output(graph.ops.matmul(x, x))
      graph.allocate()
      graph.compute()
      return threads() - before
    }
    expect(threadsAfterComputing(true)).toBeGreaterThanOrEqual(1)
    expect(threadsAfterComputing(false)).toBe(0)
  },
)

test('the device says what it is and the library says its version', () => {
  expect(device.name).toBe('CPU')
  expect(loadGgml().version).toMatch(/^\d+\.\d+/)
})

test('an unknown device is refused with the list of those that exist', () => {
  expect(() => new Device({ device: 'tpu9' })).toThrow(/no device 'tpu9'.*CPU/)
})

test('weights go to rearranging memory only where the library can multiply from it', () => {
  const { ggml, bufferType } = device
  for (const dtype of ['F32', 'F16', 'Q8_0', 'Q4_0', 'Q4_K'] as const) {
    const chosen = device.productBufferType(dtype, 512, 512)
    const names = ['CPU', ...device.extraBufferTypes().map(({ name }) => name)]
    expect(names).toContain(ggml.bufferTypeName(chosen))
  }
  // A float product runs from plain memory on every processor without AMX or KleidiAI.
  if (device.extraBufferTypes().every(({ name }) => name === 'CPU_REPACK')) {
    expect(device.productBufferType('F32', 512, 512)).toBe(bufferType)
  }
})

test('graphs that share memory are planned each by itself, however alike they look', () => {
  using memory = new GraphMemory(device)
  const build = (keepsFirst: boolean) => {
    const graph = new Graph(device, 16, 4, { memory })
    const x = graph.input('F32', [64], 'x')
    const { ops } = graph
    const first = ops.add(x, x)
    if (keepsFirst) graph.output(first)
    let last = ops.add(keepsFirst ? x : first, x)
    for (let i = 0; i < 2; i++) last = ops.add(last, x)
    graph.output(last)
    graph.allocate()
    x.write(new Float32Array(64).fill(1))
    return { graph, first, last }
  }
  // A chain in which everything may lie in one place; then as many nodes, of which the first is kept.
  build(false).graph.dispose()
  const { graph, first, last } = build(true)
  graph.compute()
  expect([first, last].map((tensor) => tensor.toFloats()[0])).toEqual([2, 4])
  graph.dispose()
})
