import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openModel } from '../../src/models/open.ts'
import { Device } from '../../src/runtime/device.ts'
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts'
import { checkpointNames, saveStages } from '../../src/train/checkpoint.ts'
import { loadModel } from '../../src/train/parameters.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { hashOf, tinyJob } from './tiny-job.ts'

const root = mkdtempSync(join(tmpdir(), 'ropeway-train-'))
const child = join(import.meta.dirname, 'run-child.ts')
let uninterrupted: string

beforeAll(async () => {
  const result = await runTrainingJob(tinyJob(join(root, 'whole')))
  expect(result.outcome).toBe('finished')
  uninterrupted = hashOf(result.folder)
})
afterAll(() => rmSync(root, { recursive: true, force: true }))

describe('killed and resumed, a run ends with the weights of the uninterrupted run, bit for bit', () => {
  const moments = [{ where: 'step', count: 7 }, ...saveStages.map((where) => ({ where, count: 2 }))]
  test.concurrent.each(moments)('killed at $where, time $count', async ({ where, count }) => {
    const folder = join(root, `${where}-${count}`)
    const command = ['--import', 'tsx', child, folder, where, String(count)]
    const [, signal] = await once(spawn(process.execPath, command, { stdio: 'inherit' }), 'exit')
    expect(signal).toBe('SIGKILL')
    const started: number[] = []
    const result = await runTrainingJob(tinyJob(folder), {
      onStart: ({ stepsDone }) => started.push(stepsDone),
    })
    // A save that came as far as its rename counts; one that did not never happened.
    expect(started).toEqual([where === 'renamed' || where === 'pruned' ? 8 : 4])
    expect(hashOf(result.folder)).toBe(uninterrupted)
    const left = readdirSync(join(folder, 'out', 'checkpoints')).filter((name) => name.startsWith('.'))
    expect(left).toEqual([])
  })
})

test('aborted and resumed, a run ends with the weights of the uninterrupted run', async () => {
  const folder = join(root, 'aborted')
  for (const stopAfter of [1, 6, 9]) {
    const controller = new AbortController()
    const onStep = ({ step }: { step: number }) => {
      if (step + 1 === stopAfter) controller.abort()
    }
    const result = await runTrainingJob(tinyJob(folder), { onStep }, controller.signal)
    expect(result).toMatchObject({ outcome: 'stopped', stepsDone: stopAfter })
  }
  const result = await runTrainingJob(tinyJob(folder))
  expect(result.outcome).toBe('finished')
  expect(hashOf(result.folder)).toBe(uninterrupted)
})

test.each(['model.safetensors', 'optimizer.safetensors', 'trainer.json'])(
  'a newest checkpoint whose %s is damaged is passed over, said so, and trained again',
  async (file) => {
    const folder = join(root, `damaged-${file}`)
    const checkpoints = join(folder, 'out', 'checkpoints')
    await runTrainingJob(tinyJob(folder))
    const path = join(checkpoints, 'step-000012', file)
    const bytes = readFileSync(path)
    const place = bytes.length - 40
    bytes[place] = bytes[place]! ^ 1
    writeFileSync(path, bytes)
    const notes: string[] = []
    const started: number[] = []
    const result = await runTrainingJob(tinyJob(folder), {
      onNote: (text) => notes.push(text),
      onStart: ({ stepsDone }) => started.push(stepsDone),
    })
    expect(started).toEqual([8])
    expect(notes.join('\n')).toMatch(/step-000012 is damaged .*looking for an earlier one/)
    expect(hashOf(result.folder)).toBe(uninterrupted)
  },
)

test('a finished job starts nothing again', async () => {
  const folder = join(root, 'twice')
  await runTrainingJob(tinyJob(folder))
  let steps = 0
  const again = await runTrainingJob(tinyJob(folder), { onStep: () => steps++ })
  expect(again).toMatchObject({ outcome: 'finished', stepsDone: 12 })
  expect(steps).toBe(0)
})

test('a run with other settings in the same folder is refused with their names', async () => {
  const folder = join(root, 'other')
  await runTrainingJob(tinyJob(folder))
  const other = tinyJob(folder, { batch: 4, optimizer: { learning_rate: 0.02 } })
  await expect(runTrainingJob(other)).rejects.toThrow(/batch, optimizer.learning_rate changed/)
})

test('a run whose data changed is refused', async () => {
  const folder = join(root, 'changed')
  await runTrainingJob(tinyJob(folder, { steps: 4, schedule: { decay_steps: 12 } }))
  const job = tinyJob(folder, { schedule: { decay_steps: 12 } })
  appendFileSync(join(folder, 'text.txt'), ' and leaves the moving rope'.repeat(20))
  await expect(runTrainingJob(job)).rejects.toThrow(/data changed/)
})

test('only the newest checkpoints and the best one are kept', async () => {
  const folder = join(root, 'kept')
  let best: { stepsDone: number; loss: number } | undefined
  await runTrainingJob(
    tinyJob(folder, { evaluate: { every: 4, batches: 4 }, checkpoint: { every: 2, keep: 2 } }),
    {
      onEvaluation: (evaluation) => {
        if (best === undefined || evaluation.loss < best.loss) best = evaluation
      },
    },
  )
  const names = checkpointNames(join(folder, 'out', 'checkpoints'))
  const wanted = new Set(['step-000010', 'step-000012', `step-${String(best!.stepsDone).padStart(6, '0')}`])
  expect(names).toEqual([...wanted].sort())
})

test('a checkpoint is a model folder: config, weights as the checkpoint format has them, tokenizer', () => {
  const folder = join(root, 'whole', 'out', 'checkpoints', 'step-000012')
  using model = openModel(folder)
  // GPT-2 stores products as [inputs, outputs].
  expect(model.info('transformer.h.0.attn.c_attn.weight')!.shape).toEqual([16, 48])
  const tokenizer = loadTokenizer(folder)
  expect(tokenizer.decode(tokenizer.encode('the moving rope'))).toBe('the moving rope')
  using device = new Device({ device: 'cpu', threads: 1 })
  using parameters = loadModel(folder, device)
  expect(parameters.all.every(({ weight }) => weight.toFloats().every(Number.isFinite))).toBe(true)
  expect(existsSync(join(folder, 'trainer.json'))).toBe(true)
})
