/**
 * Runs a training job from wherever it stands to its end: data, tokenizer, model, steps, evaluations,
 * checkpoints. It only reports; whoever calls it shows.
 */
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { systemClock } from '../base/clock.ts'
import { UserError } from '../base/errors.ts'
import { writeFileAtomic } from '../base/files.ts'
import { Device } from '../runtime/device.ts'
import type { BatchSource } from './batch.ts'
import {
  type FoundCheckpoint,
  newestCheckpoint,
  removeLeftovers,
  restore,
  type TrainerState,
} from './checkpoint.ts'
import type { SaveStage } from './checkpoint-save.ts'
import { CheckpointWriter, type SavedCheckpoint } from './checkpoint-writer.ts'
import type { Decode } from './evaluate/decode.ts'
import { type Evaluation, Evaluations } from './evaluate/evaluations.ts'
import { recipeOf, type TrainingJob } from './job.ts'
import { type DataSummary, type JobData, prepareData } from './job-data.ts'
import { entryOf, type LedgerEntry, StepLedger } from './ledger.ts'
import { preferenceOf } from './methods/method.ts'
import { objectiveOf } from './methods/objectives.ts'
import { preparePreferences } from './methods/preference-data.ts'
import { fillReferences } from './methods/references.ts'
import type { Parameters } from './parameters.ts'
import { type DataCheck, dataCheckOf } from './preflight/data-check.ts'
import { type Needs, needsOf, refuseTooLarge } from './preflight/needs.ts'
import { type BaseModel, prepareModel } from './prepare-model.ts'
import { bestFolder, frozenBase, isStale, refuseOtherData, refuseOtherRecipe } from './resume-checks.ts'
import { ThreadChoice } from './thread-choice.ts'
import { type StepFault, type StepReport, Trainer } from './trainer.ts'

export interface JobStart extends DataSummary {
  /** Numbers that are trained. */
  parameters: number
  /** Numbers of the model that stay as they are. */
  frozenParameters: number
  vocabularySize: number
  tokensPerStep: number
  /** Steps that an earlier run did. */
  stepsDone: number
  steps: number
  device: string
  threads: number
}

export interface JobCallbacks {
  /** What the data is, before anything is computed. */
  onData?: (check: DataCheck) => void
  /** What it will take, about. */
  onNeeds?: (needs: Needs) => void
  onStart?: (start: JobStart) => void
  onStep?: (report: StepReport) => void
  /** A step came out wrong; what was done about it. */
  onFault?: (fault: StepFault) => void
  onEvaluation?: (evaluation: Evaluation & { isBest: boolean }) => void
  /** The serving engine's decoder, for tasks and samples; training has none of its own. */
  decode?: Decode
  /** A checkpoint is on disk; steps may have been done since it was asked for. */
  onCheckpoint?: (checkpoint: SavedCheckpoint) => void
  /** Something a person should know: what is being prepared, what was damaged. */
  onNote?: (text: string) => void
  onSaveStage?: (stage: SaveStage) => void
  /** Stands between the data and the trainer, so that a test can plant a fault there. */
  plant?: (source: BatchSource) => BatchSource
}

export interface JobResult {
  outcome: 'finished' | 'stopped'
  stepsDone: number
  /** The newest checkpoint, which can be served. */
  folder: string
  /** Of the last evaluation in this run. */
  validationLoss: number | undefined
  /** The checkpoint with the best evaluation, where there was one. */
  best: { stepsDone: number; folder: string } | undefined
  /** True when the run ended because it did not get better any more. */
  stoppedEarly: boolean
}

/** While this file is in the job's folder, the job is asked to save after the step in hand; it removes the file then. */
export function emergencyNote(out: string): string {
  return join(out, 'emergency-save')
}

/**
 * Goes on from the newest whole checkpoint in the job's folder. When `signal` is aborted, the step in hand is
 * finished and saved. Throws UserErrors for what the user can mend.
 */
export async function runTrainingJob(
  job: TrainingJob,
  callbacks: JobCallbacks = {},
  signal: AbortSignal = new AbortController().signal,
): Promise<JobResult> {
  const root = join(job.out, 'checkpoints')
  removeLeftovers(root)
  rmSync(emergencyNote(job.out), { force: true })
  const found = newestCheckpoint(root, (folder, reason) => {
    callbacks.onNote?.(`The checkpoint ${folder} is damaged (${reason}); looking for an earlier one.`)
  })
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
  writeFileAtomic(jobRecord(job.out), `${JSON.stringify(job, null, 2)}\n`)
  return await withRun(job, found, callbacks, async (run, device, data) => {
    const evaluations = await Evaluations.prepare(job, data.kit, device, data.validation, callbacks.decode)
    callbacks.onStart?.(run.start(device))
    try {
      return await run.toEnd(evaluations, signal)
    } finally {
      await run.settled()
    }
  })
}

/** The job as it was last run, with every path absolute. */
export function jobRecord(out: string): string {
  return join(out, 'job.json')
}

/** Computes the steps after `found` up to number `last` again, and writes nothing. */
export async function replaySteps(
  job: TrainingJob,
  found: FoundCheckpoint | undefined,
  last: number,
  callbacks: Pick<JobCallbacks, 'onNote' | 'plant'> & { onStep: (entry: LedgerEntry) => void },
): Promise<StepSamples> {
  const { onStep, ...others } = callbacks
  if (found !== undefined) refuseOtherRecipe(job, found)
  return await withRun(job, found, others, async (run) => {
    await run.replay(last, onStep)
    return run.samplesOf(last)
  })
}

/** What a step learned from. */
export interface StepSamples {
  /** Where the samples stand. */
  places: string[]
  /** Of every row, micro-batch after micro-batch. */
  rows: { text: string; tokens: number; supervisedTokens: number }[]
}

/** Everything that a step needs, made from the job and the checkpoint that it goes on from. */
async function withRun<Result>(
  job: TrainingJob,
  found: FoundCheckpoint | undefined,
  callbacks: JobCallbacks,
  use: (run: JobRun, device: Device, data: JobData) => Promise<Result>,
): Promise<Result> {
  const base = frozenBase(job, found)
  const preference = preferenceOf(job.method)
  const note = (text: string) => callbacks.onNote?.(text)
  const pairs = preference && (await preparePreferences(job, preference, found?.folder, note))
  using data = pairs ?? (await prepareData(job, found?.folder, note))
  if (found !== undefined && found.state.dataHash !== data.hash) refuseOtherData(found)
  callbacks.onData?.(dataCheckOf(job, data.kit, data.material))
  if (callbacks.onNeeds !== undefined) {
    const needs = needsOf(job, data)
    callbacks.onNeeds(needs)
    refuseTooLarge(needs)
  }
  using device = new Device({
    ...(job.device !== undefined && { device: job.device }),
    ...(job.threads !== undefined && { threads: job.threads }),
  })
  device.keepThreads()
  const { vocabularySize, bosToken, eosTokens } = data.kit.tokenizer
  if (preference !== undefined && pairs !== undefined) {
    const all = pairs.validation === undefined ? [pairs.training] : [pairs.training, pairs.validation]
    await fillReferences(job, preference, all, device)
  }
  using parameters = prepareModel(job, { vocabularySize, bosToken, eosToken: eosTokens[0] }, device)
  if (found !== undefined) restore(found.folder, parameters)
  using run = new JobRun(job, data, parameters, device, found?.state, base, callbacks)
  return await use(run, device, data)
}

/** One life of a job: from the checkpoint that it starts at to its end or its interruption. */
class JobRun implements Disposable {
  readonly #job: TrainingJob
  readonly #root: string
  readonly #parameters: Parameters
  readonly #device: Device
  readonly #data: JobData
  readonly #base: BaseModel | undefined
  readonly #callbacks: JobCallbacks
  readonly #trainer: Trainer
  #best: TrainerState['best']
  #validationLoss: number | undefined
  readonly #writer: CheckpointWriter
  #evaluated: number | undefined
  /** Steps of the checkpoint that the run went back to, until a step succeeds. */
  #wentBackTo: number | undefined

  constructor(
    job: TrainingJob,
    data: JobData,
    parameters: Parameters,
    device: Device,
    state: TrainerState | undefined,
    base: BaseModel | undefined,
    callbacks: JobCallbacks,
  ) {
    this.#job = job
    this.#root = join(job.out, 'checkpoints')
    this.#parameters = parameters
    this.#device = device
    this.#data = data
    this.#base = base
    this.#callbacks = callbacks
    this.#best = state?.best
    this.#evaluated = state?.evaluated
    this.#writer = new CheckpointWriter(parameters, {
      root: this.#root,
      keep: job.checkpoint.keep,
      files: data.kit.files,
      clock: systemClock,
      onSaved: (checkpoint) => callbacks.onCheckpoint?.(checkpoint),
      onFailed: (stepsDone, reason) =>
        callbacks.onNote?.(`The checkpoint after step ${stepsDone} could not be written: ${reason}`),
      onStage: callbacks.onSaveStage,
    })
    this.#trainer = new Trainer(parameters, device, callbacks.plant?.(data.training) ?? data.training, {
      shape: {
        sequences: job.batch,
        tokens: job.context,
        packed: data.packed,
        recompute: job.recompute,
        precision: job.precision,
        ...(data.supervisedMax !== undefined && { supervisedMax: data.supervisedMax }),
      },
      accumulate: job.accumulate,
      optimizer: {
        beta1: job.optimizer.beta1,
        beta2: job.optimizer.beta2,
        epsilon: job.optimizer.epsilon,
        weightDecay: job.optimizer.weight_decay,
        clipNorm: job.optimizer.clip,
      },
      schedule: {
        kind: job.schedule.kind,
        learningRate: job.optimizer.learning_rate,
        learningRateMin: job.schedule.learning_rate_min,
        warmupSteps: job.schedule.warmup_steps,
        decaySteps: job.schedule.decay_steps,
        ...(job.schedule.cooldown_steps !== undefined && { cooldownSteps: job.schedule.cooldown_steps }),
      },
      objective: objectiveOf(job.method),
      stepsDone: state?.stepsDone ?? 0,
      faults: job.faults,
      guard: state?.guard,
      onFault: (fault) => callbacks.onFault?.(fault),
    })
  }

  start(device: Device): JobStart {
    const { summary, kit } = this.#data
    return {
      parameters: this.#trainer.parameters.count,
      frozenParameters: this.#trainer.parameters.frozenCount,
      vocabularySize: kit.tokenizer.vocabularySize,
      ...summary,
      tokensPerStep: this.#job.batch * this.#job.context * this.#job.accumulate,
      stepsDone: this.#trainer.stepsDone,
      steps: this.#job.steps,
      device: device.description,
      threads: device.threads,
    }
  }

  async toEnd(evaluations: Evaluations, signal: AbortSignal): Promise<JobResult> {
    const { steps, checkpoint, out } = this.#job
    const choice = new ThreadChoice(this.#device.threads)
    const ledger = new StepLedger(out, this.#trainer.stepsDone)
    // An interruption comes before the evaluation that is due: saving does not wait for it.
    await this.#evaluateIfDue(evaluations)
    while (this.#trainer.stepsDone < steps && !this.#isStale && !signal.aborted) {
      const report = await this.#step(choice)
      const earlier = ledger.add(report)
      if (earlier !== undefined) this.#callbacks.onNote?.(unequal(earlier, report))
      this.#callbacks.onStep?.(report)
      const { stepsDone } = this.#trainer
      if (existsSync(emergencyNote(out))) await this.#saveOnDemand()
      if (!signal.aborted || stepsDone === steps) await this.#evaluateIfDue(evaluations)
      const isDue = stepsDone % checkpoint.every === 0 && stepsDone < steps
      // What led to a bad step may lie in the weights already: they are not kept.
      if (isDue && report.outcome === 'updated') await this.#writer.save(this.#state())
    }
    const { stepsDone } = this.#trainer
    const isOver = stepsDone >= steps || this.#isStale
    const { folder } = await this.#writer.saveAndWait(this.#state())
    return {
      outcome: isOver ? 'finished' : 'stopped',
      stepsDone,
      folder,
      validationLoss: this.#validationLoss,
      best: bestFolder(this.#root, this.#best),
      stoppedEarly: isOver && stepsDone < steps,
    }
  }

  async #step(choice: ThreadChoice): Promise<StepReport> {
    this.#device.setThreads(choice.threads)
    const report = await this.#trainer.step()
    choice.took(report.elapsedMs)
    if (report.outcome === 'updated') this.#wentBackTo = undefined
    if (report.outcome === 'rolled_back') await this.#goBack(report)
    if (report.outcome === 'stopped') throw diverged(report)
    return report
  }

  /** Puts the weights of the newest checkpoint back; twice in a row, those of the one before it. */
  async #goBack(report: StepReport): Promise<void> {
    await this.#writer.settled()
    const before = this.#wentBackTo ?? report.step + 1
    const found = newestCheckpoint(
      this.#root,
      (folder, reason) => this.#callbacks.onNote?.(`The checkpoint ${folder} is damaged (${reason}).`),
      before,
    )
    if (found === undefined) throw diverged(report)
    restore(found.folder, this.#parameters)
    this.#wentBackTo = found.state.stepsDone
    this.#callbacks.onNote?.(
      `Went back to the weights of ${found.folder}; the samples of steps ${found.state.stepsDone} to ${report.step} are left out.`,
    )
  }

  /** Does the steps up to number `last` without a trace on disk. */
  async replay(last: number, onStep: (entry: LedgerEntry) => void): Promise<void> {
    const choice = new ThreadChoice(this.#device.threads)
    while (this.#trainer.stepsDone <= last) onStep(entryOf(await this.#step(choice)))
  }

  samplesOf(step: number): StepSamples {
    const { accumulate } = this.#job
    const { tokenizer } = this.#data.kit
    const rows: StepSamples['rows'] = []
    for (let i = 0; i < accumulate; i++) {
      const { sequences, tokens, ids, weights, documents } = this.#data.training.at(step * accumulate + i)
      for (let from = 0; from < sequences * tokens; from += tokens) {
        const held = ids.subarray(from, from + tokens).filter((_, t) => documents?.[from + t] !== -1)
        const supervisedTokens = weights
          .subarray(from, from + tokens)
          .reduce((sum, weight) => sum + Number(weight !== 0), 0)
        rows.push({ text: tokenizer.decode([...held]), tokens: held.length, supervisedTokens })
      }
    }
    return { places: this.#trainer.samplesOf(step), rows }
  }

  /** Nothing is being written any more. */
  async settled(): Promise<void> {
    await this.#writer.settled()
  }

  /** The note goes only when what was asked for is on disk. */
  async #saveOnDemand(): Promise<void> {
    await this.#writer.saveAndWait(this.#state())
    rmSync(emergencyNote(this.#job.out), { force: true })
  }

  get #isStale(): boolean {
    return isStale(this.#job, { stepsDone: this.#trainer.stepsDone, best: this.#best })
  }

  async #evaluateIfDue(evaluations: Evaluations): Promise<void> {
    const { steps, evaluate } = this.#job
    const { stepsDone } = this.#trainer
    if (stepsDone === 0 || this.#evaluated === stepsDone) return
    if (stepsDone === steps) await this.#evaluate(evaluations, evaluate.final_batches ?? evaluate.batches)
    else if (stepsDone % evaluate.every === 0) await this.#evaluate(evaluations, evaluate.batches)
  }

  async #evaluate(evaluations: Evaluations, batches: number): Promise<void> {
    if (!evaluations.any) return
    const { stepsDone } = this.#trainer
    const evaluation = await evaluations.run(this.#trainer, batches)
    this.#validationLoss = evaluation.loss
    this.#evaluated = stepsDone
    const measure = evaluations.measure(evaluation)
    const isBest = measure !== undefined && (this.#best === undefined || measure < this.#best.loss)
    if (isBest) this.#best = { step: stepsDone, loss: measure }
    this.#callbacks.onEvaluation?.({ ...evaluation, isBest })
    const isSavedAnyway = stepsDone % this.#job.checkpoint.every === 0 || stepsDone === this.#job.steps
    if (isBest && !isSavedAnyway) await this.#writer.save(this.#state())
  }

  #state(): TrainerState {
    return {
      stepsDone: this.#trainer.stepsDone,
      recipe: recipeOf(this.#job),
      dataHash: this.#data.hash,
      best: this.#best,
      evaluated: this.#evaluated,
      guard: this.#trainer.guard,
      base: this.#base,
    }
  }

  [Symbol.dispose](): void {
    this.#trainer.dispose()
  }
}

function diverged({ step, loss, gradientNorm }: StepReport): UserError {
  return new UserError(
    `Training diverged in step ${step}: the loss is ${loss} and the gradient's length ${gradientNorm}, and passing over steps and going back did not help.`,
    {
      fix: 'Lower the learning rate or lengthen the warm-up, and begin anew, or from a checkpoint (model: {from: FOLDER}).',
    },
  )
}

function unequal(earlier: LedgerEntry, { step, loss, hash }: StepReport): string {
  return (
    `Step ${step} came out otherwise than before (loss ${loss} instead of ${earlier.loss}, hash ${hash.slice(0, 12)} ` +
    `instead of ${earlier.hash.slice(0, 12)}): another kind of processor, another build, or faulty memory.`
  )
}
