import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import { holdAlone } from '../../src/base/sole-user.ts'
import { resolveModel } from '../../src/cli/text-model.ts'
import { progressText, runShown } from '../../src/cli/training.ts'
import { parseTrainingJob } from '../../src/train/job.ts'
import { ropeway } from './command-line.ts'

const folder = mkdtempSync(join(tmpdir(), 'ropeway-train-'))
afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }))

const base = {
  model: { architecture: 'llama', layers: 1, heads: 2, width: 16 },
  data: { text: 'text.txt' },
  tokenizer: { byte_pairs: 260 },
  context: 8,
  batch: 2,
  steps: 4,
  optimizer: { learning_rate: 1e-3 },
  checkpoint: { every: 2, keep: 2 },
  threads: 1,
}

const train = (name: string, job: object) => {
  const path = join(folder, `${name}.yml`)
  writeFileSync(path, JSON.stringify({ ...job, out: name }))
  return ropeway(['train', path, '--here'])
}

beforeAll(async () => {
  writeFileSync(
    join(folder, 'text.txt'),
    'The rope way never stops: cabins join and leave the moving rope. '.repeat(20),
  )
  expect((await train('base', base)).code).toBe(0)
})

test('a model may be named by the folder of the run that made it: its newest checkpoint', async () => {
  const job = { ...base, tokenizer: undefined, method: { lora: { rank: 2 } } }
  const { code, err } = await train('adapter', { ...job, model: { from: 'base' } })
  // What lies outside of the current folder is named whole: somebody else may read it.
  expect(err).toContain(`ropeway serve ${join(folder, 'base', 'checkpoints', 'step-000004')} --adapter`)
  expect(code).toBe(0)
})

test('a model may be named as it is in the models folder, where no path beside the job file has that name', async () => {
  const home = join(folder, 'home')
  cpSync(join(folder, 'base'), join(home, 'models', 'named'), { recursive: true })
  vi.stubEnv('ROPEWAY_HOME', home)
  onTestFinished(() => void vi.unstubAllEnvs())
  const job = { ...base, tokenizer: undefined, method: { lora: { rank: 2 } } }
  const { code, err } = await train('by-name', { ...job, model: { from: 'named' } })
  expect([code, err]).toEqual([
    0,
    expect.stringContaining(join('home', 'models', 'named', 'checkpoints', 'step-000004')),
  ])
  const lost = await train('by-no-name', { ...job, model: { from: '../models/named' } })
  expect([lost.code, lost.err]).toEqual([3, expect.stringContaining('there is no such model')])
})

test('a model that is not there, or not yet, is refused before any data is read', async () => {
  const nowhere = await train('lost', { ...base, tokenizer: undefined, model: { from: 'nowhere' } })
  expect([nowhere.code, nowhere.err]).toEqual([3, expect.stringMatching(/field model\.from names .*nowhere/)])
  mkdirSync(join(folder, 'unsaved', 'checkpoints'), { recursive: true })
  writeFileSync(join(folder, 'unsaved', 'job.json'), '{}')
  const unsaved = await train('early', { ...base, tokenizer: undefined, model: { from: 'unsaved' } })
  expect([unsaved.code, unsaved.err]).toEqual([3, expect.stringContaining('has not saved a checkpoint yet')])
  const exported = await ropeway(['export', join(folder, 'unsaved'), '--to', join(folder, 'exported')])
  expect([exported.code, exported.err]).toEqual([3, expect.stringContaining('make a file emergency-save')])
})

test('a file that is no model, and a text that is not there, are refused without a word of bugs', async () => {
  const noModel = await ropeway(['generate', join(folder, 'text.txt'), '-p', 'hi'])
  expect([noModel.code, noModel.err]).toEqual([2, expect.stringContaining('text.txt is no model.')])
  const noText = await ropeway(['generate', join(folder, 'base'), '-f', join(folder, 'no.txt')])
  expect([noText.code, noText.err]).toEqual([3, expect.stringContaining('no.txt cannot be read')])
})

test('the newest checkpoint of a run is the one of most steps, also beyond six digits', () => {
  const checkpoints = join(folder, 'long', 'checkpoints')
  for (const name of ['step-999999', 'step-1000000', 'step-000010'])
    mkdirSync(join(checkpoints, name), { recursive: true })
  writeFileSync(join(checkpoints, 'step-1000000', 'config.json'), '{}')
  expect(resolveModel(join(folder, 'long'))).toBe(join(checkpoints, 'step-1000000'))
})

test('two runs in one folder are refused, and the second starts when the first has ended', async () => {
  {
    using _first = holdAlone(join(folder, 'base', '.lock.db'), '')
    const { code, err } = await train('base', base)
    expect([code, err]).toEqual([6, expect.stringContaining('Wait for it or stop it')])
  }
  expect((await train('base', base)).code).toBe(0)
})

test('an out folder that is a file, or lies in one, is refused by its field', async () => {
  for (const out of ['text.txt', join('text.txt', 'run')]) {
    const path = join(folder, 'out-is-a-file.yml')
    writeFileSync(path, JSON.stringify({ ...base, out }))
    const { code, err } = await ropeway(['train', path, '--here'])
    const message = `The field out names ${join(folder, out)}, and a file is where that folder would be.`
    expect([code, err]).toEqual([2, expect.stringContaining(message)])
    expect(err).not.toContain('bug')
  }
})

test('a run that is to be longer hears how', async () => {
  const { code, err } = await train('base', { ...base, steps: 8 })
  expect([code, err]).toEqual([6, expect.stringContaining('add schedule: {decay_steps: 4}')])
  expect((await train('base', { ...base, steps: 8, schedule: { decay_steps: 4 } })).code).toBe(0)
})

test('the time that is left is that of the steps to come, and evaluations are not taken for steps', async () => {
  // Half a minute goes by between two looks at this clock.
  let nowMs = 0
  const clock = { nowMs: () => (nowMs += 30_000), unixMs: () => 0 }
  const fields = { ...base, data: { text: 'text.txt', validation: 0.2 }, steps: 6, out: 'left' }
  const job = parseTrainingJob({ ...fields, evaluate: { every: 2, batches: 1 } }, folder)
  const left: unknown[] = []
  const emit = (event: Record<string, unknown>) => event.event === 'step' && left.push(event.secondsLeft)
  await runShown(job, new AbortController().signal, emit, undefined, clock)
  expect(left).toEqual([150, 120, 90, 60, 30, 0])
  const report = { step: 2, loss: 1, gradientNorm: 0.5, learningRate: 1e-3, tokens: 16, supervisedTokens: 16 }
  const line = progressText({ steps: 6, tokensPerStep: 16 }, report, 1, 30_000)
  expect(line).toMatch(/^step 3\/6 .* 1 min 30 s left /)
})
