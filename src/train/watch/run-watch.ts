/** One life of a run, told to every sink that its job names. Nothing here waits or throws while training goes on. */
import { randomUUID } from 'node:crypto'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Clock } from '../../base/clock.ts'
import { UserError } from '../../base/errors.ts'
import { readJsonFile, writeFileAtomic } from '../../base/files.ts'
import { type Evaluation, evaluationMetrics } from '../evaluate/evaluations.ts'
import { recipeOf, type TrainingJob } from '../job.ts'
import type { JobResult, JobStart } from '../run-callbacks.ts'
import type { StepFault, StepReport } from '../trainer.ts'
import { MetricsFile } from './metrics-file.ts'
import { Mlflow } from './mlflow.ts'
import { Outbox } from './outbox.ts'
import type { RunEnd, RunEvent, Sink } from './sink.ts'
import { TensorBoardFile } from './tensorboard.ts'
import { WandbFile } from './wandb.ts'
import { syncToWandb, unsynced } from './wandb-sync.ts'
import { WebHook } from './web-hook.ts'

/** How a life of a run ended: a job's result says it all. */
type Ended = Pick<RunEnd, 'outcome'> & Partial<Pick<JobResult, 'stoppedEarly' | 'best'>>

/** What every life of a run has to know of the others. */
interface Identity {
  run: string
  mlflowRun?: string
}

export class RunWatch {
  readonly #job: TrainingJob
  readonly #clock: Clock
  readonly #outboxes: readonly Outbox[]
  readonly #identity: Identity
  readonly #environment: Readonly<Record<string, string | undefined>>
  readonly #onNote: (text: string) => void
  #step = 0
  #started = false

  /** Throws a UserError for a web hook whose variable is not set. */
  constructor(
    job: TrainingJob,
    clock: Clock,
    environment: Readonly<Record<string, string | undefined>>,
    onNote: (text: string) => void,
  ) {
    this.#job = job
    this.#clock = clock
    this.#environment = environment
    this.#onNote = onNote
    mkdirSync(job.out, { recursive: true })
    this.#identity = identityOf(job.out)
    const sinks = this.#sinks(environment)
    this.#outboxes = sinks.map((sink) => new Outbox(sink, clock, onNote))
  }

  #sinks(environment: Readonly<Record<string, string | undefined>>): Sink[] {
    const { out, watch = { tensorboard: false }, name } = this.#job
    const nowMs = this.#clock.unixMs()
    const sinks: Sink[] = [new MetricsFile(join(out, 'metrics.jsonl'))]
    if (watch.tensorboard) sinks.push(new TensorBoardFile(join(out, 'tensorboard'), nowMs))
    if (watch.wandb !== undefined) {
      sinks.push(new WandbFile(out, this.#identity.run, nowMs, watch.wandb))
    }
    if (watch.mlflow !== undefined) {
      const authorization = mlflowAuthorization(environment)
      sinks.push(
        new Mlflow({
          ...watch.mlflow,
          authorization,
          runId: this.#identity.mlflowRun,
          onRun: (mlflowRun) => this.#remember({ mlflowRun }),
        }),
      )
    }
    const hook = hookAddress(watch.web_hook, environment)
    if (hook !== undefined) sinks.push(new WebHook(hook, name))
    return sinks
  }

  #remember(changes: Partial<Identity>): void {
    Object.assign(this.#identity, changes)
    writeFileAtomic(identityFile(this.#job.out), `${JSON.stringify(this.#identity)}\n`)
  }

  start({ steps, stepsDone }: JobStart): void {
    const { name } = this.#job
    this.#step = stepsDone
    this.#started = true
    const settings = recipeOf(this.#job)
    this.#tell({
      kind: 'start',
      atMs: this.#now(),
      run: this.#identity.run,
      name,
      steps,
      stepsDone,
      settings,
    })
  }

  step(report: StepReport): void {
    this.#step = report.step + 1
    this.#metrics({
      loss: report.loss,
      gradient_norm: report.gradientNorm,
      learning_rate: report.learningRate,
      tokens_per_second: (report.tokens * 1000) / report.elapsedMs,
      supervised_share: report.supervisedTokens / report.tokens,
      ...report.metrics,
    })
  }

  evaluation(evaluation: Evaluation): void {
    const { stepsDone } = evaluation
    const values = evaluationMetrics(evaluation)
    if (Object.keys(values).length === 0) return
    this.#step = stepsDone
    this.#metrics(values)
  }

  fault({ step, kind, action, samples, gradientNorm, usualNorm }: StepFault): void {
    const what =
      kind === 'spike' ? `a gradient of length ${gradientNorm} where ${usualNorm} is usual` : 'no number'
    const text = `${what}; ${action}. Samples: ${samples.slice(0, 20).join(', ')}`
    this.#tell({ kind: 'fault', atMs: this.#now(), step, text })
  }

  checkpoint(stepsDone: number, folder: string): void {
    this.#tell({ kind: 'checkpoint', atMs: this.#now(), step: stepsDone, text: folder })
  }

  /** Tells the end, and waits for a limited time until all of it is told. */
  async end({ outcome, stoppedEarly, best }: Ended, message?: string): Promise<void> {
    // A job that had ended before has nothing to tell again.
    if (!this.#started && outcome !== 'failed') return
    this.#tell({
      kind: 'end',
      atMs: this.#now(),
      outcome,
      step: this.#step,
      ...(stoppedEarly && { stoppedEarly }),
      ...(best !== undefined && { best: best.stepsDone }),
      message,
    })
    await Promise.all(this.#outboxes.map((outbox) => outbox.close()))
    // A run that was stopped goes on, and whoever stopped it waits.
    if (this.#started && outcome !== 'stopped' && this.#job.watch?.wandb?.sync === true) await this.#sync()
  }

  /** All lives of the run that were not uploaded yet: their program makes one run of them. */
  async #sync(): Promise<void> {
    const folders = unsynced(this.#job.out, this.#identity.run)
    if (folders.length === 0) return
    this.#onNote('Handing the run to wandb sync.')
    const failure = await syncToWandb(folders, this.#environment)
    if (failure !== undefined)
      this.#onNote(`W&B did not get the run (${failure}). Its files stay: wandb sync ${folders.join(' ')}`)
  }

  #metrics(values: Record<string, number>): void {
    const numbers = Object.fromEntries(Object.entries(values).filter(([, value]) => Number.isFinite(value)))
    this.#tell({ kind: 'metrics', atMs: this.#now(), step: this.#step, values: numbers })
  }

  #tell(event: RunEvent): void {
    for (const outbox of this.#outboxes) outbox.put(event)
  }

  #now(): number {
    return this.#clock.unixMs()
  }
}

function identityFile(out: string): string {
  return join(out, 'watch.json')
}

function identityOf(out: string): Identity {
  if (existsSync(identityFile(out))) return readJsonFile(identityFile(out)) as unknown as Identity
  const identity = { run: randomUUID().slice(0, 8) }
  writeFileAtomic(identityFile(out), `${JSON.stringify(identity)}\n`)
  return identity
}

/** As MLflow's own client reads its environment. */
function mlflowAuthorization(environment: Readonly<Record<string, string | undefined>>): string | undefined {
  const { MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD } = environment
  if (MLFLOW_TRACKING_TOKEN) return `Bearer ${MLFLOW_TRACKING_TOKEN}`
  if (!MLFLOW_TRACKING_USERNAME) return undefined
  const pair = Buffer.from(`${MLFLOW_TRACKING_USERNAME}:${MLFLOW_TRACKING_PASSWORD ?? ''}`)
  return `Basic ${pair.toString('base64')}`
}

function hookAddress(
  field: string | { env: string } | undefined,
  environment: Readonly<Record<string, string | undefined>>,
): string | undefined {
  if (field === undefined || typeof field === 'string') return field
  const address = environment[field.env]
  if (address !== undefined && URL.canParse(address)) return address
  throw new UserError(`The field watch.web_hook names ${field.env}, which holds no address.`, {
    failure: 'usage',
    fix: `Set it: export ${field.env}=https://hooks.slack.com/...`,
  })
}
