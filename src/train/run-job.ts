/**
 * Runs a training job from wherever it stands to its end: data, tokenizer, model, steps, evaluations,
 * checkpoints. It only reports; whoever calls it shows.
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { writeFileAtomic } from '../base/files.ts'
import { withPauses } from '../base/pauses.ts'
import { Device } from '../runtime/device.ts'
import { kernelStatus, plainNote } from '../runtime/kernels.ts'
import { kernelsNeedBuilding } from '../runtime/kernels-build.ts'
import {
  type FoundCheckpoint,
  findingCheckpoint,
  removeLeftovers,
  restoring,
  setAside,
} from './checkpoint.ts'
import { preparing } from './data/preparing.ts'
import { Evaluations } from './evaluate/evaluations.ts'
import type { TrainingJob } from './job.ts'
import { type JobData, prepareData } from './job-data.ts'
import { JobRun } from './job-run.ts'
import type { LedgerEntry } from './ledger.ts'
import { policyOf, preferenceOf } from './methods/method.ts'
import { preparePreferences } from './methods/preference-data.ts'
import { fillReferences } from './methods/references.ts'
import { alone, type Channel, Team } from './parallel/team.ts'
import { dataCheckOf } from './preflight/data-check.ts'
import { needsOf, refuseTooLarge } from './preflight/needs.ts'
import { preparingModel, refuseUnfit } from './prepare-model.ts'
import { bestFolder, frozenBase, isStale, refuseOtherData, refuseOtherRecipe } from './resume-checks.ts'
import { preparePrompts } from './rollouts/prompt-data.ts'
import { Reference } from './rollouts/reference.ts'
import { Rollouts } from './rollouts/rollouts.ts'
import type { JobCallbacks, JobResult } from './run-callbacks.ts'
import { emergencyNote, jobRecord } from './run-files.ts'
import { refuseUnshared } from './run-refusals.ts'
import type { StepSamples } from './step-samples.ts'

/**
 * Goes on from the newest whole checkpoint in the job's folder. When `signal` is aborted, the step in hand is
 * finished and saved. Throws UserErrors for what the user can mend.
 */
export async function runTrainingJob(
  job: TrainingJob,
  callbacks: JobCallbacks = {},
  signal: AbortSignal = new AbortController().signal,
  channel = alone,
): Promise<JobResult> {
  if (channel.size > 1) refuseUnshared(job, channel.size)
  const root = join(job.out, 'checkpoints')
  const isFirst = channel.rank === 0
  if (isFirst) removeLeftovers(root)
  if (isFirst) rmSync(emergencyNote(job.out), { force: true })
  const { pause } = preparing(() => undefined, signal)
  const damaged: string[] = []
  const onDamaged = (folder: string, reason: string) => {
    damaged.push(folder)
    callbacks.onNote?.(`The checkpoint ${folder} is damaged (${reason}); looking for an earlier one.`)
  }
  const found = await withPauses(findingCheckpoint(root, onDamaged), pause)
  if (found !== undefined) refuseOtherRecipe(job, found)
  if (found !== undefined && (found.state.stepsDone >= job.steps || isStale(job, found.state))) {
    const { stepsDone, best } = found.state
    return {
      outcome: 'finished',
      stepsDone,
      folder: found.folder,
      validationLoss: undefined,
      best: bestFolder(root, best),
      stoppedEarly: stepsDone < job.steps,
    }
  }
  if (isFirst) writeFileAtomic(jobRecord(job.out), `${JSON.stringify(job, null, 2)}\n`)
  return await withRun(job, found, callbacks, channel, signal, async (run, device, data) => {
    const evaluations = await Evaluations.prepare(
      job,
      data.kit,
      device,
      data.validation,
      callbacks.decode,
      run.heldOutRewards,
    )
    callbacks.onStart?.(run.start(device))
    if (isFirst) for (const folder of damaged) callbacks.onNote?.(`It was set aside as ${setAside(folder)}.`)
    try {
      return await run.toEnd(evaluations, signal)
    } finally {
      await run.settled()
    }
  })
}

/** Computes the steps after `found` up to number `last` again, and writes nothing. */
export async function replaySteps(
  job: TrainingJob,
  found: FoundCheckpoint | undefined,
  last: number,
  callbacks: Pick<JobCallbacks, 'onNote' | 'plant' | 'decode'> & { onStep: (entry: LedgerEntry) => void },
): Promise<StepSamples> {
  const { onStep, ...others } = callbacks
  if (found !== undefined) refuseOtherRecipe(job, found)
  return await withRun(job, found, others, alone, 'replay', async (run) => {
    await run.replay(last, onStep)
    return run.samplesOf(last)
  })
}

/**
 * Everything that a step needs, made from the job and the checkpoint that it goes on from. A `life` of the run ends by
 * its signal; a replay writes nothing.
 */
async function withRun<Result>(
  job: TrainingJob,
  found: FoundCheckpoint | undefined,
  callbacks: JobCallbacks,
  channel: Channel,
  life: AbortSignal | 'replay',
  use: (run: JobRun, device: Device, data: JobData) => Promise<Result>,
): Promise<Result> {
  const preference = preferenceOf(job.method)
  const policy = policyOf(job.method)
  const note = (text: string) => callbacks.onNote?.(text)
  const signal = life === 'replay' ? undefined : life
  const heard = preparing(note, signal)
  const base = await frozenBase(job, found, heard.pause)
  const pairs = preference && (await preparePreferences(job, preference, found?.folder, heard))
  const prompts = policy && (await preparePrompts(job, policy, found?.folder, heard))
  using data = prompts ?? pairs ?? (await prepareData(job, found?.folder, heard))
  if (found !== undefined && found.state.dataHash !== data.hash) refuseOtherData(found)
  refuseUnfit(job, data.kit.tokenizer)
  if (callbacks.onData !== undefined) callbacks.onData(await dataCheckOf(job, data.kit, data.material, heard))
  if (kernelsNeedBuilding()) note('Compiling kernels for this machine, once.')
  if (callbacks.onNeeds !== undefined) {
    const needs = needsOf(job, data, channel.size)
    callbacks.onNeeds(needs)
    refuseTooLarge(needs)
  }
  using device = new Device({
    ...(job.device !== undefined && { device: job.device }),
    ...(job.threads !== undefined && { threads: job.threads }),
  })
  device.keepThreads()
  const plain = device.isHost ? plainNote(kernelStatus()) : undefined
  if (plain !== undefined) {
    // A signal that ends this run ends its compiler, too, which is no reason to say that it failed.
    await heard.pause()
    note(plain)
  }
  const { vocabularySize, bosToken, eosTokens } = data.kit.tokenizer
  if (preference !== undefined && pairs !== undefined) {
    await fillReferences(job, preference, pairs, device, {
      keeps: life !== 'replay' && channel.rank === 0,
      base,
      onNote: note,
      signal,
      pause: heard.pause,
    })
  }
  using parameters = await withPauses(
    preparingModel(job, { vocabularySize, bosToken, eosToken: eosTokens[0] }, device),
    heard.pause,
  )
  const team = job.data_parallel ? new Team(channel, parameters) : undefined
  if (found !== undefined) await withPauses(restoring(found.folder, parameters), heard.pause)
  using reference =
    policy !== undefined && policy.beta > 0
      ? await Reference.load(job, policy, parameters, device, data.supervisedMax!, heard.pause)
      : undefined
  const training =
    policy !== undefined && prompts !== undefined
      ? new Rollouts(job, policy, prompts, {
          ...{ parameters, device, reference, team, onNote: note },
          decode: callbacks.decode,
          stepsDone: life === 'replay' ? undefined : (found?.state.stepsDone ?? 0),
        })
      : data.training
  using run = new JobRun(job, { ...data, training }, parameters, device, found?.state, base, callbacks, team)
  return await use(run, device, data)
}
