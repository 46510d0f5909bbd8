import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { systemClock } from '../base/clock.ts'
import type { Device } from '../runtime/device.ts'
import type { TrainerState } from './checkpoint.ts'
import { CheckpointWriter } from './checkpoint-writer.ts'
import type { Evaluations, HeldOutRewards } from './evaluate/evaluations.ts'
import { Standing } from './evaluate/standing.ts'
import { recipeOf, type TrainingJob } from './job.ts'
import type { JobData } from './job-data.ts'
import { entryOf, type LedgerEntry, StepLedger } from './ledger.ts'
import { policyOf } from './methods/method.ts'
import { objectiveOf } from './methods/objectives.ts'
import { bringsThreads } from './own-kernels.ts'
import type { Team } from './parallel/team.ts'
import type { Parameters } from './parameters.ts'
import { type BaseModel, routerBalanceOf } from './prepare-model.ts'
import { type Publisher, publisherOf } from './publish/publisher.ts'
import { Recovery } from './recovery.ts'
import { bestFolder } from './resume-checks.ts'
import { Rollouts } from './rollouts/rollouts.ts'
import type { JobCallbacks, JobResult, JobStart } from './run-callbacks.ts'
import { emergencyNote } from './run-files.ts'
import { unequal } from './run-refusals.ts'
import { rowsOf, type StepSamples } from './step-samples.ts'
import { ThreadChoice } from './thread-choice.ts'
import { GivenUp, type StepReport, Trainer } from './trainer.ts'

/** One life of a job: from the checkpoint that it starts at to its end or its interruption. */
export class JobRun implements Disposable {
  readonly #job: TrainingJob
  readonly #root: string
  readonly #parameters: Parameters
  readonly #team: Team | undefined
  readonly #device: Device
  readonly #data: JobData
  readonly #base: BaseModel | undefined
  readonly #callbacks: JobCallbacks
  readonly #trainer: Trainer
  readonly #standing: Standing
  readonly #writer: CheckpointWriter
  readonly #publisher: Publisher | undefined
  readonly #recovery: Recovery

  constructor(
    job: TrainingJob,
    data: JobData,
    parameters: Parameters,
    device: Device,
    state: TrainerState | undefined,
    base: BaseModel | undefined,
    callbacks: JobCallbacks,
    team: Team | undefined,
  ) {
    this.#team = team
    this.#job = job
    this.#root = join(job.out, 'checkpoints')
    this.#parameters = parameters
    this.#device = device
    this.#data = data
    this.#base = base
    this.#callbacks = callbacks
    this.#standing = new Standing(job, state)
    this.#writer = new CheckpointWriter(parameters, {
      root: this.#root,
      keep: job.checkpoint.keep,
      files: data.kit.files,
      clock: systemClock,
      onSaving: callbacks.onSaving,
      onSaved: (checkpoint) => callbacks.onCheckpoint?.(checkpoint),
      onFailed: (stepsDone, reason) =>
        callbacks.onNote?.(`The checkpoint after step ${stepsDone} could not be written: ${reason}`),
      onStage: callbacks.onSaveStage,
      team,
    })
    this.#publisher = this.#isFirst
      ? publisherOf(job, parameters, callbacks.onPublished, callbacks.onNote)
      : undefined
    this.#trainer = new Trainer(parameters, device, callbacks.plant?.(data.training) ?? data.training, {
      shape: {
        sequences: job.batch,
        tokens: job.context,
        packed: data.packed,
        recompute: job.recompute,
        precision: job.precision,
        routerBalance: routerBalanceOf(job, parameters.definition),
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
      team,
    })
    this.#recovery = new Recovery({
      root: this.#root,
      parameters,
      trainer: this.#trainer,
      writer: this.#writer,
      standing: this.#standing,
      meet: () => this.#any(false),
      onNote: callbacks.onNote,
    })
  }

  /** Of a policy. */
  get heldOutRewards(): HeldOutRewards | undefined {
    const { training } = this.#data
    return training instanceof Rollouts && training.holdsOut
      ? (promptsMax) => training.heldOut(promptsMax)
      : undefined
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
    const choice = this.#threadChoice()
    const ledger = this.#isFirst ? new StepLedger(out, this.#trainer.stepsDone) : undefined
    // An interruption comes before the evaluation that is due: saving does not wait for it.
    await this.#evaluateIfDue(evaluations, signal)
    let stopping = await this.#any(signal.aborted)
    let isStale = await this.#any(this.#isFirst && this.#isStale)
    while (
      this.#trainer.stepsDone < steps &&
      !(isStale && this.#recovery.isGood) &&
      !(stopping && this.#mayRest)
    ) {
      const report = await this.#step(choice)
      const earlier = ledger?.add(report)
      if (earlier !== undefined) this.#callbacks.onNote?.(unequal(earlier, report))
      this.#callbacks.onStep?.(report)
      const { stepsDone } = this.#trainer
      const isUpdated = report.outcome === 'updated'
      if (isUpdated) this.#publisher?.afterStep(stepsDone)
      stopping = await this.#any(signal.aborted)
      const isAsked = await this.#any(this.#isFirst && existsSync(emergencyNote(out)))
      if (isAsked && this.#mayRest && this.#recovery.isGood) await this.#saveOnDemand()
      if (!stopping || stepsDone === steps)
        stopping = (await this.#evaluateIfDue(evaluations, signal)) === 'given up' || stopping
      if (stepsDone === steps && !this.#recovery.isGood) await this.#recovery.refuseBadEnd(report)
      isStale = await this.#any(this.#isFirst && this.#isStale)
      const isDue = stepsDone % checkpoint.every === 0 && stepsDone < steps
      if (isDue && isUpdated) await this.#writer.save(this.#state())
    }
    const { stepsDone } = this.#trainer
    if (!this.#recovery.isGood) return await this.#stoppedBadly()
    const isOver = stepsDone >= steps || isStale
    const folder = await this.#writer.saveAndWait(this.#state())
    await this.#publisher?.finish(stepsDone)
    return {
      outcome: isOver ? 'finished' : 'stopped',
      stepsDone,
      folder,
      validationLoss: this.#standing.loss,
      best: bestFolder(this.#root, this.#standing.best),
      stoppedEarly: isOver && stepsDone < steps,
    }
  }

  /** The next life begins at the newest checkpoint. */
  async #stoppedBadly(): Promise<JobResult> {
    await this.#publisher?.settled()
    return await this.#recovery.stoppedBadly()
  }

  /** Steps that learn from the same answers are done in one go: a checkpoint between them would lack those. */
  get #mayRest(): boolean {
    return this.#trainer.stepsDone % (policyOf(this.#job.method)?.updates ?? 1) === 0
  }

  get #isFirst(): boolean {
    return (this.#team?.rank ?? 0) === 0
  }

  /** Whether any process of the run says so: what they do next has to be the same. */
  async #any(mine: boolean): Promise<boolean> {
    return this.#team === undefined ? mine : await this.#team.any(mine)
  }

  /** Threads of ours need no choice: they share work with whoever comes. */
  #threadChoice(): ThreadChoice {
    const own = bringsThreads(this.#parameters, this.#device)
    return new ThreadChoice(own ? 1 : this.#device.threads)
  }

  async #step(choice: ThreadChoice): Promise<StepReport> {
    this.#device.setThreads(choice.threads)
    const report = await this.#trainer.step()
    // How long answers took does not hang on the threads of a step.
    const { rollout_seconds = 0, grading_seconds = 0 } = report.metrics
    choice.took(report.elapsedMs - 1000 * (rollout_seconds + grading_seconds))
    await this.#recovery.after(report)
    return report
  }

  /** Does the steps up to number `last` without a trace on disk. */
  async replay(last: number, onStep: (entry: LedgerEntry) => void): Promise<void> {
    const choice = this.#threadChoice()
    while (this.#trainer.stepsDone <= last) onStep(entryOf(await this.#step(choice)))
  }

  samplesOf(step: number): StepSamples {
    const { training, kit } = this.#data
    const places = this.#trainer.samplesOf(step)
    return { places, rows: rowsOf(training, kit.tokenizer, step, this.#job.accumulate) }
  }

  /** Nothing is being written any more. */
  async settled(): Promise<void> {
    await this.#writer.settled()
  }

  /** The note goes only when what was asked for is on disk. */
  async #saveOnDemand(): Promise<void> {
    await this.#writer.saveAndWait(this.#state())
    if (this.#isFirst) rmSync(emergencyNote(this.#job.out), { force: true })
  }

  get #isStale(): boolean {
    return this.#standing.isStale(this.#trainer.stepsDone)
  }

  async #evaluateIfDue(evaluations: Evaluations, signal: AbortSignal): Promise<'given up' | undefined> {
    const { stepsDone } = this.#trainer
    const batches = this.#standing.due(stepsDone)
    if (batches === undefined) return
    try {
      // No life comes after the last step that would make up for this one.
      await this.#evaluate(evaluations, batches, stepsDone === this.#job.steps ? undefined : signal)
    } catch (error) {
      if (!(error instanceof GivenUp)) throw error
      return 'given up'
    }
  }

  async #evaluate(evaluations: Evaluations, batches: number, signal?: AbortSignal): Promise<void> {
    if (!evaluations.any) return
    const { stepsDone } = this.#trainer
    const evaluation = await evaluations.run(this.#trainer, batches, signal)
    // Of what was there before the first step, or after a bad one, no checkpoint is made.
    const isKept = stepsDone > 0 && this.#recovery.isGood
    const isBetter = this.#standing.take(evaluation, evaluations.measure(evaluation), isKept)
    // The first process decodes, the others may not.
    const isBest = await this.#any(this.#isFirst && isBetter)
    this.#callbacks.onEvaluation?.({ ...evaluation, isBest })
    const isSavedAnyway = stepsDone % this.#job.checkpoint.every === 0 || stepsDone === this.#job.steps
    if (isBest && !isSavedAnyway) await this.#writer.save(this.#state())
  }

  #state(): TrainerState {
    return {
      stepsDone: this.#trainer.stepsDone,
      recipe: recipeOf(this.#job),
      dataHash: this.#data.hash,
      best: this.#standing.best,
      evaluated: this.#standing.evaluated,
      guard: this.#trainer.guard,
      base: this.#base,
    }
  }

  [Symbol.dispose](): void {
    this.#trainer.dispose()
  }
}
