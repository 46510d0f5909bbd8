import { describe, expect, test } from 'vitest'
import type { AdapterLayer } from '../../../src/models/adapter.ts'
import { readAdapterSettings } from '../../../src/models/adapter-config.ts'
import { defineModel } from '../../../src/models/registry.ts'
import { Arena } from '../../../src/runtime/arena.ts'
import { Device } from '../../../src/runtime/device.ts'
import { Graph } from '../../../src/runtime/graph.ts'
import type { Tensor } from '../../../src/runtime/tensor.ts'
import { backward } from '../../../src/train/backward.ts'
import { AdapterPart } from '../../../src/train/methods/lora.ts'
import { modelConfig } from '../../../src/train/model-config.ts'
import { generate, map, type NumberArray, product, randomArray } from '../arrays.ts'

const device = new Device({ device: 'cpu', threads: 1 })
// n rows, k inputs, m outputs, r rank.
const [n, k, m, r] = [5, 12, 8, 3]
const weight = randomArray([m, k], 30)
const place = {
  x: randomArray([n, k], 31),
  lora_A: randomArray([r, k], 32),
  lora_B: randomArray([m, r], 33),
  lora_magnitude_vector: randomArray([m], 34),
}
type Place = Record<keyof typeof place, NumberArray>
const dy = randomArray([n, m], 35)

/** Any model will do: only the part of the adapter is looked at here. */
const definition = defineModel(
  modelConfig({ architecture: 'llama', layers: 1, width: 8, heads: 1, bias: false, tied: true }, 8, {
    vocabularySize: 8,
    bosToken: undefined,
    eosToken: undefined,
  }),
)

const turned = ({ shape: [rows, columns], data }: NumberArray) =>
  generate([columns!, rows!], ([i, j]) => data[j! * columns! + i!]!)

describe.each([
  { how: 'LoRA', scale: 2, dora: false },
  { how: 'rank-stabilised DoRA', scale: 2 / Math.sqrt(r), dora: true },
])('$how', ({ scale, dora }) => {
  const change = product(place.lora_B, turned(place.lora_A))
  const length = (row: number) =>
    Math.hypot(
      ...Array.from({ length: k }, (_, j) => weight.data[row * k + j]! + scale * change.data[row * k + j]!),
    )
  /** The length stands still: the paper leaves its gradient out. */
  const still = Array.from({ length: m }, (_, row) => length(row))

  const plain = (at: Place) => {
    const low = product(product(at.x, at.lora_A), at.lora_B)
    const factor = (column: number) => (dora ? at.lora_magnitude_vector.data[column]! / still[column]! : 1)
    return map(product(at.x, weight), (value, i) => factor(i % m) * (value + scale * low.data[i]!))
  }
  const slopes = (key: keyof Place) => {
    const loss = (moved: NumberArray) =>
      plain({ ...place, [key]: moved }).data.reduce((sum, value, i) => sum + value * dy.data[i]!, 0)
    return map(place[key], (value, i) => {
      const moved = (by: number) => map(place[key], (old, j) => (j === i ? value + by : old))
      return (loss(moved(1e-5)) - loss(moved(-1e-5))) / 2e-5
    })
  }
  const layer: AdapterLayer = {
    name: 'p',
    inputs: k,
    outputs: m,
    rank: r,
    scale,
    a: Float32Array.from(place.lora_A.data),
    b: Float32Array.from(place.lora_B.data),
    magnitude: dora ? Float32Array.from(place.lora_magnitude_vector.data) : undefined,
  }
  const settings = readAdapterSettings('it', { peft_type: 'LORA', r, lora_alpha: 1, use_dora: dora })

  test('its result and every gradient equal plain arithmetic and finite differences', () => {
    using arena = new Arena(1)
    const w = arena.leaf('F32', [m, k])
    arena.allocate(device.bufferType)
    w.write(Float32Array.from(weight.data))
    const frozen = { weight: () => w, has: () => false }
    using part = new AdapterPart({ settings, layers: new Map([['p', layer]]) }, definition, frozen, device)
    using graph = new Graph(device, 256)
    const x = graph.input('F32', [n, k], 'x')
    const upstream = graph.input('F32', [n, m], 'dy')
    const y = graph.output(part.layers(graph.ops, frozen).linear(x, 'p'))
    const ends = { x: 'x', lora_A: 'A.weight', lora_B: 'B.weight', lora_magnitude_vector: 'vector' }
    const wanted = Object.entries(ends).flatMap(([key, end]): [keyof Place, Tensor][] => {
      const spec = part.specs.find(({ name }) => name.endsWith(end))
      if (key === 'x') return [['x', x]]
      return spec === undefined ? [] : [[key as keyof Place, part.weight(spec.name)]]
    })
    expect(wanted.length).toBe(dora ? 4 : 3)
    const found = new Map<Tensor, Tensor>()
    backward(graph.ops, y, upstream, new Set(wanted.map(([, tensor]) => tensor)), (tensor, gradient) => {
      const before = found.get(tensor)
      found.set(tensor, graph.output(before === undefined ? gradient : graph.ops.add(before, gradient)))
    })
    graph.allocate()
    x.write(Float32Array.from(place.x.data))
    upstream.write(Float32Array.from(dy.data))
    graph.compute()
    expectClose(y.toFloats(), plain(place).data, 'y')
    for (const [key, tensor] of wanted) expectClose(found.get(tensor)!.toFloats(), slopes(key).data, key)
  })
})

function expectClose(actual: Float32Array, expected: Float64Array, what: string): void {
  const scale = Math.max(...expected.map(Math.abs))
  const apart = Math.max(...expected.map((value, i) => Math.abs(value - actual[i]!)))
  expect(apart / scale, what).toBeLessThan(3e-5)
}
