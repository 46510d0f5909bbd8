/** Gives devices to waiting jobs: reads everything, plans, and writes the plan, in one transaction. */
import { sql } from 'kysely'
import { goneServers } from '../servers/servers.ts'
import { recordEvent } from '../store/events.ts'
import { takeName } from '../store/leases.ts'
import type { Nouns } from '../store/nouns.ts'
import type { Store } from '../store/store.ts'
import { type JobRow, type JobTables, jobNouns, runIdOf } from './rows.ts'
import { type ActiveJob, type Plan, planJobs, type WaitingJob, type WaitingReason } from './schedule.ts'
import { activeStates } from './states.ts'
import { moveJob, type TransitionListener } from './transition.ts'

/** So many of the first of each project's jobs that want the same are looked at: where these cannot run, none behind them can. */
const queueShownMax = 200
const leaseName = 'job-scheduler'
export const schedulerLeaseMs = 15_000

/**
 * One pass. The lease row is written first, so that two servers that both believe to be the scheduler cannot both
 * commit; a job that somebody changed meanwhile undoes the pass, and the next one sees it. False when another server
 * schedules.
 */
export async function schedule(store: Store, owner: string, onMoved?: TransitionListener): Promise<boolean> {
  const jobs = jobNouns(store)
  return await store.transaction(async () => {
    if (!(await takeName(store, leaseName, { owner, forMs: schedulerLeaseMs }))) return false
    const waiting = await waitingJobs(store)
    if (waiting.length === 0) return true
    const rows = new Map([...waiting, ...(await activeJobs(store))].map((row) => [row.id, row]))
    const plan = await planOf(store, [...rows.values()])
    for (const { job, cluster } of plan.placements) await place(jobs, rows.get(job)!, cluster, onMoved)
    for (const { job, for: by } of plan.preemptions) await preempt(jobs, rows.get(job)!, by)
    for (const [job, reason] of plan.waiting) await tell(jobs, rows.get(job)!, reason)
    return true
  })
}

/** The first that are due of each project, by what they want: those that wait for what is not there hide nobody. */
async function waitingJobs(store: Store): Promise<JobRow[]> {
  const db = store.db<JobTables>()
  const ranked = db
    .selectFrom('jobs')
    .select('id')
    .select(
      sql<number>`row_number() over (partition by project_id, device_type, devices, wanted_cluster order by priority desc, queued_at, id)`.as(
        'turn',
      ),
    )
    .where('state', '=', 'waiting')
    .where('not_before', '<=', store.clock.unixMs())
    .where('deleted_at', 'is', null)
    .as('ranked')
  const rows = await db
    .selectFrom('jobs')
    .innerJoin(ranked, 'ranked.id', 'jobs.id')
    .selectAll('jobs')
    .where('ranked.turn', '<=', queueShownMax)
    .execute()
  return rows as JobRow[]
}

async function activeJobs(store: Store): Promise<JobRow[]> {
  const query = store
    .db<JobTables>()
    .selectFrom('jobs')
    .selectAll()
    .where('state', 'in', [...activeStates])
  return (await query.execute()) as JobRow[]
}

async function planOf(store: Store, rows: readonly JobRow[]): Promise<Plan> {
  const db = store.db<JobTables>()
  const clusters = await db.selectFrom('clusters').selectAll().where('deleted_at', 'is', null).execute()
  const quotas = await db.selectFrom('quotas').selectAll().where('deleted_at', 'is', null).execute()
  const gone = new Set((await goneServers(store)).map(({ cluster }) => cluster))
  const waiting = rows.filter(({ state }) => state === 'waiting')
  const active = rows.filter(({ state }) => state !== 'waiting')
  return planJobs(
    waiting.map(asWaiting),
    active.map(asActive),
    clusters.map(({ name, spec, status }) => ({
      ...{ name, slots: spec.slots, gone: gone.has(name) },
      open: spec.open && status.awaited !== true,
    })),
    quotas.map(({ project_id, name, devices }) => ({ project: project_id, type: name, devices })),
    store.clock.unixMs(),
  )
}

function asWaiting(row: JobRow): WaitingJob {
  return {
    id: row.id,
    project: row.project_id,
    priority: row.priority,
    queuedAt: row.queued_at,
    notBefore: row.not_before,
    demand: { type: row.device_type, devices: row.devices },
    cluster: row.wanted_cluster ?? undefined,
  }
}

function asActive(row: JobRow): ActiveJob {
  return {
    id: row.id,
    project: row.project_id,
    priority: row.priority,
    startedAt: row.since,
    demand: { type: row.device_type, devices: row.devices },
    cluster: row.cluster ?? '',
    stopping: row.state === 'stopping' || row.stop_requested === 1 || row.preempted === 1,
  }
}

/** Somebody changed the job since the plan read it: this pass must not be written. */
export class PlanOutdated extends Error {
  override name = 'PlanOutdated'
}

async function place(
  jobs: Nouns<JobRow>,
  row: JobRow,
  cluster: string,
  onMoved: TransitionListener | undefined,
): Promise<void> {
  const attempt = row.attempt + 1
  const run_id = runIdOf(row.id, attempt)
  const message = `It has ${row.devices} of ${row.device_type} on ${cluster}.`
  const moved = await moveJob(
    jobs,
    row,
    {
      to: 'allocating',
      reason: 'devices_given',
      message,
      row: { cluster, attempt, run_id },
      status: { read: {} },
      details: { cluster, run: run_id },
    },
    onMoved,
  )
  if (moved === undefined) throw new PlanOutdated()
  const { project_id, device_type, devices, spec } = row
  await jobs.store
    .db<JobTables>()
    .insertInto('job_attempts')
    .values({
      run_id,
      job_id: row.id,
      project_id,
      attempt,
      cluster,
      device_type,
      devices,
      processes: spec.processes,
      started_at: moved.since,
      ended_at: null,
    })
    .execute()
}

async function preempt(jobs: Nouns<JobRow>, row: JobRow, by: string): Promise<void> {
  const changed = await jobs.update(row, { preempted: 1, due_at: jobs.store.clock.unixMs() })
  if (changed === undefined) throw new PlanOutdated()
  await recordEvent(jobs.store, {
    subject: row.id,
    project: row.project_id,
    kind: 'job.preempted',
    message: 'A job of higher priority needs its devices.',
    details: { for: by },
  })
}

/** Writes down why a job waits, when that is another reason than before. */
async function tell(jobs: Nouns<JobRow>, row: JobRow, reason: WaitingReason): Promise<void> {
  if (row.status.waitsFor === reason.code || reason.code === 'later') return
  const message = describe(row, reason)
  const changed = await jobs.update(row, { status: { ...row.status, waitsFor: reason.code, message } })
  if (changed === undefined) throw new PlanOutdated()
  await recordEvent(jobs.store, {
    subject: row.id,
    project: row.project_id,
    kind: 'job.waits',
    message,
    details: { ...reason },
  })
}

function describe(row: JobRow, reason: WaitingReason): string {
  const wanted = `${row.devices} of ${row.device_type}`
  const where = row.wanted_cluster === null ? 'No cluster' : `The cluster ${row.wanted_cluster}`
  switch (reason.code) {
    case 'later':
      return row.status.message
    case 'quota':
      return `It needs ${wanted}; its project uses ${reason.used} of the ${reason.allowed} that its quota allows.`
    case 'no_cluster':
      return `${where} that takes jobs has devices of type ${row.device_type}.`
    case 'cluster_gone':
      return `It needs ${wanted}, which ${reason.clusters.join(', ')} has; its server does not answer.`
    case 'too_large':
      return `It needs ${wanted}; the largest cluster has ${reason.largest}.`
    case 'busy':
      return `It needs ${wanted}; ${reason.free} are free${reason.preempting ? ', and others are making room' : ''}.`
    case 'behind':
      return `It needs ${wanted}; another job that came first waits for the same devices.`
  }
}
