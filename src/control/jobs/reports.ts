/** What the ranks of an attempt reported since the last look: read from their files, kept with the job. */

import type { Store } from '../store/store.ts'
import { eventsFile } from './contract.ts'
import { type ContractEvent, readEvents } from './contract-events.ts'
import type { Progress } from './decide.ts'
import type { JobRow, JobStatus, JobTables } from './rows.ts'

/** Of one metric so many points are kept: when there are more, every second one goes. */
export const metricPointsMax = 5_000
const metricsShownMax = 50

export interface News {
  status: JobStatus
  points: { name: string; step: number; at: number; value: number | string }[]
  notes: string[]
  checkpoints: number[]
  hasAny: boolean
}

export function readNews(row: JobRow, output: string, nowMs: number): News {
  const news: News = { status: row.status, points: [], notes: [], checkpoints: [], hasAny: false }
  for (let rank = 0; rank < row.spec.processes; rank++) {
    const offset = row.status.read[rank] ?? 0
    const page = readEvents(eventsFile(output, row.attempt, rank), offset)
    if (page.offset === offset) continue
    news.hasAny = true
    // When it came, not when the program says that it wrote: its clock may be any.
    news.status = { ...news.status, lastReportMs: nowMs, read: { ...news.status.read, [rank]: page.offset } }
    for (const event of page.events) take(news, event, rank)
  }
  return news
}

/** Steps and metrics are those of rank 0; the others would say the same. */
function take(news: News, event: ContractEvent, rank: number): void {
  const { status } = news
  if (event.event === 'note') news.notes.push(event.text)
  // The first rank that says why is right: the others follow from it.
  if (event.event === 'failure' && status.failure === undefined)
    news.status = { ...status, failure: { text: event.text, final: event.final } }
  if (event.event === 'checkpoint') {
    news.checkpoints.push(event.step)
    news.status = { ...status, checkpointStep: Math.max(status.checkpointStep, event.step) }
  }
  if (rank !== 0) return
  if (event.event === 'start')
    news.status = { ...status, totalSteps: event.total_steps, stepsDone: event.steps_done }
  if (event.event === 'heartbeat') news.status = { ...status, stepsDone: event.step, stepMs: event.step_ms }
  if (event.event === 'metrics') {
    for (const [name, value] of Object.entries(event.values))
      news.points.push({ name, value, step: event.step, at: event.t })
    const metrics = Object.fromEntries(
      Object.entries({ ...status.metrics, ...event.values }).slice(0, metricsShownMax),
    )
    news.status = { ...status, metrics }
  }
}

export function progressOf(status: JobStatus): Progress {
  const { lastReportMs, stepsDone, totalSteps, checkpointStep, failure } = status
  return { lastEventMs: lastReportMs, stepsDone, totalSteps, checkpointStep, failure }
}

/** A step that was done again after a resume replaces what was there. In the transaction that keeps the offsets. */
export async function keepPoints(store: Store, job: string, points: News['points']): Promise<void> {
  const newest = new Map(points.map((point) => [`${point.name}\0${point.step}`, point]))
  const rows = [...newest.values()].map(({ name, step, at, value }) => ({
    job_id: job,
    name,
    step,
    at,
    value: typeof value === 'number' ? value : null,
    text: typeof value === 'number' ? null : value,
  }))
  const db = store.db<JobTables>()
  // PostgreSQL takes at most 65,535 parameters at once, SQLite 32,766.
  for (let offset = 0; offset < rows.length; offset += 1000) {
    await db
      .insertInto('job_metrics')
      .values(rows.slice(offset, offset + 1000))
      .onConflict((conflict) =>
        conflict.columns(['job_id', 'name', 'step']).doUpdateSet((is) => ({
          at: is.ref('excluded.at'),
          value: is.ref('excluded.value'),
          text: is.ref('excluded.text'),
        })),
      )
      .execute()
  }
  for (const name of new Set(rows.map((row) => row.name))) await thin(store, job, name)
}

async function thin(store: Store, job: string, name: string): Promise<void> {
  const db = store.db<JobTables>()
  const points = await db
    .selectFrom('job_metrics')
    .select('step')
    .where('job_id', '=', job)
    .where('name', '=', name)
    .orderBy('step')
    .limit(metricPointsMax + 1)
    .execute()
  if (points.length <= metricPointsMax) return
  const doomed = points.filter((_, index) => index % 2 === 1).map(({ step }) => step)
  for (let offset = 0; offset < doomed.length; offset += 1000) {
    await db
      .deleteFrom('job_metrics')
      .where('job_id', '=', job)
      .where('name', '=', name)
      .where('step', 'in', doomed.slice(offset, offset + 1000))
      .execute()
  }
}
