/**
 * Runs a training job from wherever it stands to its end: data, tokenizer, model, steps, evaluations,
 * checkpoints. It only reports; whoever calls it shows.
 */
import { join } from 'node:path'
import { UserError } from '../base/errors.ts'
import { Device } from '../runtime/device.ts'
import type { BatchSource } from './batch.ts'
import {
  type FoundCheckpoint,
  newestCheckpoint,
  pruneCheckpoints,
  removeLeftovers,
  restore,
  type SaveStage,
  saveCheckpoint,
  type TrainerState,
} from './checkpoint.ts'
import { differences, recipeOf, type TrainingJob } from './job.ts'
import { type DataSummary, type JobData, prepareData } from './job-data.ts'
import { preferenceOf } from './methods/method.ts'
import { preparePreferences } from './methods/preference-data.ts'
import { preferenceObjective } from './methods/preference-graph.ts'
import { fillReferences } from './methods/references.ts'
import type { Objective } from './objective.ts'
import type { Parameters } from './parameters.ts'
import { type DataCheck, dataCheckOf } from './preflight/data-check.ts'
import { type BaseModel, baseModelOf, prepareModel } from './prepare-model.ts'
import { ThreadChoice } from './thread-choice.ts'
import { type StepReport, Trainer } from './trainer.ts'

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
  onStart?: (start: JobStart) => void
  onStep?: (report: StepReport) => void
  /** Mean loss on held-out text, in nats per token, after so many steps. */
  onEvaluation?: (evaluation: { stepsDone: number; loss: number; batches: number }) => void
  onCheckpoint?: (checkpoint: { stepsDone: number; folder: string }) => void
  /** Something a person should know: what is being prepared, what was damaged. */
  onNote?: (text: string) => void
  onSaveStage?: (stage: SaveStage) => void
}

export interface JobResult {
  outcome: 'finished' | 'stopped'
  stepsDone: number
  /** The newest checkpoint, which can be served. */
  folder: string
  /** Of the last evaluation in this run. */
  validationLoss: number | undefined
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
  const found = newestCheckpoint(root, (folder, reason) => {
    callbacks.onNote?.(`The checkpoint ${folder} is damaged (${reason}); looking for an earlier one.`)
  })
  if (found !== undefined) refuseOtherRecipe(job, found)
  if (found !== undefined && found.state.stepsDone >= job.steps) {
    return {
      outcome: 'finished',
      stepsDone: found.state.stepsDone,
      folder: found.folder,
      validationLoss: undefined,
    }
  }
  const base = frozenBase(job, found)
  const preference = preferenceOf(job.method)
  const note = (text: string) => callbacks.onNote?.(text)
  const pairs = preference && (await preparePreferences(job, preference, found?.folder, note))
  using data = pairs ?? (await prepareData(job, found?.folder, note))
  if (found !== undefined && found.state.dataHash !== data.hash) refuseOtherData(found)
  callbacks.onData?.(dataCheckOf(job, data.kit, data.material))
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
  using run = new JobRun(job, root, data, parameters, device, found?.state, base, callbacks)
  callbacks.onStart?.(run.start(device))
  return await run.toEnd(signal)
}

function refuseOtherRecipe(job: TrainingJob, found: FoundCheckpoint): void {
  const changed = differences(found.state.recipe, JSON.parse(JSON.stringify(recipeOf(job))))
  if (changed.length === 0) return
  throw new UserError(`${job.out} holds a run with other settings: ${changed.join(', ')} changed since.`, {
    failure: 'conflict',
    fix: 'Set them back to go on with that run, or choose another out folder for a new one.',
  })
}

function refuseOtherData(found: FoundCheckpoint): never {
  throw new UserError(`The data changed since ${found.folder} was saved.`, {
    failure: 'conflict',
    fix: 'Restore it to go on with that run, or choose another out folder for a new one.',
  })
}

/** The model that stays as it is while an adapter is trained: the same in every life of the job. */
function frozenBase(job: TrainingJob, found: FoundCheckpoint | undefined): BaseModel | undefined {
  if (job.method?.lora === undefined || !('from' in job.model)) return undefined
  const base = baseModelOf(job.model.from)
  if (found !== undefined && found.state.base?.sha256 !== base.sha256) {
    throw new UserError(`The model in ${base.path} is not the one that ${found.folder} was trained on.`, {
      failure: 'conflict',
      fix: 'Put that model back to go on with the run, or choose another out folder for a new one.',
    })
  }
  return base
}

function objectiveOf(job: TrainingJob): Objective | undefined {
  const preference = preferenceOf(job.method)
  return preference && preferenceObjective(preference)
}

/** One life of a job: from the checkpoint that it starts at to its end or its interruption. */
class JobRun implements Disposable {
  readonly #job: TrainingJob
  readonly #device: Device
  readonly #root: string
  readonly #data: JobData
  readonly #base: BaseModel | undefined
  readonly #callbacks: JobCallbacks
  readonly #trainer: Trainer
  readonly #validation: BatchSource | undefined
  #best: TrainerState['best']
  #validationLoss: number | undefined
  #saved: { stepsDone: number; folder: string } | undefined

  constructor(
    job: TrainingJob,
    root: string,
    data: JobData,
    parameters: Parameters,
    device: Device,
    state: TrainerState | undefined,
    base: BaseModel | undefined,
    callbacks: JobCallbacks,
  ) {
    this.#job = job
    this.#device = device
    this.#root = root
    this.#data = data
    this.#base = base
    this.#callbacks = callbacks
    this.#best = state?.best
    this.#validation = data.validation
    this.#trainer = new Trainer(parameters, device, data.training, {
      shape: {
        sequences: job.batch,
        tokens: job.context,
        packed: data.packed,
        recompute: job.recompute,
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
      objective: objectiveOf(job),
      stepsDone: state?.stepsDone ?? 0,
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

  async toEnd(signal: AbortSignal): Promise<JobResult> {
    const { steps, evaluate, checkpoint } = this.#job
    const choice = new ThreadChoice(this.#device.threads)
    while (this.#trainer.stepsDone < steps && !signal.aborted) {
      this.#device.setThreads(choice.threads)
      const report = await this.#trainer.step()
      choice.took(report.elapsedMs)
      this.#callbacks.onStep?.(report)
      const { stepsDone } = this.#trainer
      const last = stepsDone === steps
      if (last) await this.#evaluate(evaluate.final_batches ?? evaluate.batches)
      else if (stepsDone % evaluate.every === 0) await this.#evaluate(evaluate.batches)
      if (last || stepsDone % checkpoint.every === 0) this.#save()
    }
    const { stepsDone } = this.#trainer
    const outcome = stepsDone >= steps ? 'finished' : 'stopped'
    return { outcome, stepsDone, folder: this.#save(), validationLoss: this.#validationLoss }
  }

  async #evaluate(batches: number): Promise<void> {
    if (this.#validation === undefined) return
    const { stepsDone } = this.#trainer
    const loss = await this.#trainer.evaluate(this.#validation, batches)
    this.#validationLoss = loss
    if (this.#best === undefined || loss < this.#best.loss) this.#best = { step: stepsDone, loss }
    this.#callbacks.onEvaluation?.({ stepsDone, loss, batches })
  }

  /** Saves unless this step is saved already. Returns the newest checkpoint's folder. */
  #save(): string {
    const { stepsDone, parameters } = this.#trainer
    if (this.#saved?.stepsDone === stepsDone) return this.#saved.folder
    const state = {
      stepsDone,
      recipe: recipeOf(this.#job),
      dataHash: this.#data.hash,
      best: this.#best,
      base: this.#base,
    }
    const content = {
      parameters,
      files: this.#data.kit.files,
      state,
    }
    const folder = saveCheckpoint(this.#root, content, this.#callbacks.onSaveStage)
    pruneCheckpoints(this.#root, this.#job.checkpoint.keep, this.#best?.step)
    this.#callbacks.onSaveStage?.('pruned')
    this.#saved = { stepsDone, folder }
    this.#callbacks.onCheckpoint?.({ stepsDone, folder })
    return folder
  }

  [Symbol.dispose](): void {
    this.#trainer.dispose()
  }
}
