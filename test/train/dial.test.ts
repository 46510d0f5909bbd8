import { expect, test } from 'vitest'
import { defineModel } from '../../src/models/registry.ts'
import type { ModelSizes } from '../../src/train/job.ts'
import { parseTrainingJob } from '../../src/train/job.ts'
import { modelConfig } from '../../src/train/model-config.ts'
import { testFolder, write } from './data/folder.ts'

const folder = testFolder()
write(folder, 'large.txt', 'rope way '.repeat(200_000))
write(folder, 'small.txt', 'rope way '.repeat(2_000))
const job = (fields: Record<string, unknown>) =>
  parseTrainingJob({ data: { text: 'large.txt' }, ...fields }, folder)

test.each([
  ['500k', 500e3],
  ['5M', 5e6],
  [20e6, 20e6],
])('params: %s gives a model of about so many parameters', (params, wanted) => {
  const { model, context, tokenizer, derived } = job({ params })
  const sizes = model as ModelSizes
  expect(sizes.width % sizes.heads).toBe(0)
  const vocabularySize = (tokenizer as { byte_pairs: number }).byte_pairs
  const config = modelConfig(sizes, context, { vocabularySize, bosToken: undefined, eosToken: 0 })
  const { architecture, config: parsed } = defineModel(config)
  const sizeOf = (shape: readonly number[]) => shape.reduce((product, length) => product * length, 1)
  const count = architecture.parameters(parsed).reduce((sum, { shape }) => sum + sizeOf(shape), 0)
  expect(count).toBe(derived!.parameters)
  expect(Math.abs(count / wanted - 1)).toBeLessThan(0.1)
})

test('depth: 6 gives six layers, and the rules as they were published', () => {
  const { model, optimizer, schedule, derived, steps, batch, accumulate, context } = job({ depth: 6 })
  expect(model).toMatchObject({ layers: 6, width: 384, heads: 6 })
  expect(schedule).toMatchObject({ kind: 'wsd', cooldown_steps: Math.round(0.2 * steps) })
  expect(optimizer.learning_rate).toBeCloseTo(0.3118 * derived!.flops ** -0.125, 3)
  expect(derived!.flops).toBeCloseTo(6 * derived!.parameters * derived!.tokens, -13)
  expect(steps * batch * accumulate * context).toBe(derived!.tokens)
})

test('little data makes a short run: at most four passes', () => {
  const large = job({ depth: 4 }).derived!
  const small = job({ depth: 4, data: { text: 'small.txt' } }).derived!
  expect(small.tokens).toBeLessThan(large.tokens)
  expect(small.tokens).toBeLessThan((4.5 * 18_000) / 3.5)
})

test('a value that the file gives is kept, and what depends on it follows', () => {
  const fields = {
    depth: 4,
    model: { width: 96 },
    batch: 3,
    optimizer: { learning_rate: 0.5 },
    schedule: { kind: 'cosine' },
  }
  const { model, batch, optimizer, schedule, derived } = job(fields)
  expect(model).toMatchObject({ architecture: 'llama', layers: 4, width: 96, heads: 3 })
  expect(batch).toBe(3)
  expect(optimizer.learning_rate).toBe(0.5)
  expect(schedule).toMatchObject({ kind: 'cosine' })
  expect(Object.keys(derived!.fields)).not.toContain('batch')
  expect(Object.keys(derived!.fields)).toContain('model.layers')
  expect(Object.keys(derived!.fields)).not.toContain('model.width')
})

test('two dials, a dial for a model that is there, and a dial that is no number are refused', () => {
  expect(() => job({ params: '5M', depth: 6 })).toThrow(/The field depth says/)
  expect(() => job({ depth: 6, model: { from: 'x' } })).toThrow(/model\.from/)
  expect(() => job({ params: 'many' })).toThrow(/The field params is not right: expected a number such as 5M/)
})
