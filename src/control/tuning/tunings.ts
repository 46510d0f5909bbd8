/** Fine-tuning jobs as OpenAI's clients ask for them. Each is done by a job of the service; the loop carries it over. */
import { createHash } from 'node:crypto'
import type { CreateTuning, TuningMethod } from '../../api/tuning.ts'
import { tuningMethod } from '../../api/tuning.ts'
import { Problem } from '../../http/problem.ts'
import type { Jobs } from '../jobs/jobs.ts'
import { type JobRow, type JobTables, jobNouns } from '../jobs/rows.ts'
import { isFinal } from '../jobs/states.ts'
import type { Models } from '../models/models.ts'
import type { ProjectSeen } from '../service/actor.ts'
import { recordEvent } from '../store/events.ts'
import type { Nouns } from '../store/nouns.ts'
import { cursorAt, type Page } from '../store/pages.ts'
import { baseModelOf } from './base-model.ts'
import { cursorBehind } from './cursors.ts'
import type { TuningFiles } from './files.ts'
import {
  jobIdOf,
  modelNameParts,
  ownId,
  shownId,
  type TuningRow,
  type TuningStatus,
  tuningNouns,
} from './rows.ts'

export interface TuningsOptions {
  readonly models: Models
  readonly files: TuningFiles
  readonly jobs: Jobs
  /** Throws UserError when the project has no credential of this name for W&B. */
  readonly checkWandb: (project: string, credential: string) => Promise<void>
  /** Something is to be done at once. */
  readonly wake: () => void
}

/** A fine-tuning job with the job that does it, once there is one. */
export interface TuningSeen {
  readonly row: TuningRow
  readonly job: JobRow | undefined
}

export interface TuningList {
  readonly limit: number
  readonly after?: string | undefined
  readonly metadata: Readonly<Record<string, string>>
}

/** Those of one project that are not over. */
const activeMax = 100
const idCharacters = 10

export class Tunings {
  readonly nouns: Nouns<TuningRow>
  readonly #options: TuningsOptions

  constructor(options: TuningsOptions) {
    this.#options = options
    this.nouns = tuningNouns(options.models.store)
  }

  async create(project: ProjectSeen, organisation: string, given: CreateTuning): Promise<TuningRow> {
    const { models, checkWandb, wake } = this.#options
    const base = await baseModelOf(models, project.id, given.model)
    const training = await this.#fileOf(project.id, given.training_file, 'training_file')
    const validation =
      given.validation_file == null
        ? null
        : await this.#fileOf(project.id, given.validation_file, 'validation_file')
    for (const { wandb } of given.integrations ?? []) await checkWandb(project.id, wandb.credential)
    await this.#checkRoom(project.id)
    const { store } = this.nouns
    const id = store.ids.next(this.nouns.prefix)
    const row = await store.transaction(async () => {
      const made = await this.nouns.insert({
        id,
        project_id: project.id,
        name: `ft:${base.model}:${organisation}:${given.suffix ?? ''}:${id.slice(-idCharacters)}`,
        spec: {
          model: given.model,
          base,
          organisation,
          trainingFile: training,
          validationFile: validation,
          suffix: given.suffix ?? null,
          seed: given.seed ?? seedFrom(id),
          method: methodOf(given),
          integrations: given.integrations ?? [],
          metadata: given.metadata ?? null,
        },
        status: { resultFiles: [] },
        state: 'validating',
      })
      if (made === undefined) throw new Problem(409, 'conflict', 'A fine-tuning job of this id exists.')
      await this.tell(made, `Created fine-tuning job: ${shownId(id)}`)
      await this.tell(made, `Validating training file: ${training}`)
      if (validation !== null) await this.tell(made, `Validating validation file: ${validation}`)
      return made
    })
    wake()
    return row
  }

  async #fileOf(project: string, shown: string, param: string): Promise<string> {
    const row = await this.#options.files.get(project, shown, param)
    if (row.purpose === 'fine-tune') return shownId(row.id)
    throw new Problem(
      400,
      'invalid_file_purpose',
      `${shown} has the purpose ${row.purpose}, not fine-tune.`,
      {
        param,
      },
    )
  }

  async #checkRoom(project: string): Promise<void> {
    const { rows } = await this.nouns.list({
      project,
      where: (is) => is.and([is('state', '!=', 'done')]),
      limit: activeMax,
    })
    if (rows.length < activeMax) return
    throw new Problem(
      429,
      'too_many_jobs',
      `${activeMax} fine-tuning jobs of the project are not over; cancel one, or wait for one.`,
    )
  }

  /** Throws {@link Problem} when the project has no such job. */
  async get(project: string, shown: string): Promise<TuningSeen> {
    const row = await this.nouns.get(ownId(shown))
    if (row === undefined || row.project_id !== project || row.deleted_at !== null) {
      throw new Problem(404, 'fine_tune_not_found', `Could not find fine-tune: ${shown.slice(0, 100)}.`, {
        param: 'fine_tune_id',
      })
    }
    return { row, job: await jobNouns(this.nouns.store).get(jobIdOf(row.id)) }
  }

  /** The job of the project that makes, or made, the model of this name. */
  async ofModel(project: string, name: string): Promise<TuningRow | undefined> {
    const parts = modelNameParts(name)
    return parts && (await this.nouns.named(project, parts.model))
  }

  async list(project: string, { limit, after, metadata }: TuningList): Promise<Page<TuningSeen>> {
    // Few have metadata and fewer are asked for by it: they are picked out page by page.
    const found: TuningRow[] = []
    let cursor = after === undefined ? undefined : await cursorBehind(this.nouns, project, ownId(after))
    for (;;) {
      const page = await this.nouns.list({
        project,
        limit,
        descending: true,
        ...(cursor !== undefined && { cursor }),
      })
      found.push(...page.rows.filter((row) => hasAll(row.spec.metadata, metadata)))
      cursor = page.next
      if (cursor === undefined || found.length >= limit) break
    }
    const hasMore = found.length > limit || cursor !== undefined
    const rows = found.slice(0, limit)
    const jobs = await this.#jobsOf(rows)
    const seen = rows.map((row) => ({ row, job: jobs.get(jobIdOf(row.id)) }))
    return hasMore && rows.length > 0 ? { rows: seen, next: cursorAt(rows.at(-1)!.id, true) } : { rows: seen }
  }

  async #jobsOf(rows: readonly TuningRow[]): Promise<Map<string, JobRow>> {
    if (rows.length === 0) return new Map()
    const jobs = await this.nouns.store
      .db<JobTables>()
      .selectFrom('jobs')
      .selectAll()
      .where(
        'id',
        'in',
        rows.map(({ id }) => jobIdOf(id)),
      )
      .execute()
    return new Map(jobs.map((job) => [job.id, job as JobRow]))
  }

  /** It ends for good; what it has written stays. */
  async cancel(project: string, shown: string): Promise<TuningSeen> {
    return await this.#ask(project, shown, 'cancelled', async ({ row, job }) => {
      if (row.state === 'done') throw stateConflict(row, 'cancelled', 'it is over')
      if (job !== undefined && !isFinal(job.state)) await this.#options.jobs.stop(project, job.id)
    })
  }

  /** It saves and gives its devices back. */
  async pause(project: string, shown: string): Promise<TuningSeen> {
    return await this.#ask(project, shown, 'paused', async ({ row, job }) => {
      if (row.state !== 'active' || job === undefined || row.status.wish === 'cancelled')
        throw stateConflict(row, 'paused', 'it is not queued or running')
      if (job.state === 'stopped') return
      if (isFinal(job.state)) throw stateConflict(row, 'paused', 'it is over')
      await this.#options.jobs.stop(project, job.id)
    })
  }

  /** It goes on from the checkpoint that it saved. */
  async resume(project: string, shown: string): Promise<TuningSeen> {
    return await this.#ask(project, shown, 'resumed', async ({ row, job }) => {
      const { wish } = row.status
      const isPaused =
        row.state === 'active' && wish !== 'cancelled' && (wish === 'paused' || job?.state === 'stopped')
      if (!isPaused || job === undefined) throw stateConflict(row, 'resumed', 'it is not paused')
      // While it saves it cannot be begun again; the loop does that as soon as it has.
      if (job.state === 'stopped') await this.#options.jobs.resume(project, job.id)
    })
  }

  async #ask(
    project: string,
    shown: string,
    wish: NonNullable<TuningStatus['wish']>,
    act: (seen: TuningSeen) => Promise<void>,
  ): Promise<TuningSeen> {
    const seen = await this.get(project, shown)
    await act(seen)
    await this.nouns.store.transaction(async () => {
      let isNew = false
      const row = await this.nouns.change(seen.row.id, (now) => {
        // A cancel stands, whoever else asked at the same time.
        isNew = now.status.wish !== wish && now.status.wish !== 'cancelled' && now.state !== 'done'
        return isNew ? { status: { ...now.status, wish } } : undefined
      })
      if (isNew && row !== undefined) await this.tell(row, asked[wish])
    })
    this.#options.wake()
    return await this.get(project, shown)
  }

  /** In OpenAI's words, for its events. */
  async tell(
    row: TuningRow,
    message: string,
    level: 'info' | 'warn' | 'error' = 'info',
    data: Record<string, unknown> | null = null,
  ): Promise<void> {
    await recordEvent(this.nouns.store, {
      subject: row.id,
      project: row.project_id,
      kind: data === null ? 'tuning.message' : 'tuning.metrics',
      message,
      details: { level, data },
    })
  }
}

const asked = {
  paused: 'Fine-tuning job is to pause: it saves and stops.',
  resumed: 'Fine-tuning job resumes.',
  cancelled: 'Fine-tuning job is to be cancelled.',
} as const

function methodOf({ method, hyperparameters }: CreateTuning): TuningMethod {
  return (
    method ??
    tuningMethod.parse({
      type: 'supervised',
      supervised: hyperparameters === undefined ? {} : { hyperparameters },
    })
  )
}

/** A number that nobody gave and that does not change: from the id, which is random. */
function seedFrom(id: string): number {
  return createHash('sha256').update(id).digest().readUInt32LE(0) % 2 ** 31
}

function hasAll(
  metadata: Readonly<Record<string, string>> | null,
  wanted: Readonly<Record<string, string>>,
): boolean {
  return Object.entries(wanted).every(([key, value]) => metadata?.[key] === value)
}

function stateConflict(row: TuningRow, verb: string, why: string): Problem {
  return new Problem(400, 'invalid_state', `${shownId(row.id)} cannot be ${verb}: ${why}.`)
}
