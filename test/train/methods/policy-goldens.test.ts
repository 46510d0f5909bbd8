/** Losses and gradients of GRPO that PyTorch found; `test/outside/policy.py` says how, and made them. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { Device } from '../../../src/runtime/device.ts'
import { emptyBatch } from '../../../src/train/batch.ts'
import { advantagesOf } from '../../../src/train/methods/policy.ts'
import type { PolicyMethod } from '../../../src/train/methods/policy-fields.ts'
import { type PolicyBatch, PolicyGraph, policyObjective } from '../../../src/train/methods/policy-graph.ts'
import { type GoldenLlama, goldenLlama } from './golden-llama.ts'

interface Goldens extends GoldenLlama {
  answers: { prompt: number; tokens: number[]; reward: number; sampled: number[]; reference: number[] }[]
  cases: {
    method: PolicyMethod
    fresh: boolean
    loss: number
    clipShare: number
    gradientNorms: Record<string, number>
    /** Of the values' product in the first layer. */
    gradient: number[]
  }[]
}

const file = join(import.meta.dirname, '..', '..', 'outside', 'policy.json')
const goldens = JSON.parse(readFileSync(file, 'utf8')) as Goldens
const device = new Device({ device: 'cpu', threads: 1 })
const context = 12

const model = () => goldenLlama(goldens, context, device)

function batchOf(numbers: readonly number[], method: PolicyMethod, isFresh: boolean): PolicyBatch {
  const size = numbers.length * context
  const batch: PolicyBatch = {
    ...emptyBatch(numbers.length, context),
    advantages: new Float32Array(size),
    sampled: new Float32Array(size),
    served: new Float32Array(size).fill(Number.NaN),
    reference: method.beta > 0 ? new Float32Array(size) : undefined,
    isFresh,
  }
  const { group } = method
  const advantages = [0, group].flatMap((first) =>
    advantagesOf(
      goldens.answers.slice(first, first + group).map(({ reward }) => reward),
      method.scale_rewards,
    ),
  )
  for (const [row, number] of numbers.entries()) {
    const { prompt, tokens, sampled, reference } = goldens.answers[number]!
    for (const [i, token] of tokens.entries()) {
      const place = row * context + i
      batch.ids[place] = token
      batch.positions[place] = i
      batch.documents![place] = 0
      const next = i + 1 - prompt
      if (next < 0 || i + 1 === tokens.length) continue
      batch.targets[place] = tokens[i + 1]!
      batch.weights[place] = method.loss === 'answers' ? 1 / sampled.length : 1
      batch.advantages[place] = advantages[number]!
      if (!isFresh) batch.sampled[place] = sampled[next]!
      if (batch.reference !== undefined) batch.reference[place] = reference[next]!
    }
  }
  return batch
}

const named = goldens.cases.map((one, number) => ({ ...one, number }))

describe.each(named)('case $number', ({ method, fresh, loss, clipShare, gradientNorms, gradient }) => {
  test.each([
    { how: 'all answers at once', groups: [[0, 1, 2, 3, 4, 5]], shape: {} },
    {
      how: 'the head for tokens of answers alone, in parts',
      groups: [[0, 1, 2, 3, 4, 5]],
      shape: { supervisedMax: 40, logitsBytesMax: 1 },
    },
    {
      how: 'two after the other',
      groups: [
        [0, 1],
        [2, 3],
        [4, 5],
      ],
      shape: { recompute: true },
    },
  ])('$how: loss and gradients are those of PyTorch', async ({ groups, shape }) => {
    using parameters = model()
    const sequences = groups[0]!.length
    using graph = new PolicyGraph(
      method,
      parameters,
      device,
      { sequences, tokens: context, ...shape },
      'train',
    )
    const batches = groups.map((group) => batchOf(group, method, fresh))
    const { count } = policyObjective(method)
    const parts = batches.reduce((sum, batch) => sum + count(batch), 0)
    let sum = 0
    for (const batch of batches) sum += await graph.run(batch, 1 / parts)
    expect(Math.abs(sum - loss)).toBeLessThan(1e-5)
    expect(graph.takeMetrics().clip_share).toBeCloseTo(clipShare, 6)
    const largest = Math.max(...Object.values(gradientNorms))
    for (const { spec, gradient: own } of parameters.all) {
      const norm = Math.hypot(...own.toFloats())
      expect(Math.abs(norm - gradientNorms[spec.name]!), spec.name).toBeLessThan(
        1e-4 * gradientNorms[spec.name]! + 1e-6 * largest,
      )
    }
    const values = parameters.all.find(({ spec }) => spec.name === 'model.layers.0.self_attn.v_proj.weight')!
    const length = Math.hypot(...gradient)
    const miss = values.gradient.toFloats().map((value, i) => value - gradient[i]!)
    expect(Math.hypot(...miss)).toBeLessThan(1e-4 * length)
  })
})

test('the first step remembers under which probabilities its answers were sampled, and the next one goes by them', async () => {
  const { method } = goldens.cases.find(({ fresh }) => fresh)!
  using parameters = model()
  using graph = new PolicyGraph(method, parameters, device, { sequences: 6, tokens: context }, 'train')
  const batch = batchOf([0, 1, 2, 3, 4, 5], method, true)
  const first = await graph.run(batch, 1)
  const remembered = [...batch.sampled]
  expect(remembered.filter((value) => value !== 0).every((value) => value < 0)).toBe(true)
  // With the same weights the ratios are 1 again.
  batch.isFresh = false
  expect(await graph.run(batch, 1)).toBeCloseTo(first, 5)
  expect([...batch.sampled]).toEqual(remembered)
})
