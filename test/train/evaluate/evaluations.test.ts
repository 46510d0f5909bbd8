import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { endText } from '../../../src/cli/commands/train.ts'
import { decodeWithEngine } from '../../../src/cli/decoder.ts'
import { resolveModel } from '../../../src/cli/text-model.ts'
import { readSamples } from '../../../src/train/evaluate/panel.ts'
import { parseTrainingJob } from '../../../src/train/job.ts'
import type { JobCallbacks } from '../../../src/train/run-callbacks.ts'
import { runTrainingJob } from '../../../src/train/run-job.ts'
import { testFolder, write } from '../data/folder.ts'
import { tinyJob } from '../tiny-job.ts'

const folder = testFolder()
type Evaluated = Parameters<NonNullable<JobCallbacks['onEvaluation']>>[0]

/** A text that a tiny model learns by heart: after one letter comes always the same. */
const letters = 'abcdefghij'
write(folder, 'cycle.txt', letters.repeat(300))
write(
  folder,
  'exact.jsonl',
  [...letters.slice(0, 6)]
    .map((letter, i) => JSON.stringify({ prompt: letter, completion: letters.slice(i + 1, i + 4) }))
    .join('\n'),
)
write(
  folder,
  'choices.jsonl',
  [...letters.slice(0, 6)]
    .map((letter, i) =>
      JSON.stringify({ prompt: letter, choices: ['aj', letters.slice(i + 1, i + 3), 'ca'], answer: 1 }),
    )
    .join('\n'),
)
const fields = (changes: Record<string, unknown>) => ({
  model: { architecture: 'llama', layers: 2, heads: 2, width: 32 },
  data: { text: 'cycle.txt', validation: 0.1 },
  tokenizer: 'characters',
  context: 16,
  batch: 4,
  steps: 60,
  optimizer: { learning_rate: 0.02 },
  checkpoint: { every: 20, keep: 1 },
  threads: 1,
  device: 'cpu',
  ...changes,
})
const run = async (changes: Record<string, unknown>, more: JobCallbacks = {}) => {
  const seen: Evaluated[] = []
  const job = parseTrainingJob(fields(changes), folder)
  const result = await runTrainingJob(job, {
    decode: decodeWithEngine,
    onEvaluation: (one) => seen.push(one),
    ...more,
  })
  return { seen, result, job }
}

const tasks = [
  { name: 'next-letters', kind: 'exact', data: 'exact.jsonl', tokens_max: 3 },
  { name: 'a-letter', kind: 'regex', pattern: '^[a-j]', data: 'exact.jsonl', tokens_max: 3 },
  { name: 'json', kind: 'json_schema', schema: { type: 'object' }, data: 'exact.jsonl', tokens_max: 3 },
  { name: 'choices', kind: 'choice', data: 'choices.jsonl' },
]

describe('an evaluation', () => {
  test('grades answers that the serving engine decodes with the weights in training', async () => {
    const { seen, result, job } = await run({
      out: 'a',
      evaluate: {
        every: 30,
        batches: 2,
        tasks,
        best: 'next-letters',
        samples: { prompts: ['abc', 'ij'], tokens_max: 6 },
      },
    })
    expect(seen.map(({ stepsDone }) => stepsDone)).toEqual([30, 60])
    const last = seen.at(-1)!
    expect(last.tasks).toEqual({ 'next-letters': 1, 'a-letter': 1, json: 0, choices: 1 })
    expect(last.samples.map(({ text }) => text)).toEqual(['defghi', 'abcdef'])
    expect(result.best).toBeDefined()
    expect(existsSync(result.best!.folder)).toBe(true)
    const kept = readSamples(join(job.out, 'samples.jsonl'))
    expect(kept.map(({ stepsDone, prompt }) => [stepsDone, prompt])).toEqual([
      [30, 'abc'],
      [30, 'ij'],
      [60, 'abc'],
      [60, 'ij'],
    ])
  })

  test('changes nothing that the run computes', async () => {
    const evaluate = { every: 10, batches: 2, tasks, samples: { prompts: ['abc'] } }
    const weights = async (changes: Record<string, unknown>) => {
      const { result } = await run({ steps: 20, ...changes })
      return readFileSync(join(result.folder, 'model.safetensors'))
    }
    expect((await weights({ out: 'b', evaluate })).equals(await weights({ out: 'c' }))).toBe(true)
  })

  test('says bits per byte, which of single-byte characters are the loss over ln 2', async () => {
    const { seen } = await run({ out: 'd', steps: 10, evaluate: { every: 10, batches: 2 } })
    expect(seen[0]!.bitsPerByte).toBeCloseTo(seen[0]!.loss! / Math.LN2, 10)
  })

  test('decodes with the adapter that is in training', async () => {
    const { result: base } = await run({ out: 'base', steps: 40 })
    write(folder, 'back.txt', [...letters].reverse().join('').repeat(300))
    const { seen } = await run({
      out: 'adapted',
      model: { from: base.folder },
      method: { lora: { rank: 8, alpha: 16 } },
      data: { text: 'back.txt' },
      evaluate: { every: 60, batches: 1, samples: { prompts: ['jih'], tokens_max: 5 } },
    })
    expect(seen.at(-1)!.samples[0]!.text).toBe('gfedc')
    const dora = await run({
      out: 'adapted-dora',
      model: { from: base.folder },
      method: { lora: { rank: 8, alpha: 16, dora: true } },
      data: { text: 'back.txt' },
      evaluate: { every: 60, batches: 1, samples: { prompts: ['jih'], tokens_max: 5 } },
    })
    expect(dora.seen.at(-1)!.samples[0]!.text).toBe('gfedc')
    // The base alone is measured before the first step, and goes on with what it learned.
    expect(seen.map(({ stepsDone, isBest }) => [stepsDone, isBest])).toEqual([
      [0, false],
      [60, true],
    ])
    expect(seen[0]!.samples[0]!.text).not.toBe('gfedc')
    expect(seen[1]!.loss!).toBeLessThan(seen[0]!.loss!)
  })
})

test('a run that does not get better ends early, keeps its best checkpoint, and stays ended', async () => {
  const evaluate = { every: 5, batches: 2, patience: 2 }
  // At this rate the loss gets worse sooner or later.
  const changes = { out: 'early', steps: 200, optimizer: { learning_rate: 0.5, clip: 0 }, evaluate }
  const { seen, result } = await run(changes)
  expect(result).toMatchObject({ outcome: 'finished', stoppedEarly: true })
  const best = seen.reduce((least, one) => (one.loss! < least.loss! ? one : least))
  expect(result.best).toMatchObject({ stepsDone: best.stepsDone })
  expect(result.stepsDone).toBe(best.stepsDone + 10)
  expect(existsSync(result.best!.folder)).toBe(true)
  expect(resolveModel(join(folder, 'early'))).toBe(result.folder)
  expect(resolveModel(join(folder, 'early@best'))).toBe(result.best!.folder)
  expect(() => resolveModel(join(folder, 'nothing@best'))).toThrow(/has no best checkpoint/)
  expect(endText(result)).toMatch(/^Stopped early after step \d+, held-out loss [\d.]+\. Best at step \d+: /)
  const again = await run(changes)
  expect(again.seen).toEqual([])
  expect(again.result).toMatchObject({ outcome: 'finished', stoppedEarly: true, best: result.best })
})

describe('a job is refused', () => {
  test('when it asks for text and nobody decodes', async () => {
    const job = tinyJob(folder, { evaluate: { samples: { prompts: ['a'] } }, out: 'never' })
    await expect(runTrainingJob(job)).rejects.toThrow(/Nobody here can decode/)
  })

  test.each([
    [{ tasks: [{ name: 'x', kind: 'choice', data: 'exact.jsonl' }] }, /exact\.jsonl:1: choices: expected/],
  ])('for a task that cannot be: %#', async (evaluate, message) => {
    await expect(run({ out: 'never', evaluate })).rejects.toThrow(message)
  })

  test.each([
    [{ best: 'nothing' }, /evaluate\.best names nothing, which is no task; it takes loss\./],
    [{ tasks, best: 'nothing' }, /evaluate\.best names nothing, .* it takes loss, [\w-]+/],
    [{ tasks: [{ ...tasks[1], pattern: '(' }] }, /tasks\.0\.pattern is no regular expression/],
    [
      { tasks: [tasks[0], { ...tasks[1], name: tasks[0]!.name }] },
      /tasks\.1\.name is [\w-]+, as that of an earlier/,
    ],
    [{ tasks: [{ ...tasks[0], name: 'loss' }] }, /tasks\.0\.name is loss/],
  ])('before anything is read, for what its file alone shows to be wrong: %#', (evaluate, message) => {
    expect(() => parseTrainingJob(fields({ evaluate }), folder)).toThrow(message)
  })

  test('for a field that is wrong, which is named', () => {
    const wrong = fields({ evaluate: { tasks: [{ name: 'x', kind: 'guess', data: 'a' }] } })
    expect(() => parseTrainingJob(wrong, folder)).toThrow(/The field evaluate\.tasks\.0\.kind/)
  })
})
