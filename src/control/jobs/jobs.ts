/** What people ask of jobs: the same for HTTP, for the command line and for tests. */
import { parsePlacement, parseRunJob } from '../../api/control/job-file.ts'
import { createJob, type JobView } from '../../api/control/jobs.ts'
import { UserError } from '../../base/errors.ts'
import { type EventRow, eventsOf, recordEvent } from '../store/events.ts'
import { type Nouns, startsWith } from '../store/nouns.ts'
import type { Page, PageQuery } from '../store/pages.ts'
import type { Store } from '../store/store.ts'
import { type JobRow, type JobSpec, jobNouns } from './rows.ts'
import { isActive, isFinal, type JobState, type Reason, reasons } from './states.ts'
import { moveJob, type TransitionListener } from './transition.ts'

export interface JobsOptions {
  readonly store: Store
  /** Refuses, by a UserError, what our trainer would refuse. */
  readonly checkTraining?: (file: object) => void
  readonly hasWorkspace?: (project: string, id: string) => Promise<boolean>
  /** Refuses credentials that the project does not have, or that are no use to a job. */
  readonly checkCredentials?: (project: string, names: readonly string[]) => Promise<void>
  /** Refuses what the project may not spend any more. */
  readonly checkBudget?: (project: string) => Promise<void>
  readonly onMoved?: TransitionListener
  /** Something is to be done at once. */
  readonly wake: () => void
}

export interface JobFilter extends PageQuery {
  readonly states?: readonly JobState[] | undefined
  /** The beginning of a name. */
  readonly name?: string | undefined
  readonly device?: string | undefined
  readonly cluster?: string | undefined
  readonly sinceMs?: number | undefined
}

const defaultGraceMs = 30_000
const wholeId = /^job_[0-9a-z]{26}$/
const triesMax = 20
const manyProcesses =
  'ranks: N trains in N processes of one machine; for several machines start it by mpirun or Slurm: docs/training-runs.md.'

export class Jobs {
  readonly #options: JobsOptions
  readonly #nouns: Nouns<JobRow>

  constructor(options: JobsOptions) {
    this.#options = options
    this.#nouns = jobNouns(options.store)
  }

  /** `id` makes a repeated request the same job. */
  async create(project: string, given: unknown, id?: string): Promise<JobRow> {
    const { store } = this.#options
    const { name, spec } = this.#specOf(given)
    await this.#checkWhatItNames(project, spec)
    await this.#options.checkBudget?.(project)
    const nowMs = store.clock.unixMs()
    const row = await store.transaction(async () => {
      const inserted = await this.#nouns.insert({
        ...(id !== undefined && { id }),
        project_id: project,
        name,
        spec,
        status: {
          reason: 'queued',
          message: reasons.queued,
          retriesUsed: 0,
          retryStep: 0,
          stepsDone: 0,
          checkpointStep: 0,
          metrics: {},
          read: {},
        },
        state: 'waiting',
        since: nowMs,
        priority: spec.placement.priority,
        device_type: spec.placement.device,
        devices: spec.placement.devices * spec.processes,
        wanted_cluster: spec.placement.cluster ?? null,
        cluster: null,
        queued_at: nowMs,
        not_before: 0,
        due_at: nowMs,
        attempt: 0,
        run_id: null,
        stop_requested: 0,
        preempted: 0,
      })
      if (inserted === undefined) return undefined
      await recordEvent(store, {
        subject: inserted.id,
        project,
        kind: 'job.waiting',
        message: 'It was created and waits for its turn.',
      })
      return inserted
    })
    const known = row ?? (id === undefined ? undefined : await this.#nouns.get(id))
    if (known === undefined || known.project_id !== project)
      throw new UserError('The job could not be created: its id is taken.', { failure: 'conflict' })
    store.afterCommit(this.#options.wake)
    return known
  }

  /** Refuses what could not become a job. */
  async check(project: string, given: unknown): Promise<void> {
    await this.#checkWhatItNames(project, this.#specOf(given).spec)
  }

  async #checkWhatItNames(project: string, spec: JobSpec): Promise<void> {
    const { credentials = [] } = spec.placement
    if (credentials.length > 0) await this.#options.checkCredentials?.(project, credentials)
    await this.#checkWorkspace(project, spec)
  }

  async #checkWorkspace(project: string, { workspace }: JobSpec): Promise<void> {
    const { hasWorkspace } = this.#options
    if (workspace === undefined || hasWorkspace === undefined || (await hasWorkspace(project, workspace)))
      return
    throw new UserError(`The project has no workspace ${workspace}.`, {
      failure: 'not_found',
      fix: 'Upload it again; ropeway job run does so by itself.',
    })
  }

  #specOf(given: unknown): { name: string; spec: JobSpec } {
    const parsed = createJob.safeParse(given)
    if (!parsed.success) throw refusedField(parsed.error.issues[0]!)
    const { job = {}, ...file } = parsed.data.file
    const placement = parsePlacement(job)
    const workspace = parsed.data.workspace === undefined ? {} : { workspace: parsed.data.workspace }
    const shared = (processes: number, graceMs: number) => ({
      placement,
      processes,
      graceMs,
      ...workspace,
    })
    if ('run' in file) {
      const { name, nodes, processes, grace, run } = parseRunJob(file)
      const spec: JobSpec = { kind: 'run', file: { ...file, run }, ...shared(nodes * processes, grace) }
      return { name: parsed.data.name ?? name, spec }
    }
    for (const field of ['nodes', 'processes'])
      if (field in file)
        throw new UserError(
          `The field ${field} is for jobs that run a command; our trainer's own is ranks.`,
          {
            failure: 'usage',
            fix: manyProcesses,
          },
        )
    this.#options.checkTraining?.(file)
    const name = typeof file.name === 'string' ? file.name : 'model'
    return { name: parsed.data.name ?? name, spec: { kind: 'train', file, ...shared(1, defaultGraceMs) } }
  }

  /** By name, id, or an unmistakable beginning of either. */
  async find(project: string, typed: string): Promise<JobRow> {
    // Whoever watches asks by id, again and again; a search by name looks at every job of the project.
    const whole = wholeId.test(typed) ? await this.#nouns.get(typed) : undefined
    if (whole !== undefined && whole.project_id === project && whole.deleted_at === null) return whole
    const found = await this.#nouns.find(project, typed, 2)
    if (found.length === 1) return found[0]!
    if (found.length > 1)
      throw new UserError(`More than one job begins with ${typed}.`, {
        failure: 'usage',
        fix: `Write more of it: ${found.map(({ name, id }) => `${name} (${id})`).join(', ')}.`,
      })
    throw new UserError(`There is no job ${typed} in this project.`, {
      failure: 'not_found',
      fix: 'List them with: ropeway job list',
    })
  }

  async list(project: string, filter: JobFilter): Promise<Page<JobRow>> {
    const { states, name, device, cluster, sinceMs, ...page } = filter
    const isFiltered = [states, name, device, cluster, sinceMs].some((given) => given !== undefined)
    if (!isFiltered) return await this.#nouns.list({ project, ...page })
    return await this.#nouns.list({
      project,
      where: (is) =>
        is.and([
          ...(states === undefined ? [] : [is('state', 'in', [...states])]),
          ...(name === undefined ? [] : [startsWith(is, 'name', name)]),
          ...(device === undefined ? [] : [is('device_type', '=', device)]),
          ...(cluster === undefined
            ? []
            : [is.or([is('cluster', '=', cluster), is('wanted_cluster', '=', cluster)])]),
          ...(sinceMs === undefined ? [] : [is('created_at', '>=', sinceMs)]),
        ]),
      ...page,
    })
  }

  /** Asks every rank to save and to end; a job that waits is stopped at once. */
  async stop(project: string, typed: string): Promise<JobRow> {
    const { id } = await this.find(project, typed)
    return await this.#change(id, async (row) => {
      if (row.state === 'waiting')
        return await this.#move(row, 'stopped', 'stopped', 'It was stopped before its turn came.')
      if (isFinal(row.state)) throw conflict(row, 'there is nothing to stop')
      if (row.stop_requested === 1) return row
      const changed = await this.#nouns.update(row, {
        stop_requested: 1,
        due_at: this.#options.store.clock.unixMs(),
      })
      if (changed !== undefined) await this.#tell(changed, 'job.stop_requested', 'Somebody asked to stop it.')
      return changed
    })
  }

  /** Asks a running job for a checkpoint; it goes on. */
  async save(project: string, typed: string): Promise<JobRow> {
    const { id } = await this.find(project, typed)
    return await this.#change(id, async (row) => {
      if (row.state !== 'running') throw conflict(row, 'only a running job can save')
      if (row.status.saveAskedMs !== undefined) return row
      const nowMs = this.#options.store.clock.unixMs()
      const status = { ...row.status, saveAskedMs: nowMs, saveAttempt: row.attempt }
      const changed = await this.#nouns.update(row, { status, due_at: nowMs })
      if (changed !== undefined) await this.#tell(changed, 'job.save_requested', 'Somebody asked it to save.')
      return changed
    })
  }

  /** A stopped job goes on from its newest checkpoint. */
  resume(project: string, typed: string): Promise<JobRow> {
    return this.#again(project, typed, ['stopped'], 'Only a stopped job can be resumed')
  }

  /** A failed or stopped job gets its retries anew. */
  retry(project: string, typed: string): Promise<JobRow> {
    return this.#again(project, typed, ['failed', 'stopped'], 'Only a failed or stopped job can be retried')
  }

  async #again(project: string, typed: string, from: readonly JobState[], rule: string): Promise<JobRow> {
    const { id } = await this.find(project, typed)
    await this.#options.checkBudget?.(project)
    return await this.#change(id, async (row) => {
      if (!from.includes(row.state)) throw conflict(row, rule)
      const nowMs = this.#options.store.clock.unixMs()
      return await this.#move(row, 'waiting', 'queued', 'It waits for its turn again.', {
        queued_at: nowMs,
        not_before: 0,
      })
    })
  }

  /** Its record goes at once; what it left on disk goes when nobody can need it any more. */
  async delete(project: string, typed: string): Promise<JobRow> {
    const { id } = await this.find(project, typed)
    return await this.#change(id, async (row) => {
      if (!isFinal(row.state)) throw conflict(row, 'stop it first')
      return await this.#nouns.update(row, { deleted_at: this.#options.store.clock.unixMs() })
    })
  }

  async events(row: JobRow, page: PageQuery): Promise<Page<EventRow>> {
    return await eventsOf(this.#options.store, row.id, page)
  }

  async #move(row: JobRow, to: JobState, reason: Reason, message: string, changes = {}) {
    const status = to === 'waiting' ? { retriesUsed: 0, retryStep: row.status.checkpointStep } : {}
    return await moveJob(
      this.#nouns,
      row,
      { to, reason, message, row: changes, status },
      this.#options.onMoved,
    )
  }

  /** Tries again while loops write the row in between. */
  async #change(id: string, change: (row: JobRow) => Promise<JobRow | undefined>): Promise<JobRow> {
    const { store } = this.#options
    for (let tries = 0; tries < triesMax; tries++) {
      const changed = await store.transaction(async () => {
        const row = await this.#nouns.get(id)
        return row === undefined ? undefined : await change(row)
      })
      if (changed === undefined) continue
      store.afterCommit(this.#options.wake)
      return changed
    }
    throw new UserError('The job changes too fast to be changed; try again.', { failure: 'conflict' })
  }

  async #tell(row: JobRow, kind: string, message: string): Promise<void> {
    await recordEvent(this.#options.store, { subject: row.id, project: row.project_id, kind, message })
  }
}

function conflict(row: JobRow, why: string): UserError {
  return new UserError(`The job ${row.name} is ${row.state}: ${why}.`, { failure: 'conflict' })
}

function refusedField(issue: { path: PropertyKey[]; message: string }): UserError {
  const field = issue.path.join('.')
  return new UserError(`The field ${field || 'file'} is not right: ${issue.message}.`, { failure: 'usage' })
}

export function viewOfJob(row: JobRow): JobView {
  const { spec, status } = row
  return {
    id: row.id,
    name: row.name,
    project: row.project_id,
    kind: spec.kind,
    state: row.state,
    reason: status.reason,
    message: status.message,
    created_at: row.created_at,
    since: row.since,
    started_at: status.startedMs ?? null,
    ended_at: isFinal(row.state) ? (status.endedMs ?? null) : null,
    priority: row.priority,
    cluster: isActive(row.state) ? row.cluster : null,
    device: row.device_type,
    devices: row.devices,
    processes: spec.processes,
    attempt: row.attempt,
    retries_used: status.retriesUsed,
    steps_done: status.stepsDone,
    total_steps: status.totalSteps ?? null,
    step_ms: status.stepMs ?? null,
    last_report_at: status.lastReportMs ?? null,
    checkpoint_step: status.checkpointStep,
    saving: status.saveAskedMs !== undefined,
    metrics: { ...status.metrics },
    version: row.version,
    file: { ...spec.file },
    placement: { ...spec.placement },
    workspace: spec.workspace ?? null,
  }
}
