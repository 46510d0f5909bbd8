/** What OpenAI's few numbers come to as a training job, by the files that it is given. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { plainTemplate } from '../../src/train/data/default-templates.ts'
import { preparing } from '../../src/train/data/preparing.ts'
import { type FineTuningRequest, planFineTuning } from '../../src/train/fine-tuning-plan.ts'
import { parseTrainingJob } from '../../src/train/job.ts'
import { dataCheckOf } from '../../src/train/preflight/data-check.ts'
import { inspectedData } from '../../src/train/prepare-data.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { temporaryFolder } from './temporary-folder.ts'
import { tinyJob } from './tiny-job.ts'

const folder = temporaryFolder('plan', afterAll)
const silent = preparing(() => undefined)
let model: string

beforeAll(async () => {
  const job = tinyJob(join(folder, 'base'), {
    model: { architecture: 'llama', layers: 1, heads: 2, width: 16 },
    ...{ tokenizer: { byte_pairs: 280 }, context: 1024, batch: 1, steps: 1 },
    data: { text: 'text.txt', validation: 0 },
    ...{ evaluate: { every: 100 }, schedule: { warmup_steps: 0 } },
  })
  const { folder: made } = await runTrainingJob(job)
  writeFileSync(join(made, 'chat_template.jinja'), plainTemplate)
  model = made.slice(folder.length + 1)
})

const words = (count: number) => Array.from({ length: count }, () => 'rope').join(' ')
const chat = (number: number, length: number) => ({
  messages: [
    { role: 'user', content: `cabin ${number}` },
    { role: 'assistant', content: words(length) },
  ],
})
const pair = (number: number, chosen: number, rejected: number) => ({
  input: { messages: [{ role: 'user', content: `cabin ${number}` }] },
  preferred_output: [{ role: 'assistant', content: words(chosen) }],
  non_preferred_output: [{ role: 'assistant', content: words(rejected) }],
})

function written(name: string, records: readonly object[]): string {
  const path = `dataset:file-${name}/${name}.jsonl`
  mkdirSync(join(folder, `dataset:file-${name}`), { recursive: true })
  writeFileSync(join(folder, path), records.map((record) => `${JSON.stringify(record)}\n`).join(''))
  return path
}

async function planned(request: Pick<FineTuningRequest, 'kind' | 'training' | 'validation'>) {
  const auto = { epochs: 2, batch: 'auto', rateMultiplier: 'auto' } as const
  const plan = await planFineTuning(
    { name: 'x', model, adaptation: 'lora', ...auto, seed: 1, ...request },
    folder,
  )
  if (!plan.ok) throw new Error(plan.message)
  const job = parseTrainingJob(plan.file, folder)
  using data = await inspectedData(job, silent)
  const check = await dataCheckOf(job, data.kit, data.material, silent)
  return { plan, job, check, trainingTokens: data.summary.trainingTokens }
}

test('the planned job keeps the longer answer of a pair whole, however short the other is', async () => {
  const training = written('pairs', [pair(0, 60, 4), pair(1, 4, 50), pair(2, 8, 7)])
  const { plan, check, trainingTokens } = await planned({ kind: 'dpo', training })
  expect([check.cut, check.problems]).toEqual([0, []])
  expect(plan.trainedTokens).toBe(2 * trainingTokens)
})

test('what does not fit the model is cut, and the plan warns of it and counts what is left', async () => {
  const training = written('long', [pair(0, 2000, 4), pair(1, 4, 3)])
  const { plan, check, trainingTokens } = await planned({ kind: 'dpo', training })
  expect(check.cut).toBe(1)
  expect(plan.warnings).toContainEqual(expect.stringMatching(/^1 samples are cut/))
  expect(plan.trainedTokens).toBe(2 * trainingTokens)
})

test('rows are long enough for what is held out, as for what is learned from', async () => {
  const chats = [written('short', [chat(0, 4), chat(1, 4)]), written('held', [chat(2, 60)])] as const
  const pairs = [written('few', [pair(0, 4, 3)]), written('more', [pair(1, 4, 60)])] as const
  for (const [kind, [training, validation]] of [
    ['supervised', chats],
    ['dpo', pairs],
  ] as const) {
    const { check } = await planned({ kind, training, validation })
    expect([kind, check.cut, check.refusals]).toEqual([kind, 0, []])
  }
})
