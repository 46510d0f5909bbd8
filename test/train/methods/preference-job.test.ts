import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { preparing } from '../../../src/train/data/preparing.ts'
import type { Sample } from '../../../src/train/data/sample.ts'
import type { TrainingJob } from '../../../src/train/job.ts'
import { preferenceOf } from '../../../src/train/methods/method.ts'
import { preparePreferences } from '../../../src/train/methods/preference-data.ts'
import { checkJob } from '../../../src/train/preflight/job-check.ts'
import { runTrainingJob } from '../../../src/train/run-job.ts'
import type { StepReport } from '../../../src/train/trainer.ts'
import { tinyJob } from '../tiny-job.ts'

const root = mkdtempSync(join(tmpdir(), 'ropeway-preferences-'))
let base: string

beforeAll(async () => {
  const model = { architecture: 'llama', layers: 2, heads: 2, width: 32 }
  const job = tinyJob(join(root, 'base'), { model, tokenizer: { byte_pairs: 280 }, steps: 4, context: 64 })
  base = (await runTrainingJob(job)).folder
  const answers = (prompt: string) => [{ role: 'user', content: prompt }]
  const words = ['the rope', 'a cabin', 'the way', 'moving', 'it joins', 'never stops']
  const pairs = words.map((word) => ({
    prompt: answers(word),
    chosen: [{ role: 'assistant', content: 'leaves' }],
    rejected: [{ role: 'assistant', content: 'stops' }],
  }))
  writeFileSync(join(root, 'pairs.jsonl'), pairs.map((pair) => JSON.stringify(pair)).join('\n'))
  const ratings = words.flatMap((word) => [
    { messages: [...answers(word), { role: 'assistant', content: 'leaves' }], label: true },
    { messages: [...answers(word), { role: 'assistant', content: 'stops' }], label: false },
  ])
  writeFileSync(join(root, 'ratings.jsonl'), ratings.map((rating) => JSON.stringify(rating)).join('\n'))
})
afterAll(() => rmSync(root, { recursive: true, force: true, maxRetries: 9 }))

const job = (name: string, method: object, file = 'pairs.jsonl') =>
  tinyJob(join(root, name), {
    model: { from: base },
    tokenizer: undefined,
    method,
    data: { train: join(root, file), validation: 0, template: 'plain' },
    batch: 3,
    context: 64,
    steps: 12,
  })

async function stepsOf(name: string, method: object, file?: string): Promise<StepReport[]> {
  const reports: StepReport[] = []
  await runTrainingJob(job(name, method, file), { onStep: (report) => reports.push(report) })
  return reports
}

test.each([
  { name: 'dpo', method: { dpo: { beta: 0.1 } } },
  { name: 'dpo-lora', method: { dpo: { beta: 0.1 }, lora: { rank: 2, quantize: 'q8_0' } } },
])(
  '$name starts at ln 2, where policy and reference agree, and learns to prefer',
  async ({ name, method }) => {
    const reports = await stepsOf(name, method)
    expect(reports[0]!.loss).toBeCloseTo(Math.log(2), 4)
    expect(reports[0]!.metrics.margin).toBeCloseTo(0, 4)
    expect(reports.at(-1)!.loss).toBeLessThan(reports[0]!.loss)
    expect(reports.at(-1)!.metrics.accuracy).toBe(1)
    expect(reports.at(-1)!.metrics.margin).toBeGreaterThan(0)
  },
)

test('orpo makes the better answer likelier without a reference', async () => {
  const reports = await stepsOf('orpo', { orpo: {} })
  expect(reports.at(-1)!.loss).toBeLessThan(reports[0]!.loss)
  expect(reports.at(-1)!.metrics.accuracy).toBe(1)
})

test('kto learns from verdicts on single answers', async () => {
  const reports = await stepsOf('kto', { kto: {} }, 'ratings.jsonl')
  expect(reports[0]!.loss).toBeCloseTo(0.5, 4)
  expect(reports.at(-1)!.metrics.reward_signed).toBeGreaterThan(0)
  // As in the loss; what is unlearned makes other answers less likely, too.
  for (const { metrics } of reports) expect(metrics.distance).toBeGreaterThanOrEqual(0)
})

test('kto measures each answer by one to another prompt, and refuses where there is none', async () => {
  const prepared = async (file: string) =>
    await preparePreferences(
      job('measured', { kto: {} }, file),
      preferenceOf(job('measured', { kto: {} }, file).method)!,
      undefined,
      preparing(() => undefined),
    )
  // Two answers to each prompt, one behind the other: the next record often has the same.
  using data = await prepared('ratings.jsonl')
  const { pairs } = data.training
  const answers = data.material.training
  const end = ({ tokens, weights }: Sample) => tokens.slice(weights.findIndex((weight) => weight > 0)).join()
  for (let i = 0; i < pairs.length; i++) {
    const { right } = pairs.at(i)
    const other = (i + (i % 2 === 0 ? 2 : 1)) % pairs.length
    expect(end(right)).toBe(end(answers.part(other, 0, answers.lengthOf(other))))
  }
  const [first, second] = readFileSync(join(root, 'ratings.jsonl'), 'utf8').split('\n')
  writeFileSync(join(root, 'one.jsonl'), `${first}\n${second}\n`)
  await expect(prepared('one.jsonl')).rejects.toThrow(/The answers in data\.train all have the same prompt/)
})

test('a pair whose answers are the same is refused by its line, or left out', async () => {
  const equal = { prompt: 'a cabin', chosen: 'leaves', rejected: 'leaves' }
  const first = { ...equal, rejected: 'stops' }
  writeFileSync(join(root, 'equal.jsonl'), `${JSON.stringify(first)}\n${JSON.stringify(equal)}\n`)
  const given = job('equal', { dpo: {} }, 'equal.jsonl')
  const prepared = (unusable: 'refuse' | 'skip') =>
    preparePreferences(
      { ...given, data: { ...given.data, unusable } as TrainingJob['data'] },
      preferenceOf(given.method)!,
      undefined,
      preparing(() => undefined),
    )
  await expect(prepared('refuse')).rejects.toThrow(/equal\.jsonl:2: its two answers are the same/)
  using left = await prepared('skip')
  expect(left.training.pairs.length).toBe(1)
})

test.each([
  { file: 'pairs.jsonl', method: { dpo: {} }, kind: 'dpo', perPrompt: 2 },
  { file: 'ratings.jsonl', method: { kto: {} }, kind: 'kto', perPrompt: 2 },
] as const)('what $kind holds out has no prompt in common with what it learns from', async (one) => {
  const many = join(root, `many-${one.file}`)
  const lines = readFileSync(join(root, one.file), 'utf8')
  // Each record twice, far from each other.
  writeFileSync(many, `${lines}\n${lines}\n`)
  const given = job(`held-${one.kind}`, one.method, `many-${one.file}`)
  const data = { ...given.data, validation: 0.3 } as TrainingJob['data']
  using prepared = await preparePreferences(
    { ...given, data },
    preferenceOf(given.method)!,
    undefined,
    preparing(() => undefined),
  )
  const prompts = (side: 'training' | 'validation') => {
    const list = prepared.material[side]
    return Array.from({ length: list.length }, (_, i) => list.promptHashOf(i))
  }
  const [learned, held] = [prompts('training'), prompts('validation')]
  expect(held.length).toBeGreaterThan(0)
  expect(new Set(held).size * one.perPrompt * 2).toBe(held.length)
  expect(learned.filter((prompt) => held.includes(prompt))).toEqual([])
  expect(learned.length + held.length).toBe(6 * one.perPrompt * 2)
})

test('stopped and resumed, a run ends with the weights of the uninterrupted run', async () => {
  const controller = new AbortController()
  const onStep = ({ step }: { step: number }) => step === 5 && controller.abort()
  await runTrainingJob(job('halves', { dpo: {} }), { onStep }, controller.signal)
  const halves = await runTrainingJob(job('halves', { dpo: {} }))
  const whole = await runTrainingJob(job('whole', { dpo: {} }))
  const bytes = (folder: string) => readFileSync(join(folder, 'model.safetensors'))
  expect(bytes(halves.folder).equals(bytes(whole.folder))).toBe(true)
})

test('the starting model is asked once: a killed run goes on asking, a resumed one reads', async () => {
  const notes: string[] = []
  const fileOf = (name: string) => {
    mkdirSync(join(root, name, 'out'), { recursive: true })
    return join(root, name, 'out', 'references-training.bin')
  }
  const ask = (name: string, stopAt?: RegExp) => {
    const stop = new AbortController()
    const onNote = (text: string) => {
      notes.push(text)
      if (stopAt?.test(text)) stop.abort()
    }
    return runTrainingJob(job(name, { dpo: {} }), { onNote }, stop.signal)
  }
  const asked = () => notes.splice(0).filter((text) => /Asking/.test(text))
  // While the model is loaded, and between two batches of pairs.
  await expect(ask('asked', /Asking/)).rejects.toThrow('Stopped while the run was prepared')
  await expect(ask('asked', /of 6 pairs/)).rejects.toThrow('Stopped with 3 pairs left')
  const whole = await ask('asked')
  expect(asked()).toEqual([
    'Asking the starting model about 6 pairs.',
    'Asking the starting model about 6 pairs.',
    'Asking the starting model about 3 pairs.',
  ])
  // As a kill in the middle of a write leaves it: three pairs and a half.
  const bytes = readFileSync(fileOf('asked'))
  writeFileSync(fileOf('killed'), bytes.subarray(0, bytes.length - 20))
  const killed = await ask('killed')
  expect(asked()).toEqual(['Asking the starting model about 3 pairs.'])
  expect(readFileSync(fileOf('killed')).equals(bytes)).toBe(true)
  const weights = ({ folder }: { folder: string }) => readFileSync(join(folder, 'model.safetensors'))
  expect(weights(killed).equals(weights(whole))).toBe(true)
  // Of another model, data or shape: asked again.
  writeFileSync(fileOf('other'), Buffer.concat([Buffer.from('x'), bytes]))
  await ask('other')
  expect(asked()).toEqual(['Asking the starting model about 6 pairs.'])
  expect(readFileSync(fileOf('other')).equals(bytes)).toBe(true)
  rmSync(join(root, 'other', 'out', 'checkpoints'), { recursive: true })
  await ask('other')
  expect(asked()).toEqual([])
})

test('two preferences at once are refused, and pairs for a model that is not there', async () => {
  expect(() => job('two', { dpo: {}, kto: {} })).toThrow(/The field method has dpo and kto/)
  const fresh = tinyJob(join(root, 'fresh'), { method: { dpo: {} } })
  await expect(runTrainingJob(fresh)).rejects.toThrow(/dpo needs model/)
})

test.each([
  { what: 'a context', changes: { context: 128 }, message: /takes 64 tokens, fewer than context 128/ },
  {
    what: 'a target',
    changes: { method: { dpo: { beta: 0.1 }, lora: { rank: 2, targets: ['k_prj'] } } },
    message: /names k_prj, which this model does not have/,
  },
])(
  '$what that the model does not have is refused before the model is asked about any pair',
  async ({ what, changes, message }) => {
    const notes: string[] = []
    const given = { ...job(what, { dpo: { beta: 0.1 } }), ...changes } as TrainingJob
    const run = runTrainingJob(given, { onNote: (text) => notes.push(text) })
    await expect(run).rejects.toThrow(message)
    expect(notes.filter((note) => /starting model/.test(note))).toEqual([])
    await expect(checkJob(given, () => undefined)).rejects.toThrow(message)
  },
)
