import { createReadStream, statSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import * as api from '../../api/control/job-endpoints.ts'
import type { LogLineView } from '../../api/control/jobs.ts'
import { Refused } from '../../api/control/problem.ts'
import { rangeOf } from '../blobs/content.ts'
import { cutRange } from '../objects/store.ts'
import { OnAnotherServer } from '../servers/elsewhere.ts'
import { pageAnswer, pageAsked } from '../service/pages.ts'
import type { RouteModule, Serve } from '../service/routes.ts'
import type { EventRow } from '../store/events.ts'
import type { Store } from '../store/store.ts'
import type { JobFolders } from './folders.ts'
import { type Jobs, viewOfJob } from './jobs.ts'
import { attemptsOf, type LogFilter, readJobLog } from './logs.ts'
import { listMetrics, readMetric } from './metric-list.ts'
import type { ServedCluster } from './reconcile.ts'
import type { JobRow } from './rows.ts'
import { isFinal } from './states.ts'

export interface JobRouteOptions {
  readonly jobs: Jobs
  readonly clusters: ReadonlyMap<string, ServedCluster>
  readonly folders: JobFolders
}

/** Between two looks for whoever follows. */
const followEveryMs = 300
/** Whoever watches hears at least so often, so that a connection that broke is noticed. */
const aliveEveryMs = 10_000
const artifactsMax = 2_000

export function jobRoutes(options: JobRouteOptions): RouteModule {
  return (serve, { store }) => {
    recordRoutes(serve, options)
    verbRoutes(serve, options)
    outcomeRoutes(serve, store, options)
    followRoutes(serve, store, options)
  }
}

function recordRoutes(serve: Serve, { jobs }: JobRouteOptions): void {
  serve(api.listJobs, async ({ project, query }) => {
    const { state: states, since: sinceMs, name, device, cluster } = query
    const filter = { ...pageAsked(query), descending: true, states, name, device, cluster, sinceMs }
    return pageAnswer(await jobs.list(project.id, filter), viewOfJob)
  })
  serve(api.createJobEndpoint, async ({ project, body, audit }) => {
    const row = await jobs.create(project.id, body)
    await audit('job.create', row.id, { name: row.name })
    return viewOfJob(row)
  })
  serve(api.viewJob, async ({ project, params }) => viewOfJob(await jobs.find(project.id, params.job)))
  serve(api.listJobEvents, async ({ project, params, query }) => {
    const row = await jobs.find(project.id, params.job)
    return pageAnswer(await jobs.events(row, pageAsked(query)), viewOfEvent)
  })
}

function viewOfEvent({ id, at, kind, message, details }: EventRow) {
  return { id, at, kind, message, details: { ...details } }
}

function verbRoutes(serve: Serve, { jobs }: JobRouteOptions): void {
  serve(api.stopJob, async ({ project, params, audit }) => {
    const row = await jobs.stop(project.id, params.job)
    await audit('job.stop', row.id)
    return viewOfJob(row)
  })
  serve(api.saveJob, async ({ project, params, audit }) => {
    const row = await jobs.save(project.id, params.job)
    await audit('job.save', row.id)
    return viewOfJob(row)
  })
  serve(api.resumeJob, async ({ project, params, audit }) => {
    const row = await jobs.resume(project.id, params.job)
    await audit('job.resume', row.id)
    return viewOfJob(row)
  })
  serve(api.retryJob, async ({ project, params, audit }) => {
    const row = await jobs.retry(project.id, params.job)
    await audit('job.retry', row.id)
    return viewOfJob(row)
  })
  serve(api.deleteJob, async ({ project, params, audit }) => {
    const row = await jobs.delete(project.id, params.job)
    await audit('job.delete', row.id)
  })
}

function outcomeRoutes(serve: Serve, store: Store, { jobs, clusters, folders }: JobRouteOptions): void {
  serve(api.listJobMetrics, async ({ project, params }) => {
    const { id } = await jobs.find(project.id, params.job)
    return { items: await listMetrics(store, id) }
  })
  serve(api.readJobMetric, async ({ project, params, query }) => {
    const { id } = await jobs.find(project.id, params.job)
    return { items: await readMetric(store, id, query.name, query.after, query.limit) }
  })
  serve(api.listJobArtifacts, async ({ project, params }) => {
    const { id } = await withFilesHere(store, clusters, await jobs.find(project.id, params.job))
    return { items: folders.artifacts(id, artifactsMax) }
  })
  serve(api.readJobArtifact, async ({ project, params, query, headers: asked }) => {
    const { id } = await withFilesHere(store, clusters, await jobs.find(project.id, params.job))
    const path = folders.artifact(id, query.path)
    if (path === undefined || !statSync(path).isFile())
      throw new Refused('not_found', `The job has no file ${query.path} in its output.`)
    const bytes = statSync(path).size
    const range = rangeOf(asked.range, bytes)
    const { start, end } = cutRange(range, bytes)
    const headers = {
      'content-type': 'application/octet-stream',
      'content-length': String(end - start),
      'accept-ranges': 'bytes',
      ...(range !== undefined && { 'content-range': `bytes ${start}-${end - 1}/${bytes}` }),
    }
    const stream = createReadStream(path, range === undefined ? {} : { start, end: end - 1 })
    return { stream, headers, ...(range !== undefined && { status: 206 as const }) }
  })
}

function followRoutes(serve: Serve, store: Store, { jobs, clusters }: JobRouteOptions): void {
  serve(api.watchJob, async ({ project, params, gone }) => {
    const { id } = await jobs.find(project.id, params.job)
    return watch(jobs, project.id, id, gone)
  })
  serve(api.readJobLog, async ({ project, params, query, gone }) => {
    const { id } = await withFilesHere(
      store,
      clusters,
      await jobs.find(project.id, params.job),
      query.attempt,
    )
    const { head, follow, since, ...rest } = query
    const filter = { ...defined(rest), ...(since !== undefined && { sinceMs: since }) }
    const options = { head: head ?? Number.POSITIVE_INFINITY, follows: follow === 'true' }
    return lines(jobs, store, clusters, { project: project.id, id }, filter, options, gone)
  })
}

/** Logs and files of an attempt are on its machine; the newest attempt's, if no other is meant. */
async function withFilesHere(
  store: Store,
  clusters: ReadonlyMap<string, ServedCluster>,
  row: JobRow,
  attempt = row.attempt,
): Promise<JobRow> {
  const meant = (await attemptsOf(store, row.id)).find((one) => one.attempt === attempt)
  if (meant !== undefined && !clusters.has(meant.cluster)) throw new OnAnotherServer(meant.cluster)
  return row
}

function defined(values: Record<string, unknown>): LogFilter {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined))
}

/** The job whenever it has changed, and now and then though it has not; ends when it is at rest. */
async function* watch(jobs: Jobs, project: string, id: string, gone: AbortSignal): AsyncGenerator<object> {
  let version = -1
  let lastMs = Number.NEGATIVE_INFINITY
  while (!gone.aborted) {
    const row = await jobs.find(project, id)
    const nowMs = performance.now()
    if (row.version !== version || nowMs - lastMs > aliveEveryMs) {
      yield viewOfJob(row)
      version = row.version
      lastMs = nowMs
    }
    if (isFinal(row.state)) return
    await delay(followEveryMs)
  }
}

function movedLine({ attempt, cluster, since }: JobRow): LogLineView {
  const text = `[attempt ${attempt} is on ${cluster}; ask for the log again to follow it there]`
  return { at: since, attempt, rank: 0, stream: 'err', text }
}

async function* lines(
  jobs: Jobs,
  store: Store,
  clusters: ReadonlyMap<string, ServedCluster>,
  job: { project: string; id: string },
  filter: LogFilter,
  { head, follows }: { head: number; follows: boolean },
  gone: AbortSignal,
): AsyncGenerator<object> {
  let left = head
  let cursor: string | undefined
  while (!gone.aborted) {
    const row = await jobs.find(job.project, job.id)
    const page = await readJobLog(store, clusters, row, filter, cursor)
    for (const line of page.lines) {
      if (left-- <= 0) return
      yield line
    }
    const isStill = page.cursor === cursor
    cursor = page.cursor
    if (page.complete && isStill && (isFinal(row.state) || !follows || filter.attempt !== undefined)) return
    if (!isStill) continue
    if (!follows) return
    // A later attempt has a log of its own, where it runs.
    if (page.complete && filter.attempt === undefined && !cursor.startsWith(`${row.attempt}/`)) {
      if (row.cluster !== null && !clusters.has(row.cluster)) {
        yield movedLine(row)
        return
      }
      cursor = `${row.attempt}/`
    }
    await delay(followEveryMs)
  }
}
