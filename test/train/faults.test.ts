import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import type { BatchSource } from '../../src/train/batch.ts'
import { checkpointNames } from '../../src/train/checkpoint.ts'
import { ledgerFile, readLedger } from '../../src/train/ledger.ts'
import { replayStep } from '../../src/train/replay-step.ts'
import { emergencyNote } from '../../src/train/run-files.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { type FaultLimits, faultFields, StepGuard } from '../../src/train/step-guard.ts'
import type { StepFault } from '../../src/train/trainer.ts'
import { temporaryFolder } from './temporary-folder.ts'
import { hashOf, tinyJob } from './tiny-job.ts'

const root = temporaryFolder('faults', afterAll)

/** A source whose batches of these steps weigh `weight` instead of 1. */
function poisoned(steps: readonly number[], weight: number): (source: BatchSource) => BatchSource {
  return (source) => ({
    at: (index) => {
      const batch = source.at(index)
      return steps.includes(index) ? { ...batch, weights: batch.weights.map(() => weight) } : batch
    },
    samplesAt: (index) => source.samplesAt!(index),
  })
}

async function run(folder: string, plant: (source: BatchSource) => BatchSource, changes = {}) {
  const faults: StepFault[] = []
  const notes: string[] = []
  const result = await runTrainingJob(tinyJob(join(root, folder), changes), {
    plant,
    onFault: (fault) => faults.push(fault),
    onNote: (text) => notes.push(text),
  })
  return { result, notes, actions: faults.map(({ step, kind, action }) => [step, kind, action]), faults }
}

test('a batch that makes no number is passed over, with its samples, and the run ends well', async () => {
  const { result, actions, faults } = await run('nan', poisoned([5], Number.NaN))
  expect(result.outcome).toBe('finished')
  expect(actions).toEqual([[5, 'not_a_number', 'skipped']])
  expect(faults[0]!.samples).toHaveLength(3)
  expect(readLedger(join(root, 'nan', 'out')).get(5)).toMatchObject({ outcome: 'skipped', loss: null })
})

test('a gradient far longer than usual is passed over once enough steps were seen', async () => {
  const faults = { spike_factor: 10 }
  const { actions } = await run('spike', poisoned([3, 25], 1000), { steps: 30, faults })
  expect(actions).toEqual([[25, 'spike', 'skipped']])
  // Clipping alone, unless it is asked for.
  expect((await run('any-length', poisoned([25], 1000), { steps: 30 })).actions).toEqual([])
})

test('after several bad steps in a row the run goes back to a checkpoint and leaves the samples since out', async () => {
  const plant = poisoned([9, 10], Number.NaN)
  const changes = { faults: { skips: 1 } }
  const { result, actions, notes } = await run('back', plant, changes)
  expect(actions).toEqual([
    [9, 'not_a_number', 'skipped'],
    [10, 'not_a_number', 'rolled_back'],
  ])
  expect(notes.join('\n')).toMatch(/Went back to the weights of .*step-000008; the samples of steps 8 to 10/)
  // Only step 11 is done on the weights after step 8.
  const only = await run('only', poisoned([8, 9, 10], Number.NaN), { faults: { skips: 3 } })
  expect(hashOf(result.folder)).toBe(hashOf(only.result.folder))
})

test('a run that cannot be helped fails, and says in which step and what to do', async () => {
  const all = Array.from({ length: 12 }, (_, step) => step)
  const changes = { faults: { skips: 1, rollbacks: 1 }, checkpoint: { every: 2 } }
  await expect(run('lost', poisoned(all.slice(4), Number.NaN), changes)).rejects.toThrow(
    /diverged in step 7: the loss is NaN/,
  )
})

describe('after a step that could not be used', () => {
  const changes = { checkpoint: { every: 4 }, evaluate: { every: 100 }, faults: { skips: 60 } }
  const from = (first: number) => Array.from({ length: 12 - first }, (_, i) => first + i)

  test('a run does not end well behind several, and keeps nothing of them', async () => {
    const checkpoints = join(root, 'ends-badly', 'out', 'checkpoints')
    const message = `its last step, 11, could not be used (loss NaN, gradient's length NaN), so what it ended with is not kept; the newest checkpoint is ${join(checkpoints, 'step-000008')}`
    await expect(run('ends-badly', poisoned(from(9), Number.NaN), changes)).rejects.toThrow(message)
    expect(checkpointNames(checkpoints)).toEqual(['step-000004', 'step-000008'])
    expect(readLedger(join(root, 'ends-badly', 'out')).get(11)).toMatchObject({ outcome: 'skipped' })
  })

  test('a run ends well behind a single one, whose batch was at fault', async () => {
    for (const evaluate of [{ every: 100 }, undefined]) {
      const folder = evaluate === undefined ? 'one-unseen' : 'one'
      const { result } = await run(folder, poisoned([11], Number.NaN), { ...changes, evaluate })
      expect(result).toMatchObject({ outcome: 'finished', stepsDone: 12 })
    }
    // What a run goes back to at its very end is a checkpoint's.
    const back = { ...changes, faults: { skips: 1 } }
    expect((await run('ends-back', poisoned([10, 11], Number.NaN), back)).result.outcome).toBe('finished')
    const spikes = { ...changes, steps: 30, faults: { spike_factor: 10 } }
    const { result, actions } = await run('ends-with-a-spike', poisoned([28, 29], 1000), spikes)
    expect(actions.map(([step]) => step)).toEqual([28, 29])
    expect(result).toMatchObject({ outcome: 'finished', stepsDone: 30 })
  })

  test('weights that a step has made useless are not kept at the end', async () => {
    const optimizer = { learning_rate: 1e30, clip: 0 }
    const job = tinyJob(join(root, 'too-fast'), { steps: 3, schedule: { warmup_steps: 0 }, optimizer })
    await expect(runTrainingJob(job)).rejects.toThrow(
      /Training diverged: its last step, 2, .* nothing was kept/,
    )
    expect(checkpointNames(join(job.out, 'checkpoints'))).toEqual([])
  })

  test('a run that is stopped names the newest checkpoint and goes on from it', async () => {
    const stopped = async (folder: string, first: number) => {
      const stop = new AbortController()
      return await runTrainingJob(
        tinyJob(join(root, folder), changes),
        { plant: poisoned(from(first), Number.NaN), onStep: ({ step }) => step === 6 && stop.abort() },
        stop.signal,
      )
    }
    const result = await stopped('stopped', 5)
    expect(result).toMatchObject({ outcome: 'stopped', stepsDone: 4 })
    expect(checkpointNames(join(result.folder, '..'))).toEqual(['step-000004'])
    const { result: resumed } = await run('stopped', (source) => source, changes)
    const { result: whole } = await run('never-stopped', (source) => source, changes)
    expect(hashOf(resumed.folder)).toBe(hashOf(whole.folder))
    await expect(stopped('stopped-at-once', 2)).rejects.toMatchObject({
      failure: 'interrupted',
      message: 'Stopped after step 7, which could not be used and was not saved; there is no checkpoint yet.',
    })
  })

  test('a checkpoint on demand waits for the next good one, and no evaluation is the best', async () => {
    const saved: number[] = []
    const evaluated: [step: number, isBest: boolean][] = []
    const job = tinyJob(join(root, 'asked'), {
      ...changes,
      evaluate: { every: 1 },
      checkpoint: { every: 100 },
    })
    await runTrainingJob(job, {
      plant: poisoned([5, 6], Number.NaN),
      onStep: ({ step }) => step === 5 && writeFileSync(emergencyNote(job.out), ''),
      onCheckpoint: ({ stepsDone }) => saved.push(stepsDone),
      onEvaluation: ({ stepsDone, isBest }) => evaluated.push([stepsDone, isBest]),
    })
    expect(saved.filter((step) => step === 6 || step === 7)).toEqual([])
    expect(saved).toContain(8)
    expect(existsSync(emergencyNote(job.out))).toBe(false)
    expect(evaluated.slice(5, 7)).toEqual([
      [6, false],
      [7, false],
    ])
  })
})

describe('a step computed again', () => {
  test('has the hash of the ledger, and shows its samples', async () => {
    const folder = join(root, 'replayed')
    const job = tinyJob(folder, { accumulate: 2 })
    await runTrainingJob(job)
    for (const [step, from] of [
      [2, 0],
      [9, 8],
    ] as const) {
      const replay = await replayStep(job.out, step)
      expect(replay).toMatchObject({ step, from, firstDifference: undefined })
      expect(replay.recomputed).toEqual(replay.recorded)
      expect(replay.samples.places).toHaveLength(6)
      expect(replay.samples.rows).toHaveLength(6)
      const text = readFileSync(join(folder, 'text.txt'), 'utf8')
      for (const row of replay.samples.rows) expect(text).toContain(row.text)
    }
  })

  test('says from which step on it differs', async () => {
    const folder = join(root, 'flipped')
    const job = tinyJob(folder)
    await runTrainingJob(job)
    const flip = (entry: string) => {
      const parsed = JSON.parse(entry) as { step: number; hash: string }
      return parsed.step === 9 ? JSON.stringify({ ...parsed, hash: parsed.hash.replace(/^./, 'x') }) : entry
    }
    const lines = readFileSync(ledgerFile(job.out), 'utf8').trimEnd().split('\n').map(flip)
    writeFileSync(ledgerFile(job.out), `${lines.join('\n')}\n`)
    expect((await replayStep(job.out, 11)).firstDifference).toBe(9)
  })

  test('that was never done is refused with the last one that was', async () => {
    const job = tinyJob(join(root, 'replayed'), { accumulate: 2 })
    await expect(replayStep(job.out, 12)).rejects.toThrow(/ends with step 11/)
    await expect(replayStep(root, 1)).rejects.toThrow(/no step ledger/)
  })
})

test('a later life that does a step otherwise says so', async () => {
  const folder = join(root, 'otherwise')
  const stop = new AbortController()
  const notes: string[] = []
  await runTrainingJob(tinyJob(folder), { onStep: ({ step }) => step === 5 && stop.abort() }, stop.signal)
  const path = ledgerFile(tinyJob(folder).out)
  writeFileSync(path, `${readFileSync(path, 'utf8')}{"step":6,"hash":"0123","loss":9}\n{"step":7,"ha`)
  await runTrainingJob(tinyJob(folder), { onNote: (text) => notes.push(text) })
  expect(notes.join('\n')).toMatch(/Step 6 came out otherwise than before \(loss .* instead of 9/)
  expect([...readLedger(tinyJob(folder).out).keys()]).toEqual(Array.from({ length: 12 }, (_, i) => i))
})

test('the guard calls nothing a spike before it knows what is usual', () => {
  const limits: FaultLimits = faultFields.parse({ spike_factor: 5 })
  const guard = new StepGuard(limits)
  expect(guard.judge(1, 1e6)).toBe('good')
  for (let i = 0; i < 20; i++) guard.accept(1)
  expect(guard.judge(1, 4.9)).toBe('good')
  expect(guard.judge(1, 5.1)).toBe('spike')
  expect(new StepGuard(limits, guard.state).judge(1, 5.1)).toBe('spike')
})
