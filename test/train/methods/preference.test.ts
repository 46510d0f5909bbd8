import { describe, expect, test } from 'vitest'
import { Random } from '../../../src/base/random.ts'
import { Device } from '../../../src/runtime/device.ts'
import { Graph } from '../../../src/runtime/graph.ts'
import type { Tensor } from '../../../src/runtime/tensor.ts'
import { backward } from '../../../src/train/backward.ts'
import { PairBatches } from '../../../src/train/methods/pair-batches.ts'
import {
  type PairTensors,
  type PreferenceMethod,
  pairLosses,
  pairMetrics,
} from '../../../src/train/methods/preference.ts'
import { PreferenceGraph } from '../../../src/train/methods/preference-graph.ts'
import { modelConfig } from '../../../src/train/model-config.ts'
import { createModel } from '../../../src/train/parameters.ts'
import { listOfPairs } from './pairs.ts'

const device = new Device({ device: 'cpu', threads: 1 })
const methods: PreferenceMethod[] = [
  { kind: 'dpo', beta: 0.3 },
  { kind: 'orpo', lambda: 0.5 },
  { kind: 'kto', beta: 0.3, desirable: 1, undesirable: 1.5 },
]
const numbers = {
  left: [-4, -9.5, -2],
  right: [-6, -3.5, -2.5],
  referenceLeft: [-5, -8, -2],
  referenceRight: [-7, -6, -4],
  shareLeft: [0.25, 0.125, 0.5],
  shareRight: [0.2, 0.5, 0.25],
  verdict: [1, -1, 1],
}
type Numbers = typeof numbers
const names = Object.keys(numbers) as (keyof Numbers)[]

const softplus = (x: number) => Math.log1p(Math.exp(x))
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x))
const logOdds = (x: number) => x - Math.log(1 + 1e-6 - Math.exp(x))

/** As the papers write them, in float64; `distance` is KTO's z0. */
function plain(method: PreferenceMethod, at: Numbers, distance: number): number[] {
  return at.left.map((left, i) => {
    const right = at.right[i]!
    if (method.kind === 'dpo')
      return softplus(-method.beta * (left - right - (at.referenceLeft[i]! - at.referenceRight[i]!)))
    if (method.kind === 'orpo') {
      const [a, b] = [left * at.shareLeft[i]!, right * at.shareRight[i]!]
      return -a + method.lambda * softplus(-(logOdds(a) - logOdds(b)))
    }
    const moved = method.beta * (left - at.referenceLeft[i]! - distance)
    return at.verdict[i] === 1
      ? method.desirable * (1 - sigmoid(moved))
      : method.undesirable * (1 - sigmoid(-moved))
  })
}

test.each(methods)('$kind: losses and slopes equal plain arithmetic and finite differences', (method) => {
  using graph = new Graph(device, 256)
  const inputs = Object.fromEntries(names.map((name) => [name, graph.input('F32', [3, 1], name)]))
  const losses = graph.output(pairLosses(graph.ops, method, inputs as unknown as PairTensors))
  const total = graph.ops.sum(losses)
  const one = graph.input('F32', [1], 'one')
  const found = new Map<Tensor, Tensor>()
  const wanted = new Set([inputs.left!, inputs.right!])
  backward(graph.ops, total, one, wanted, (tensor, slope) => {
    const before = found.get(tensor)
    found.set(tensor, graph.output(before === undefined ? slope : graph.ops.add(before, slope)))
  })
  graph.allocate()
  for (const name of names) inputs[name]!.write(Float32Array.from(numbers[name]))
  one.write(Float32Array.of(1))
  graph.compute()
  const apart = numbers.right.map((value, i) => value - numbers.referenceRight[i]!)
  const distance = Math.max(0, apart.reduce((a, b) => a + b) / 3)
  expect(distance).toBeGreaterThan(0)
  const near = (values: Float32Array, expected: number[]) =>
    expected.forEach((value, i) => {
      expect(values[i]).toBeCloseTo(value, 5)
    })
  near(losses.toFloats(), plain(method, numbers, distance))
  for (const name of ['left', 'right'] as const) {
    const slopes = numbers[name].map((value, i) => {
      const loss = (by: number) => {
        const moved = { ...numbers, [name]: numbers[name].map((old, j) => (j === i ? value + by : old)) }
        return plain(method, moved, distance).reduce((a, b) => a + b)
      }
      return (loss(1e-5) - loss(-1e-5)) / 2e-5
    })
    const slope = found.get(inputs[name]!)
    // KTO's other answers only measure; nothing flows back through them.
    if (slope === undefined) expect(slopes).toEqual([0, 0, 0])
    else near(slope.toFloats(), slopes)
  }
})

test('rewards, margin and accuracy are those of the definitions', () => {
  const typed = Object.fromEntries(names.map((name) => [name, Float32Array.from(numbers[name])]))
  const sums = pairMetrics({ kind: 'dpo', beta: 0.5 }, typed as never)
  expect(sums).toEqual({
    reward_chosen: 0.5 * (1 - 1.5),
    reward_rejected: 0.5 * (1 + 2.5 + 1.5),
    margin: -2.75,
    accuracy: 0,
  })
})

const [context, vocabulary] = [24, 20]
const random = new Random(8)
const sampleOf = (prompt: number[], length: number) => {
  const tokens = Int32Array.from([...prompt, ...Array.from({ length }, () => random.integer(vocabulary))])
  return {
    tokens,
    weights: Float32Array.from(tokens, (_, i) => (i < prompt.length ? 0 : 1)),
    source: { file: 'it', line: 1 },
  }
}
const pairs = [3, 5, 4, 6].map((length, i) => {
  const prompt = Array.from({ length: 3 }, () => random.integer(vocabulary))
  const verdict: 1 | -1 = i % 2 === 0 ? 1 : -1
  return { left: sampleOf(prompt, length), right: sampleOf(prompt, 8 - length), verdict }
})
const sizes = { architecture: 'llama', layers: 2, width: 16, heads: 2, bias: false, tied: false } as const
const config = modelConfig(sizes, context, { vocabularySize: vocabulary, bosToken: undefined, eosToken: 0 })

describe.each(methods)('$kind through a whole model', (method) => {
  test('the gradient predicts how the loss changes along a random direction', async () => {
    using parameters = createModel({ ...config, initializer_range: 0.3 }, 3, device)
    using graph = new PreferenceGraph(method, parameters, device, { sequences: 2, tokens: context }, 'train')
    const batches = new PairBatches(listOfPairs(pairs), 2, context, 1)
    batches.references.left.set([-9, -14, -12, -18])
    batches.references.right.set([-15, -9, -13, -6])
    const batch = batches.batchOf([0, 1])
    await graph.run(batch, 0.5)
    const slopes = parameters.all.map(({ gradient }) => gradient.toFloats())
    const start = parameters.all.map(({ weight }) => weight.toFloats())
    const length = Math.hypot(...slopes.flatMap((slope) => [...slope]))
    // Along the gradient itself, where the signal is largest.
    const lossAt = async (step: number) => {
      for (const [i, { weight }] of parameters.all.entries())
        weight.write(start[i]!.map((value, j) => value + (step * slopes[i]![j]!) / length))
      return await graph.run(batch, 0.5)
    }
    const step = 2e-3
    const measured = ((await lossAt(step)) - (await lossAt(-step))) / (2 * step)
    // KTO's distance is held still in the gradient; where it is zero it does not move either.
    if (method.kind !== 'kto') expect(measured / length).toBeCloseTo(1, 2)
    else expect(measured / length).toBeGreaterThan(0.5)
  })

  test('one pair at a time adds up to all at once, also in chunks that are computed again', async () => {
    const gradientsOf = async (groups: number[][], less: object = {}) => {
      using parameters = createModel(config, 3, device)
      const batches = new PairBatches(listOfPairs(pairs), groups[0]!.length, context, 1)
      batches.references.left.set([-29, -34, -32, -38])
      batches.references.right.set([-45, -39, -43, -36])
      const shape = { sequences: groups[0]!.length, tokens: context, ...less }
      using graph = new PreferenceGraph(method, parameters, device, shape, 'train')
      let loss = 0
      await graph.prepare(groups.map((group) => batches.batchOf(group)))
      for (const group of groups) loss += await graph.run(batches.batchOf(group), 0.25)
      return [loss, ...parameters.all.flatMap(({ gradient }) => [...gradient.toFloats()])]
    }
    const whole = await gradientsOf([[0, 1, 2, 3]])
    const single = [[0], [1], [2], [3]]
    const less = { logitsBytesMax: 1, recompute: true }
    for (const parts of [
      await gradientsOf(single),
      await gradientsOf([[0, 1, 2, 3]], less),
      await gradientsOf(single, less),
    ]) {
      const apart = whole.map((value, i) => Math.abs(value - parts[i]!))
      expect(Math.max(...apart)).toBeLessThan(1e-5)
    }
    expect(Math.max(...whole.slice(1).map(Math.abs))).toBeGreaterThan(1e-3)
  })
})
