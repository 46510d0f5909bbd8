/**
 * Carries fine-tuning jobs on: reads their files, gives them to a job, tells what that job does in OpenAI's words, and
 * brings its results home. Level-triggered, and everything that it does may be done twice.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { hyperparametersAsked, type TuningIntegration } from '../../api/tuning.ts'
import { rewardsOf } from '../../api/tuning-graders.ts'
import { type Failure, messageOf, UserError } from '../../base/errors.ts'
import type { Logger } from '../../base/log.ts'
import type { JobFolders } from '../jobs/folders.ts'
import type { Jobs } from '../jobs/jobs.ts'
import { type JobRow, jobNouns } from '../jobs/rows.ts'
import { isActive, isFinal, type JobState } from '../jobs/states.ts'
import type { Checkpoints } from '../models/checkpoints.ts'
import { type Providing, provide } from '../models/provide.ts'
import { type Loop, startLoop } from '../service/loop.ts'
import { purgeDeleted } from '../store/deletion.ts'
import { type EventRow, eventsOf } from '../store/events.ts'
import { giveUpRow, renewRow, takeRows } from '../store/leases.ts'
import { cursorAt } from '../store/pages.ts'
import { storable, Unstorable } from '../store/values.ts'
import type { TuningFiles } from './files.ts'
import { pathInJob } from './files.ts'
import { metricsAfter, writeResults } from './metrics.ts'
import { checkpointName, jobIdOf, shownId, type TuningRow, type TuningStatus } from './rows.ts'
import type { Tunings } from './tunings.ts'

/** What reads the files says of them. */
export type Planned =
  | {
      readonly ok: true
      readonly file: Readonly<Record<string, unknown>>
      readonly examples: number
      readonly epochs: number
      readonly batch: number
      readonly rateMultiplier: number
      readonly beta?: number | undefined
      readonly trainedTokens: number
      readonly warnings: readonly string[]
    }
  | { readonly ok: false; readonly which: 'training' | 'validation' | 'model'; readonly message: string }

export interface PlanRequest {
  readonly name: string
  readonly model: string
  readonly training: string
  readonly validation?: string | undefined
  readonly kind: 'supervised' | 'dpo' | 'reinforcement'
  readonly adaptation: 'lora' | 'full'
  readonly epochs: 'auto' | number
  readonly batch: 'auto' | number
  readonly rateMultiplier: 'auto' | number
  readonly beta?: 'auto' | number | undefined
  /** Of reinforcement: the field `rewards` of the job file, and how many times the usual number of answers. */
  readonly rewards?: readonly Readonly<Record<string, unknown>>[] | undefined
  readonly computeMultiplier?: 'auto' | number | undefined
  readonly seed: number
  /** The field `watch.wandb` of the job file. */
  readonly wandb?: Readonly<Record<string, unknown>> | undefined
}

export interface TuningLoopOptions {
  readonly tunings: Tunings
  readonly files: TuningFiles
  readonly jobs: Jobs
  readonly folders: JobFolders
  readonly checkpoints: Checkpoints
  readonly providing: Providing
  readonly log: Logger
  /** Reads the files in a folder; rejects with a UserError when it could not. */
  readonly plan: (request: PlanRequest, workspace: string) => Promise<Planned>
  /** Makes checkpoints of the project of those that the job has written on this machine. */
  readonly collect: (job: JobRow) => Promise<void>
}

const everyMs = 1000
const leaseMs = 30_000
const rowsMax = 20
const checkpointsMax = 200
/** Events of the job that one look tells. */
const jobEventsMax = 100
/** What is refused for these reasons is refused again. */
const lasting: readonly Failure[] = ['not_found', 'usage', 'auth']
/** Metrics that one look tells. */
const metricsMax = 100
/** Steps of one job that are told, about. */
const metricEventsMax = 1000

export function startTuningLoop(options: TuningLoopOptions): Loop {
  const { log, tunings } = options
  const owner = tunings.nouns.store.ids.next('loop')
  return startLoop({ name: 'tuning', everyMs, log, pass: () => carryOn(options, owner) })
}

/** One look at those that are not over. */
export async function carryOn(options: TuningLoopOptions, owner: string): Promise<void> {
  const { tunings, files, log } = options
  const rows = await takeRows(tunings.nouns, {
    ...{ owner, forMs: leaseMs, limit: rowsMax },
    where: (is) => is.and([is('state', '!=', 'done'), is('deleted_at', 'is', null)]),
  })
  for (const row of rows) {
    try {
      await held(options, owner, row, () =>
        row.state === 'validating' ? validate(options, row) : follow(options, row),
      )
    } catch (error) {
      log.warn({ err: error, tuning: row.id }, 'a fine-tuning job could not be carried on')
      if (isForGood(row, error)) await giveUp(options, row, messageOf(error))
    } finally {
      await giveUpRow(tunings.nouns, row.id, owner)
    }
  }
  await purgeDeleted(files.nouns, async () => undefined)
}

/** The next look would end the same: the store refuses it, or the job that it would be. */
function isForGood({ state }: TuningRow, error: unknown): boolean {
  if (error instanceof Unstorable) return true
  return (
    state === 'validating' && error instanceof UserError && !error.mayPass && lasting.includes(error.failure)
  )
}

async function giveUp(options: TuningLoopOptions, row: TuningRow, message: string): Promise<void> {
  const { tunings, jobs, folders, log } = options
  const id = jobIdOf(row.id)
  try {
    const job = await jobNouns(tunings.nouns.store).get(id)
    if (job === undefined) folders.remove(id)
    else if (!isFinal(job.state)) await jobs.stop(row.project_id, id)
    await end(options, row, 'failed', { code: 'job_refused', message, param: null })
  } catch (error) {
    log.warn({ err: error, tuning: row.id }, 'a fine-tuning job could not be given up')
  }
}

/** Reading a large file takes longer than a lease lasts. */
async function held(
  { tunings: { nouns } }: TuningLoopOptions,
  owner: string,
  { id }: TuningRow,
  work: () => Promise<void>,
): Promise<void> {
  const renew = () => void renewRow(nouns, id, { owner, forMs: leaseMs }).catch(() => undefined)
  const timer = setInterval(renew, leaseMs / 3)
  try {
    await work()
  } finally {
    clearInterval(timer)
  }
}

async function validate(options: TuningLoopOptions, row: TuningRow): Promise<void> {
  const { tunings, files, folders, jobs, plan } = options
  const project = row.project_id
  const job = jobIdOf(row.id)
  if (row.status.wish === 'cancelled') {
    folders.remove(job)
    return await end(options, row, 'cancelled')
  }
  const { spec } = row
  let planned: Planned
  let which: 'training' | 'validation' = 'training'
  try {
    const training = pathInJob(await files.get(project, spec.trainingFile))
    which = 'validation'
    const validation =
      spec.validationFile === null ? undefined : pathInJob(await files.get(project, spec.validationFile))
    which = 'training'
    const request = requestOf(row, training, validation)
    folders.prepare(job)
    const workspace = folders.workspace(job)
    await provide(options.providing, project, { id: job, label: `job ${request.name}` }, request, workspace)
    planned = await plan(request, workspace)
  } catch (error) {
    planned = { ok: false, which, message: messageOf(error) }
    if (!(error instanceof UserError)) options.log.warn({ err: error, tuning: row.id }, 'a plan failed')
  }
  if (!planned.ok) {
    folders.remove(job)
    const param = planned.which === 'model' ? 'model' : `${planned.which}_file`
    // It may quote a line of the file.
    const message = storable(planned.message)
    return await end(options, row, 'failed', { code: `invalid_${param}`, message, param })
  }
  const { file: plannedFile, warnings, ok: _, ...counted } = planned
  const credentials = spec.integrations.map(({ wandb }) => wandb.credential)
  const file = { ...plannedFile, ...(credentials.length > 0 && { job: { credentials } }) }
  await tunings.nouns.store.transaction(async () => {
    const active = await tunings.nouns.change(row.id, (now) =>
      // It was cancelled while its files were read; the next look ends it.
      now.status.wish === 'cancelled'
        ? undefined
        : {
            state: 'active',
            status: { ...now.status, plan: { ...counted, steps: Number(plannedFile.steps) } },
          },
    )
    if (active?.state !== 'active') return
    await jobs.create(project, { file, name: plannedFile.name as string }, job)
    for (const warning of warnings) await tunings.tell(active, warning, 'warn')
    await tunings.tell(active, 'Files validated, moving job to queued state')
  })
}

function requestOf({ id, spec }: TuningRow, training: string, validation: string | undefined): PlanRequest {
  const { method, base, seed, integrations } = spec
  const asked = hyperparametersAsked(method)
  const wandb = integrations[0]?.wandb
  return {
    name: shownId(id),
    model: `checkpoint:${base.checkpoint}`,
    training,
    ...(validation !== undefined && { validation }),
    kind: method.type,
    adaptation: method.adaptation,
    epochs: asked.n_epochs,
    batch: asked.batch_size,
    rateMultiplier: asked.learning_rate_multiplier,
    ...(method.type === 'dpo' && { beta: method.dpo.hyperparameters.beta }),
    ...(method.type === 'reinforcement' && {
      rewards: rewardsOf(method.reinforcement.grader),
      computeMultiplier: method.reinforcement.hyperparameters.compute_multiplier,
    }),
    seed,
    ...(wandb !== undefined && { wandb: wandbField(wandb) }),
  }
}

function wandbField({ project, name, entity, tags }: TuningIntegration['wandb']): Record<string, unknown> {
  return {
    ...{ project, sync: true },
    ...(name != null && { name }),
    ...(entity != null && { entity }),
    ...(tags !== undefined && { tags }),
  }
}

async function follow(options: TuningLoopOptions, row: TuningRow): Promise<void> {
  const { tunings, jobs, folders } = options
  const job = await jobNouns(tunings.nouns.store).get(jobIdOf(row.id))
  if (job === undefined || job.deleted_at !== null) {
    const message = 'The job that did it was deleted.'
    return await end(options, row, 'failed', { code: 'job_deleted', message, param: null })
  }
  await options.collect(job)
  const isAllTold = await tellNews(options, row, job)
  if (!isFinal(job.state)) {
    // Whoever cancelled may have seen no job yet.
    if (row.status.wish === 'cancelled') await jobs.stop(row.project_id, job.id)
    return
  }
  // The next look goes on; the end is told last.
  if (!isAllTold) return
  if (row.status.wish === 'cancelled') return await end(options, row, 'cancelled')
  if (job.state === 'stopped') {
    if (row.status.wish === 'resumed') await jobs.resume(row.project_id, job.id)
    return
  }
  if (job.state === 'success') return await end(options, row, 'succeeded')
  await end(options, row, 'failed', failureOf(row, job, folders.workspace(job.id)))
}

/** What a job says of files is about those that it was asked for with, by the names that they were uploaded with. */
function failureOf({ spec }: TuningRow, { status }: JobRow, workspace: string): TuningStatus['error'] {
  let message = status.message.replaceAll(`${workspace}/`, '')
  let param: 'training_file' | 'validation_file' | null = null
  for (const [name, file] of [
    ['validation_file', spec.validationFile],
    ['training_file', spec.trainingFile],
  ] as const) {
    const folder = `dataset:${file}/`
    if (!message.includes(folder)) continue
    message = message.replaceAll(folder, '')
    param = name
  }
  return { code: param === null ? 'training_failed' : `invalid_${param}`, message, param }
}

/** False when there is more to tell than one look tells. */
async function tellNews(options: TuningLoopOptions, row: TuningRow, job: JobRow): Promise<boolean> {
  const { tunings, checkpoints } = options
  const { store } = tunings.nouns
  const told = row.status.told ?? { step: 0, checkpoint: 0 }
  const steps = row.status.plan?.steps ?? 1
  const every = Math.max(1, Math.ceil(steps / metricEventsMax))
  const isOver = isFinal(job.state)
  const { steps: metrics, hasMore } = await metricsAfter(store, job.id, {
    ...{ after: told.step, limit: metricsMax, isOver },
  })
  const { rows: written } = await checkpoints.nouns.list({
    project: row.project_id,
    where: (is) => is.and([is('job_id', '=', job.id), is('step', '>', told.checkpoint)]),
    limit: checkpointsMax,
  })
  const { rows: events } = await eventsOf(store, job.id, {
    limit: jobEventsMax,
    ...(told.event !== undefined && { cursor: cursorAt(told.event, false) }),
  })
  if (metrics.length === 0 && written.length === 0 && events.length === 0) return true
  await store.transaction(async () => {
    for (const event of events) await tellJob(tunings, row, job, event)
    let last = Number.NEGATIVE_INFINITY
    for (const { step, values } of metrics) {
      if (step - last < every && step !== steps && !isHeldOut(values)) continue
      last = step
      await tunings.tell(row, stepSaid(step, steps, values), 'info', { step, total_steps: steps, ...values })
    }
    for (const { step } of written.sort((a, b) => a.step - b.step))
      await tunings.tell(row, `Checkpoint created at step ${step} as ${checkpointName(row.name, step)}`)
    const next: NonNullable<TuningStatus['told']> = {
      event: events.at(-1)?.id ?? told.event,
      step: metrics.at(-1)?.step ?? told.step,
      checkpoint: Math.max(told.checkpoint, ...written.map(({ step }) => step)),
    }
    await tunings.nouns.change(row.id, (now) => ({ status: { ...now.status, told: next } }))
  })
  return !hasMore && written.length < checkpointsMax && events.length < jobEventsMax
}

function isHeldOut(values: Readonly<Record<string, number>>): boolean {
  return 'valid_loss' in values || 'valid_mean_reward' in values
}

function stepSaid(step: number, steps: number, values: Readonly<Record<string, number>>): string {
  const shown = (name: string, label: string) =>
    values[name] === undefined ? [] : [`${label}=${values[name].toFixed(4)}`]
  const parts = [...shown('train_loss', 'training loss'), ...shown('valid_loss', 'validation loss')]
  return `Step ${step}/${steps}: ${parts.join(', ')}`
}

/** What the job's own events are in OpenAI's words; most are of no interest to whoever tunes. */
async function tellJob(tunings: Tunings, row: TuningRow, { status }: JobRow, event: EventRow): Promise<void> {
  switch (event.kind) {
    case 'job.running':
      return await tunings.tell(row, 'Fine-tuning job started')
    case 'job.stopped':
      return await tunings.tell(row, `Fine-tuning job paused at step ${status.checkpointStep}`)
    case 'job.note':
      return await tunings.tell(row, event.message, 'warn')
    case 'job.waiting':
      // From nothing it was made; from a state of rest somebody began it again.
      if (event.details.from !== undefined && isActive(event.details.from as JobState))
        await tunings.tell(row, `Fine-tuning job waits for its next attempt: ${event.message}`, 'warn')
  }
}

const endings = {
  succeeded: 'The job has successfully completed',
  failed: 'The job failed',
  cancelled: 'The job has been cancelled',
} as const

async function end(
  options: TuningLoopOptions,
  row: TuningRow,
  outcome: NonNullable<TuningStatus['outcome']>,
  error?: TuningStatus['error'],
): Promise<void> {
  const { tunings } = options
  const results = outcome === 'failed' ? [] : await bringResults(options, row)
  await tunings.nouns.store.transaction(async () => {
    const finishedMs = tunings.nouns.store.clock.unixMs()
    const done = await tunings.nouns.change(row.id, (now) => {
      if (now.state === 'done') return undefined
      const status = { ...now.status, outcome, finishedMs, resultFiles: results, ...(error && { error }) }
      return { state: 'done', status }
    })
    if (done === undefined) return
    if (outcome === 'succeeded') await tunings.tell(done, `New fine-tuned model created: ${done.name}`)
    const why = error === undefined ? '' : `: ${error.message}`
    await tunings.tell(done, `${endings[outcome]}${why}`, outcome === 'failed' ? 'error' : 'info')
  })
}

/** The steps of the job as a file, from where it ran. */
async function bringResults(
  { files, folders, log }: TuningLoopOptions,
  { id, project_id: project }: TuningRow,
): Promise<string[]> {
  const source = join(folders.output(jobIdOf(id)), 'metrics.jsonl')
  if (!existsSync(source)) return []
  try {
    const file = await files.add(project, async (path) => {
      await writeResults(source, path)
      return { filename: 'step_metrics.csv', purpose: 'fine-tune-results' }
    })
    return [shownId(file.id)]
  } catch (error) {
    // The model is there all the same.
    log.warn({ err: error, tuning: id }, 'the result file could not be made')
    return []
  }
}
