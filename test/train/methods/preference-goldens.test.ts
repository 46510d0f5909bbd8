/** Losses and gradients of whole models that PyTorch found; `test/outside/preferences.py` says how, and made them. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { Device } from '../../../src/runtime/device.ts'
import { PairBatches } from '../../../src/train/methods/pair-batches.ts'
import type { PreferenceMethod } from '../../../src/train/methods/preference.ts'
import { PreferenceGraph } from '../../../src/train/methods/preference-graph.ts'
import { type GoldenLlama, goldenLlama } from './golden-llama.ts'
import { listOfPairs } from './pairs.ts'

interface Goldens extends GoldenLlama {
  pairs: {
    prompt: number
    left: number[]
    right: number[]
    verdict: 1 | -1
    referenceLeft: number
    referenceRight: number
  }[]
  cases: { method: PreferenceMethod; loss: number; gradientNorms: Record<string, number> }[]
}

const file = join(import.meta.dirname, '..', '..', 'outside', 'preferences.json')
const goldens = JSON.parse(readFileSync(file, 'utf8')) as Goldens
const device = new Device({ device: 'cpu', threads: 1 })
const context = 24

const model = () => goldenLlama(goldens, context, device)

const sampleOf = (tokens: number[], prompt: number) => ({
  tokens: Int32Array.from(tokens),
  weights: Float32Array.from(tokens, (_, i) => (i < prompt ? 0 : 1)),
  source: { file: 'golden', line: 1 },
})
const pairs = goldens.pairs.map(({ prompt, left, right, verdict }) => ({
  left: sampleOf(left, prompt),
  right: sampleOf(right, prompt),
  verdict,
}))

describe.each(goldens.cases)('$method', ({ method, loss, gradientNorms }) => {
  test.each([
    { how: 'all pairs at once', groups: [[0, 1, 2, 3]] },
    { how: 'one pair after the other', groups: [[0], [1], [2], [3]] },
  ])('$how: loss and the length of every gradient are those of PyTorch', async ({ groups }) => {
    using parameters = model()
    const sequences = groups[0]!.length
    const batches = new PairBatches(listOfPairs(pairs), sequences, context, 1)
    batches.references.left.set(goldens.pairs.map(({ referenceLeft }) => referenceLeft))
    batches.references.right.set(goldens.pairs.map(({ referenceRight }) => referenceRight))
    using graph = new PreferenceGraph(method, parameters, device, { sequences, tokens: context }, 'train')
    await graph.prepare(groups.map((group) => batches.batchOf(group)))
    let sum = 0
    for (const group of groups) sum += await graph.run(batches.batchOf(group), 1 / pairs.length)
    expect(Math.abs(sum - loss)).toBeLessThan(1e-5)
    const largest = Math.max(...Object.values(gradientNorms))
    for (const { spec, gradient } of parameters.all) {
      const norm = Math.hypot(...gradient.toFloats())
      expect(Math.abs(norm - gradientNorms[spec.name]!), spec.name).toBeLessThan(
        1e-4 * gradientNorms[spec.name]! + 1e-6 * largest,
      )
    }
  })
})
