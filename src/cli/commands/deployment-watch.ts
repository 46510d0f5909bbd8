/** The verbs that show how a deployment does: events, logs, latencies, usage, and the requests that it logged. */
import { createWriteStream, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { setTimeout as delay } from 'node:timers/promises'
import type { Command } from 'commander'
import type { z } from 'zod'
import { addVersion } from '../../api/control/datasets.ts'
import * as api from '../../api/control/deployments.ts'
import { showUsage } from '../../api/control/usage.ts'
import { UserError } from '../../base/errors.ts'
import { all, type NounFlags, onService, type Session } from '../noun.ts'
import { wholeNumber } from '../options.ts'
import { line, timeText } from '../output.ts'
import { shutdownSignal } from '../shutdown.ts'
import { note } from '../terminal.ts'
import { filesOf, upload } from '../uploading.ts'
import { printUsage } from './usage.ts'

interface LogFlags extends NounFlags {
  replica?: string
  follow?: boolean
  contains?: string
  stream?: 'out' | 'err'
  times?: boolean
}

interface HourFlags extends NounFlags {
  from?: string
  to?: string
  hours?: boolean
  into?: string
}

/** `on` makes a verb whose first argument is a deployment; `paramsOf` finds the one that is meant. */
export interface DeploymentVerbs {
  on(verb: string, description: string): Command
  paramsOf(session: Session, typed: string): Promise<{ project: string; deployment: string }>
}

export function watchVerbs({ on, paramsOf }: DeploymentVerbs): void {
  onService(
    on('events', 'what happened and why').option(
      '--limit <n>',
      'the newest so many',
      wholeNumber(1, 100_000),
      100,
    ),
    async (session, { limit }: NounFlags & { limit: number }, typed: string) =>
      showEvents(session, await paramsOf(session, typed), limit),
  )
  onService(
    on('logs', 'what its replicas print')
      .option('--replica <id>', 'of this one alone, or of those whose ids begin so')
      .option('-f, --follow', 'also what is still to come, of replicas that are still to come too')
      .option('--contains <text>', 'only lines with this text')
      .option('--stream <name>', 'out or err')
      .option('--times', 'with the time and replica of each line'),
    async (session, flags: LogFlags, typed: string) =>
      showLogs(session, await paramsOf(session, typed), flags),
  )
  onService(
    on('metrics', 'latencies over a window, batch, queue and cache').option(
      '--window <s>',
      'seconds to look back',
      wholeNumber(10, 1800),
      300,
    ),
    async (session, { window }: NounFlags & { window: number }, typed: string) =>
      showMetrics(session, await paramsOf(session, typed), window),
  )
  onService(
    hours(on('usage', 'tokens and device-hours, and what they cost')),
    async (session, flags: HourFlags, typed) => {
      const params = await paramsOf(session, typed as string)
      const { name } = await session.client.call(api.showDeployment, { params })
      const query = { model: name, ...given(flags) }
      const used = await session.client.call(showUsage, { params: { project: session.project }, query })
      printUsage(session, {
        ...used,
        devices: used.devices.filter((row) => row.subject === params.deployment),
      })
    },
  )
  onService(
    hours(on('requests', 'print logged requests and answers, one JSON a line')).option(
      '--hours',
      'list the hours of which some are there',
    ),
    async (session, flags: HourFlags, typed: string) =>
      showRequests(session, await paramsOf(session, typed), flags),
  )
  onService(
    hours(on('to-dataset', 'make training data of logged requests: chat JSONL')).option(
      '--into <dataset>',
      'as a version of this dataset, instead of printing it',
    ),
    async (session, flags: HourFlags, typed: string) =>
      toDataset(session, await paramsOf(session, typed), flags, typed),
  )
}

function hours(command: Command): Command {
  return command
    .option('--from <hour>', '2026-11-26T15 (UTC); of usage a day')
    .option('--to <hour>', 'inclusive')
}

const given = ({ from, to }: HourFlags) => ({
  ...(from !== undefined && { from }),
  ...(to !== undefined && { to }),
})

type Params = Awaited<ReturnType<DeploymentVerbs['paramsOf']>>

async function showEvents({ client, out }: Session, params: Params, limit: number): Promise<void> {
  const newest = await all(client.items(api.deploymentEvents, { params }), limit)
  out.list(newest.toReversed(), {
    WHEN: ({ at }) => timeText(at),
    WHAT: ({ kind }) => kind.replace('deployment.', ''),
    MESSAGE: ({ message }) => message,
  })
}

const followEveryMs = 1_000

async function showLogs(session: Session, params: Params, flags: LogFlags): Promise<void> {
  const cursors = new Map<string, string | undefined>()
  const stop = shutdownSignal()
  try {
    do {
      const { replicas } = await session.client.call(api.showDeployment, { params })
      const chosen = replicas.filter(({ id }) => flags.replica === undefined || id.startsWith(flags.replica))
      if (chosen.length === 0 && flags.replica !== undefined && flags.follow !== true)
        throw new UserError(`There is no replica ${flags.replica}.`, {
          failure: 'not_found',
          fix: 'ropeway deployment view lists them.',
        })
      for (const { id } of chosen) await showPages(session, { ...params, replica: id }, cursors, flags)
      if (flags.follow === true) await delay(followEveryMs, undefined, { signal: stop.signal })
    } while (flags.follow === true)
  } catch (error) {
    // Ctrl-C ends what never ends by itself.
    if (!stop.signal.aborted) throw error
  } finally {
    stop.dispose()
  }
}

async function showPages(
  { client, out }: Session,
  params: Params & { replica: string },
  cursors: Map<string, string | undefined>,
  { contains, stream, times }: LogFlags,
): Promise<void> {
  const { replica } = params
  for (;;) {
    const cursor = cursors.get(replica)
    const page = await client.call(api.replicaLogs, {
      params,
      query: { ...(cursor !== undefined && { cursor }) },
    })
    cursors.set(replica, page.cursor)
    for (const one of page.lines) {
      if (stream !== undefined && one.stream !== stream) continue
      if (contains !== undefined && !one.text.includes(contains)) continue
      if (out.isJson) line(JSON.stringify({ replica, ...one }))
      else line(times === true ? `${timeText(one.at)} [${replica}] ${one.stream} ${one.text}` : one.text)
    }
    if (page.lines.length === 0) return
  }
}

type Summary = z.output<typeof api.windowSummary>

async function showMetrics({ client, out }: Session, params: Params, window: number): Promise<void> {
  const report = await client.call(api.deploymentMetrics, { params, query: { window } })
  if (out.isJson) return line(JSON.stringify(report))
  const { deployment, versions, replicas } = report
  const rows = [
    { ...report, id: deployment, gauges: undefined },
    ...versions.map((one) => ({ ...one, id: `version ${one.version}`, gauges: undefined })),
    ...replicas.map((one) => ({ ...one, id: one.replica, gauges: one.gauges ?? undefined })),
  ]
  out.list(rows, {
    OF: ({ id }) => id,
    'FIRST TOKEN ms': ({ firstTokenMs }) => percentiles(firstTokenMs),
    'A TOKEN ms': ({ perTokenMs }) => percentiles(perTokenMs),
    'QUEUE ms': ({ queueMs }) => percentiles(queueMs),
    BATCH: ({ gauges }) => gauges?.running,
    WAITING: ({ gauges }) => gauges?.waiting,
    CACHE: ({ gauges }) => gauges && `${Math.round(gauges.cacheUsed * 100)} %`,
  })
  note(`p50/p90/p99 of the last ${report.windowMs / 1000} s`)
}

function percentiles(summary: Summary | undefined): string | undefined {
  if (summary === undefined) return undefined
  return [summary.p50, summary.p90, summary.p99].map((value) => value.toPrecision(3)).join('/')
}

async function showRequests({ client }: Session, params: Params, flags: HourFlags): Promise<void> {
  if (flags.hours === true)
    for (const hour of (await client.call(api.loggedHours, { params })).hours) line(hour)
  else
    for await (const one of client.events(api.downloadRequests, {
      params,
      query: { ...given(flags), as: 'log' },
    }))
      line(JSON.stringify(one))
}

async function toDataset(session: Session, params: Params, flags: HourFlags, typed: string): Promise<void> {
  const { client, project } = session
  const query = { ...given(flags), as: 'dataset' as const }
  const samples = client.events(api.downloadRequests, { params, query })
  if (flags.into === undefined) {
    for await (const one of samples) line(JSON.stringify(one))
    return
  }
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-requests-'))
  try {
    const span = [flags.from, flags.to].filter((hour) => hour !== undefined).join('-to-')
    const path = join(folder, `${[typed, 'requests', span].filter((part) => part !== '').join('-')}.jsonl`)
    let count = 0
    const texts = async function* () {
      for await (const one of samples) {
        count++
        yield `${JSON.stringify(one)}\n`
      }
    }
    await pipeline(texts, createWriteStream(path))
    if (count === 0)
      throw new UserError(`${typed} has logged no request that a model can learn from.`, {
        failure: 'not_found',
        fix: `Let it log: ropeway deployment update ${typed} --request-log`,
      })
    const files = await upload(client, project, await filesOf([path]))
    const body = { files, message: `${count} requests of ${typed}` }
    const made = await client.call(addVersion, { params: { project, dataset: flags.into }, body })
    session.out.one(made, {
      name: ({ name, version }) => `${name}@${version.number}`,
      samples: () => count,
      files: ({ version }) => version.files,
    })
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
