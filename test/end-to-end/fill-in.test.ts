/** A model is trained to fill in, served, and asked with a suffix. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { resolveModel } from '../../src/cli/text-model.ts'
import { parseTrainingJob } from '../../src/train/job.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { ropeway } from '../cli/command-line.ts'
import { post } from '../openai/harness.ts'
import { sharedData } from '../shared.ts'
import { type Served, servedModel, serveReal } from './served.ts'

const folder = mkdtempSync(join(tmpdir(), 'ropeway-fill-in-'))
afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }))

const run = join(folder, 'run')
const letters = 'abcdefghij'
const alphabet = (from: number, length: number) =>
  Array.from({ length }, (_, i) => letters[(from + i) % letters.length]).join('')

let served: Served
beforeAll(async () => {
  // What stands in a gap is seen before it, and where it ends behind it.
  const lines = Array.from({ length: 2000 }, (_, i) => {
    return JSON.stringify({ text: alphabet(i % 10, 4 + (Math.floor(i / 10) % 6)) })
  })
  writeFileSync(join(folder, 'data.jsonl'), lines.join('\n'))
  const job = parseTrainingJob(
    {
      model: { architecture: 'llama', layers: 2, heads: 2, width: 32 },
      data: { train: 'data.jsonl', validation: 0, template: 'none', fim: { rate: 1, spm_rate: 0 } },
      tokenizer: 'characters',
      context: 24,
      batch: 16,
      steps: 400,
      optimizer: { learning_rate: 0.006 },
      schedule: { warmup_steps: 20 },
      checkpoint: { every: 1000 },
      threads: 1,
      device: 'cpu',
      out: 'run',
    },
    folder,
  )
  await runTrainingJob(job)
  served = await serveReal(resolveModel(job.out))
}, 60_000)
afterAll(async () => served?.[Symbol.asyncDispose]())

test('the command line fills a gap as the server does, and says where a model has no marks for one', async () => {
  const wish = { model: servedModel, prompt: 'abc', suffix: 'fg', max_tokens: 8, temperature: 0 }
  const answer = await post(`${served.url}/v1/completions`, wish)
  const { choices } = (await answer.json()) as { choices: { text: string }[] }
  const sampling = ['--max-tokens', '8', '--temperature', '0', '--threads', '1', '--device', 'cpu']
  const asked = ['generate', run, '-p', 'abc', '--suffix', 'fg', ...sampling]
  const whole = await ropeway(asked)
  expect([whole.code, whole.out]).toEqual([0, `abc${choices[0]!.text}fg\n`])
  const told = await ropeway([...asked, '--json'])
  expect(told.json).toMatchObject([{ text: choices[0]!.text }])
  const other = sharedData('models', 'stories260K', 'hf')
  if (other === undefined) return
  const refused = await ropeway(['generate', other, '-p', 'abc', '--suffix', 'fg', ...sampling])
  expect([refused.code, refused.err]).toEqual([2, expect.stringContaining('no tokens that mark a gap')])
})

test('a model that learned from gaps fills them, and ends where the suffix begins', async () => {
  const gaps = Array.from({ length: 20 }, (_, i) => ({
    from: i % 10,
    before: 2 + (i % 2),
    within: 1 + (i % 4),
    behind: 2,
  }))
  const filled = await Promise.all(
    gaps.map(async ({ from, before, within, behind }) => {
      const prompt = alphabet(from, before)
      const suffix = alphabet(from + before + within, behind)
      const wish = { model: servedModel, prompt, suffix, max_tokens: 8, temperature: 0 }
      const answer = await post(`${served.url}/v1/completions`, wish)
      const { choices } = (await answer.json()) as { choices: { text: string; finish_reason: string }[] }
      return choices[0]!.finish_reason === 'stop' && choices[0]!.text === alphabet(from + before, within)
    }),
  )
  // How well it learned differs with a machine's arithmetic; without the suffix it could guess a quarter.
  expect(filled.filter(Boolean).length).toBeGreaterThanOrEqual(16)
})
