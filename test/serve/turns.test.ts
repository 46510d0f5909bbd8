/** Turns of padded shapes, as a GPU computes them; here the CPU computes the same turns. */
import { readFileSync } from 'node:fs'
import { afterAll, expect, test } from 'vitest'
import { openModel } from '../../src/models/open.ts'
import { loadWeights } from '../../src/models/weights.ts'
import { Device } from '../../src/runtime/device.ts'
import type { IterationBatch, SequenceWork } from '../../src/serve/executor.ts'
import { ModelExecutor } from '../../src/serve/model-executor.ts'
import { inTurns, roundedUp, turnsOf } from '../../src/serve/turns.ts'
import { sharedData } from '../shared.ts'

const work = (start: number, tokens: number, outputs = 1): SequenceWork => ({
  ...{ blocks: [0], start, tokens: Array<number>(tokens).fill(1), outputs },
})

test('a third of a shape is padding at most, and nothing of one or two', () => {
  expect([1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 25, 400].map(roundedUp)).toEqual([
    ...[1, 2, 3, 4, 6, 6, 8, 8, 12, 16, 24, 32, 512],
  ])
  for (let count = 1; count < 2000; count++) {
    expect(roundedUp(count)).toBeGreaterThanOrEqual(count)
    expect(roundedUp(count) * 2).toBeLessThanOrEqual(count * 3)
  }
})

test('tokens that come next share a turn, prompts of other lengths have theirs, and the most outputs come last', () => {
  const turns = turnsOf(
    [work(0, 300), ...Array.from({ length: 5 }, (_, i) => work(40 + i, 1)), work(7, 290)],
    9,
  )
  expect(turns.map(({ sequences }) => sequences.map(({ tokens }) => tokens.length))).toEqual([
    [384],
    [384],
    [1, 1, 1, 1, 1, 1],
  ])
  expect(turns.map(({ outputs }) => outputs)).toEqual([[0], [6], [1, 2, 3, 4, 5]])
  expect(turns.at(-1)!.sequences.at(-1)).toMatchObject({ blocks: [9], outputs: 0, padding: 1 })
})

test('a long past does not make short ones read as much', () => {
  const turns = turnsOf([work(50, 1), work(30_000, 1), work(900, 1)], 9)
  expect(turns.map(({ outputs }) => outputs)).toEqual([[1], [0, 2]])
})

const folder = sharedData('models', 'stories260K', 'hf')
const referencePath = sharedData('models', 'stories260K', 'reference.json')
const device = new Device({ device: 'cpu', threads: 1 })
afterAll(() => device.dispose())

test.skipIf(folder === undefined)(
  'padded turns write what requests of random lengths and states write alone',
  async () => {
    const { cases } = JSON.parse(readFileSync(referencePath!, 'utf8')) as {
      cases: { prompt_ids: number[]; greedy_ids: number[] }[]
    }
    using model = openModel(folder!)
    using weights = loadWeights(model, device, { quantize: 'F32', kernels: undefined })
    const executor = new ModelExecutor(model.definition, weights, device, {
      cacheTokens: 1280,
      kernels: 'ggml',
    })
    const execute = (batch: IterationBatch) =>
      inTurns(batch, executor.cache.spareBlock, (sequences) => executor.execute({ sequences }))
    const company = Array.from({ length: 6 }, (_, i) => cases[i % cases.length]!)
    const texts = company.map((): number[] => [])
    const works = company.map(
      ({ prompt_ids }, i): SequenceWork => ({
        ...{
          blocks: Array.from({ length: 10 }, (_, block) => i + block * 8),
          start: 0,
          tokens: prompt_ids,
          outputs: 1,
        },
      }),
    )
    for (let turn = 0; texts.some((text) => text.length < 24); turn++) {
      const running = works.map((_, i) => i).filter((i) => i <= turn && texts[i]!.length < 24)
      const output = await execute({ sequences: running.map((i) => works[i]!) })
      for (const [row, i] of running.entries()) {
        const next = output.argmax(row)
        const logits = output.logits(row)
        expect(logits.indexOf(Math.max(...logits))).toBe(next)
        texts[i]!.push(next)
        const { start, tokens } = works[i]!
        works[i] = { ...works[i]!, start: start + tokens.length, tokens: [next] }
      }
    }
    expect(texts).toEqual(company.map(({ greedy_ids }) => greedy_ids.slice(0, 24)))
    executor.dispose()
  },
)
