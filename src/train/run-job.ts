/**
 * Runs a training job from wherever it stands to its end: data, tokenizer, model, steps, evaluations,
 * checkpoints. It only reports; whoever calls it shows.
 */
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { systemClock } from '../base/clock.ts'
import { writeFileAtomic } from '../base/files.ts'
import { withPauses } from '../base/pauses.ts'
import { Device } from '../runtime/device.ts'
import { kernelStatus, plainNote } from '../runtime/kernels.ts'
import { kernelsNeedBuilding } from '../runtime/kernels-build.ts'
import {
  checkpointNames,
  type FoundCheckpoint,
  findingCheckpoint,
  newestCheckpoint,
  removeLeftovers,
  restore,
  restoring,
  setAside,
  stepOf,
  type TrainerState,
} from './checkpoint.ts'
import { CheckpointWriter } from './checkpoint-writer.ts'
import { preparing } from './data/preparing.ts'
import { Evaluations, type HeldOutRewards } from './evaluate/evaluations.ts'
import { Standing } from './evaluate/standing.ts'
import { recipeOf, type TrainingJob } from './job.ts'
import { type JobData, prepareData } from './job-data.ts'
import { entryOf, type LedgerEntry, StepLedger } from './ledger.ts'
import { policyOf, preferenceOf } from './methods/method.ts'
import { objectiveOf } from './methods/objectives.ts'
import { preparePreferences } from './methods/preference-data.ts'
import { fillReferences } from './methods/references.ts'
import { bringsThreads } from './own-kernels.ts'
import { alone, type Channel, Team } from './parallel/team.ts'
import type { Parameters } from './parameters.ts'
import { dataCheckOf } from './preflight/data-check.ts'
import { needsOf, refuseTooLarge } from './preflight/needs.ts'
import { type BaseModel, preparingModel, refuseUnfit, routerBalanceOf } from './prepare-model.ts'
import { type Publisher, publisherOf } from './publish/publisher.ts'
import { bestFolder, frozenBase, isStale, refuseOtherData, refuseOtherRecipe } from './resume-checks.ts'
import { preparePrompts } from './rollouts/prompt-data.ts'
import { Reference } from './rollouts/reference.ts'
import { Rollouts } from './rollouts/rollouts.ts'
import type { JobCallbacks, JobResult, JobStart } from './run-callbacks.ts'
import { diverged, endedBadly, refuseUnshared, stoppedWithNothing, unequal } from './run-refusals.ts'
import { rowsOf, type StepSamples } from './step-samples.ts'
import { ThreadChoice } from './thread-choice.ts'
import { GivenUp, type StepReport, Trainer } from './trainer.ts'

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

/** The job as it was last run, with every path absolute. */
export function jobRecord(out: string): string {
  return join(out, 'job.json')
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

/** One life of a job: from the checkpoint that it starts at to its end or its interruption. */
class JobRun implements Disposable {
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
  /** The last step made numbers. What led to one that did not may lie in the weights already: they are not kept. */
  #isGood = true
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
    while (this.#trainer.stepsDone < steps && !(isStale && this.#isGood) && !(stopping && this.#mayRest)) {
      const report = await this.#step(choice)
      const earlier = ledger?.add(report)
      if (earlier !== undefined) this.#callbacks.onNote?.(unequal(earlier, report))
      this.#callbacks.onStep?.(report)
      const { stepsDone } = this.#trainer
      const isUpdated = report.outcome === 'updated'
      if (isUpdated) this.#publisher?.afterStep(stepsDone)
      stopping = await this.#any(signal.aborted)
      const isAsked = await this.#any(this.#isFirst && existsSync(emergencyNote(out)))
      if (isAsked && this.#mayRest && this.#isGood) await this.#saveOnDemand()
      if (!stopping || stepsDone === steps)
        stopping = (await this.#evaluateIfDue(evaluations, signal)) === 'given up' || stopping
      if (stepsDone === steps && !this.#isGood) await this.#refuseBadEnd(report)
      isStale = await this.#any(this.#isFirst && this.#isStale)
      const isDue = stepsDone % checkpoint.every === 0 && stepsDone < steps
      if (isDue && isUpdated) await this.#writer.save(this.#state())
    }
    const { stepsDone } = this.#trainer
    if (!this.#isGood) return await this.#stoppedBadly()
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

  /**
   * The last step could not be used. Where the one before it could, and the held-out loss is a number, its batch was at
   * fault; throws where the weights may be what makes no number.
   */
  async #refuseBadEnd(report: StepReport): Promise<void> {
    const { evaluated, loss } = this.#standing
    const heldOut = evaluated === this.#trainer.stepsDone ? loss : undefined
    this.#isGood =
      this.#trainer.guard.skippedInRow === 1 && (heldOut === undefined || Number.isFinite(heldOut))
    if (!this.#isGood) throw endedBadly(report, (await this.#newest())?.folder)
  }

  /** Asked to stop after a step that could not be used: the next life begins at the newest checkpoint. */
  async #stoppedBadly(): Promise<JobResult> {
    const newest = await this.#newest()
    await this.#publisher?.settled()
    if (newest === undefined) throw stoppedWithNothing(this.#trainer.stepsDone)
    this.#callbacks.onNote?.(
      `Step ${this.#trainer.stepsDone - 1} could not be used, so nothing is kept of the steps since ${newest.folder}.`,
    )
    return {
      outcome: 'stopped',
      ...newest,
      validationLoss: this.#standing.loss,
      best: bestFolder(this.#root, this.#standing.best),
      stoppedEarly: false,
    }
  }

  async #newest(): Promise<{ stepsDone: number; folder: string } | undefined> {
    await this.#writer.settled()
    // Nobody looks before the one who writes has finished.
    await this.#any(false)
    const name = checkpointNames(this.#root).at(-1)
    return name === undefined ? undefined : { stepsDone: stepOf(name), folder: join(this.#root, name) }
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
    // A spike says nothing against the weights.
    this.#isGood = Number.isFinite(report.loss) && Number.isFinite(report.gradientNorm)
    if (report.outcome === 'updated') this.#wentBackTo = undefined
    if (report.outcome === 'rolled_back') {
      await this.#goBack(report)
      // The weights are those of a checkpoint again.
      this.#isGood = true
    }
    if (report.outcome === 'stopped') throw diverged(report)
    return report
  }

  /** Puts the weights of the newest checkpoint back; twice in a row, those of the one before it. */
  async #goBack(report: StepReport): Promise<void> {
    await this.#writer.settled()
    // Nobody looks before the one who writes has finished.
    await this.#any(false)
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
    const isKept = stepsDone > 0 && this.#isGood
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
