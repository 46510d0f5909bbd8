import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { type Steps, withPauses } from '../../src/base/pauses.ts'
import { runnerOf } from '../../src/base/processes.ts'
import { Random } from '../../src/base/random.ts'
import { resolveModel } from '../../src/cli/text-model.ts'
import { openModel } from '../../src/models/open.ts'
import { Device } from '../../src/runtime/device.ts'
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts'
import {
  checkpointNames,
  findingCheckpoint,
  pruneCheckpoints,
  restoring,
  sealed,
  stepFolderName,
} from '../../src/train/checkpoint.ts'
import { saveStages } from '../../src/train/checkpoint-save.ts'
import { loadingModel, loadModel } from '../../src/train/parameters.ts'
import { emergencyNote } from '../../src/train/run-files.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { Trainer } from '../../src/train/trainer.ts'
import { RandomWindows } from '../../src/train/windows.ts'
import { hashOf, tinyJob } from './tiny-job.ts'

const root = mkdtempSync(join(tmpdir(), 'ropeway-train-'))
const child = join(import.meta.dirname, 'run-child.ts')
let uninterrupted: string

beforeAll(async () => {
  const result = await runTrainingJob(tinyJob(join(root, 'whole')))
  expect(result.outcome).toBe('finished')
  uninterrupted = hashOf(result.folder)
})
afterAll(() => rmSync(root, { recursive: true, force: true, maxRetries: 9 }))

test('a mixture of experts that is stopped goes on to the weights of the uninterrupted run', async () => {
  const model = { architecture: 'qwen3_moe', layers: 2, heads: 2, width: 16, feed_forward: 24 }
  const changes = { model: { ...model, experts: 5, experts_used: 2 } }
  const whole = await runTrainingJob(tinyJob(join(root, 'mixture-whole'), changes))
  const folder = join(root, 'mixture-stopped')
  const stop = new AbortController()
  const callbacks = { onStep: ({ step }: { step: number }) => void (step === 6 && stop.abort()) }
  const stopped = await runTrainingJob(tinyJob(folder, changes), callbacks, stop.signal)
  expect(stopped.outcome).toBe('stopped')
  const resumed = await runTrainingJob(tinyJob(folder, changes))
  expect(hashOf(resumed.folder)).toBe(hashOf(whole.folder))
})

describe('killed and resumed, a run ends with the weights of the uninterrupted run, bit for bit', () => {
  const moments = [{ where: 'step', count: 7 }, ...saveStages.map((where) => ({ where, count: 2 }))]
  test.concurrent.each(moments)('killed at $where, time $count', async ({ where, count }) => {
    const folder = join(root, `${where}-${count}`)
    const command = [...runnerOf(child), child, folder, where, String(count)]
    const [, signal] = await once(
      spawn(process.execPath, command, { stdio: ['ignore', 'ignore', 'inherit'] }),
      'exit',
    )
    expect(signal).toBe('SIGKILL')
    const started: number[] = []
    const result = await runTrainingJob(tinyJob(folder), {
      onStart: ({ stepsDone }) => started.push(stepsDone),
    })
    // A save that came as far as its rename counts; one that did not never happened. Steps do not wait for either.
    if (where === 'step') expect([0, 4]).toContain(started[0])
    else expect(started).toEqual([where === 'renamed' || where === 'pruned' ? 8 : 4])
    expect(hashOf(result.folder)).toBe(uninterrupted)
    const left = readdirSync(join(folder, 'out', 'checkpoints')).filter((name) => name.startsWith('.'))
    expect(left).toEqual([])
  })
})

test('killed from outside again and again, with another number of threads each time, a run ends with the same bits', async () => {
  const folder = join(root, 'random')
  const random = new Random(11)
  const lives: number[] = []
  const changes = { steps: 48, checkpoint: { every: 3 } }
  for (let life = 0; life < 7; life++) {
    const given = JSON.stringify({ ...changes, threads: 1 + (life % 3) })
    const command = [...runnerOf(child), child, folder, 'never', '0', given]
    const running = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'inherit'] })
    let left = 4 + random.integer(24)
    const lines = createInterface({ input: running.stdout })
    lines.on('line', () => {
      if (--left === 0) running.kill('SIGKILL')
    })
    const [code, signal] = await once(running, 'exit')
    lives.push(checkpointNames(join(folder, 'out', 'checkpoints')).length)
    if (signal !== 'SIGKILL') expect(code).toBe(0)
  }
  expect(lives.some((checkpoints) => checkpoints > 0)).toBe(true)
  const result = await runTrainingJob(tinyJob(folder, changes))
  expect(result.outcome).toBe('finished')
  const whole = await runTrainingJob(tinyJob(join(root, 'random-whole'), changes))
  expect(hashOf(result.folder)).toBe(hashOf(whole.folder))
})

test('a note in the folder is answered by a checkpoint after the step in hand, and training goes on', async () => {
  const folder = join(root, 'on-demand')
  const saved: number[] = []
  const result = await runTrainingJob(
    tinyJob(folder, { evaluate: { every: 100 }, checkpoint: { every: 100 } }),
    {
      onStep: ({ step }) => {
        if (step === 4) writeFileSync(emergencyNote(join(folder, 'out')), '')
      },
      onCheckpoint: ({ stepsDone }) => saved.push(stepsDone),
    },
  )
  expect(saved).toEqual([5, 12])
  expect(existsSync(emergencyNote(join(folder, 'out')))).toBe(false)
  expect(hashOf(result.folder)).toBe(uninterrupted)
})

test('an interruption is saved before the evaluation that is due, which the next life makes up for', async () => {
  const folder = join(root, 'interrupted')
  const controller = new AbortController()
  const evaluated: number[] = []
  const onEvaluation = ({ stepsDone }: { stepsDone: number }) => evaluated.push(stepsDone)
  const onStep = ({ step }: { step: number }) => step === 5 && controller.abort()
  await runTrainingJob(
    tinyJob(folder, { evaluate: { every: 6, batches: 2 } }),
    { onStep, onEvaluation },
    controller.signal,
  )
  expect(evaluated).toEqual([])
  await runTrainingJob(tinyJob(folder, { evaluate: { every: 6, batches: 2 } }), { onEvaluation })
  expect(evaluated).toEqual([6, 12])
})

test('an interruption during an evaluation gives it up, is saved at once, and the next life evaluates', async () => {
  const folder = join(root, 'interrupted-within')
  const changes = { evaluate: { every: 6, batches: 1_000_000, final_batches: 2 }, checkpoint: { every: 100 } }
  const count = vi.spyOn(RandomWindows.prototype, 'at')
  onTestFinished(() => count.mockRestore())
  const stop = new AbortController()
  const evaluated: number[] = []
  const onEvaluation = ({ stepsDone }: { stepsDone: number }) => evaluated.push(stepsDone)
  // As a signal comes: by a turn of the event loop, while batches are measured.
  const onStep = ({ step }: { step: number }) => step === 5 && setTimeout(() => stop.abort())
  const stopped = await runTrainingJob(tinyJob(folder, changes), { onStep, onEvaluation }, stop.signal)
  expect(stopped).toMatchObject({ outcome: 'stopped', stepsDone: 6 })
  expect(evaluated).toEqual([])
  expect(count.mock.calls.length).toBeLessThan(1_000_000)
  const shorter = { ...changes, evaluate: { every: 6, batches: 2 } }
  const result = await runTrainingJob(tinyJob(folder, shorter), { onEvaluation })
  expect(evaluated).toEqual([6, 12])
  expect(hashOf(result.folder)).toBe(uninterrupted)
})

test('a checkpoint that cannot be written is told, and the run goes on', async () => {
  const folder = join(root, 'unwritable')
  const notes: string[] = []
  let saves = 0
  const result = await runTrainingJob(tinyJob(folder), {
    onNote: (text) => notes.push(text),
    onSaveStage: (stage) => {
      if (stage === 'model' && ++saves === 1) throw new Error('no space left on the disk')
    },
  })
  expect(notes.join('\n')).toMatch(/checkpoint after step 4 could not be written: no space left/)
  expect(hashOf(result.folder)).toBe(uninterrupted)
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

test('past a damaged newest checkpoint every new one stays, and the damaged one is set aside', async () => {
  const folder = join(root, 'past-damaged')
  const checkpoints = join(folder, 'out', 'checkpoints')
  const changes = { evaluate: { every: 100 }, checkpoint: { every: 4, keep: 1 } }
  await runTrainingJob(tinyJob(folder, changes))
  expect(checkpointNames(checkpoints)).toEqual(['step-000012'])
  const damage = () => appendFileSync(join(checkpoints, 'step-000012', 'model.safetensors'), 'x')
  for (const aside of ['step-000012.damaged', 'step-000012.damaged-2']) {
    damage()
    const saved: [step: number, left: string[]][] = []
    const notes: string[] = []
    const result = await runTrainingJob(tinyJob(folder, changes), {
      onCheckpoint: ({ stepsDone }) => saved.push([stepsDone, checkpointNames(checkpoints)]),
      onNote: (text) => notes.push(text),
    })
    expect(saved).toEqual([
      [4, ['step-000004']],
      [8, ['step-000008']],
      [12, ['step-000012']],
    ])
    expect(notes.join('\n')).toContain(`set aside as ${join(checkpoints, aside)}.`)
    expect(existsSync(join(checkpoints, aside, 'model.safetensors'))).toBe(true)
    expect(hashOf(result.folder)).toBe(uninterrupted)
  }
})

test('what is pruned is never what was just written, whatever lies there of later steps', () => {
  const place = join(root, 'pruned')
  for (const step of [2, 4, 6, 8, 20, 30]) mkdirSync(join(place, stepFolderName(step)), { recursive: true })
  pruneCheckpoints(place, 2, { stepsDone: 8, bestStep: 2 })
  expect(checkpointNames(place)).toEqual([2, 6, 8, 20, 30].map(stepFolderName))
  pruneCheckpoints(place, 1, { stepsDone: 8, bestStep: undefined })
  expect(checkpointNames(place)).toEqual([8, 20, 30].map(stepFolderName))
})

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
      onEvaluation: ({ stepsDone, loss }) => {
        if (best === undefined || loss! < best.loss) best = { stepsDone, loss: loss! }
      },
    },
  )
  const names = checkpointNames(join(folder, 'out', 'checkpoints'))
  const wanted = new Set(['step-000010', 'step-000012', `step-${String(best!.stepsDone).padStart(6, '0')}`])
  expect(names).toEqual([...wanted].sort())
})

test('a held-out loss that is no number is never the best, and one that an earlier version took for it is none', async () => {
  const folder = join(root, 'no-number')
  const evaluate = vi.spyOn(Trainer.prototype, 'evaluate').mockResolvedValueOnce(Number.NaN)
  onTestFinished(() => evaluate.mockRestore())
  const changes = { evaluate: { every: 1, batches: 1, patience: 1 } }
  const life = async (last: number) => {
    const stop = new AbortController()
    const seen: [step: number, isBest: boolean][] = []
    const callbacks = {
      onEvaluation: ({ stepsDone, isBest }: { stepsDone: number; isBest: boolean }) => {
        seen.push([stepsDone, isBest])
        if (stepsDone === last) stop.abort()
      },
    }
    return { result: await runTrainingJob(tinyJob(folder, changes), callbacks, stop.signal), seen }
  }
  // Patience counts from the best: there is none yet.
  const first = await life(1)
  expect([first.seen, first.result.best]).toEqual([[[1, false]], undefined])
  const path = join(first.result.folder, 'trainer.json')
  const { seal: _, ...manifest } = JSON.parse(readFileSync(path, 'utf8'))
  writeFileSync(path, sealed({ ...manifest, best: { step: 1, loss: Number.NaN } }))
  expect(() => resolveModel(`${join(folder, 'out')}@best`)).toThrow('has no best checkpoint')
  const second = await life(2)
  expect(second.seen).toEqual([[2, true]])
  expect(second.result.best?.stepsDone).toBe(2)
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

test('finding, loading and restoring a checkpoint end between any two of their steps', async () => {
  const checkpoints = join(root, 'whole', 'out', 'checkpoints')
  const folder = join(checkpoints, 'step-000012')
  using device = new Device({ device: 'cpu', threads: 1 })
  using parameters = loadModel(folder, device)
  const fail = (_: string, reason: string) => expect(reason).toBe('')
  const works: [string, () => Steps<unknown>][] = [
    ['finding', () => findingCheckpoint(checkpoints, fail)],
    ['loading', () => loadingModel(folder, device)],
    ['restoring', () => restoring(folder, parameters)],
  ]
  for (const [name, begin] of works) {
    let steps = 0
    const result = await withPauses(begin(), async () => void steps++)
    if (name === 'loading') (result as Disposable)[Symbol.dispose]()
    // A file of the checkpoint, or a parameter, a step at least.
    expect([name, steps > 2]).toEqual([name, true])
    for (const last of [1, steps >> 1, steps]) {
      let count = 0
      const pause = async () => {
        if (++count === last) throw new Error('asked to end')
      }
      await expect(withPauses(begin(), pause)).rejects.toThrow('asked to end')
      expect(count).toBe(last)
    }
  }
})
