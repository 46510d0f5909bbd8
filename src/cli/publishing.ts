/** Adapters in training on this machine that are for a deployment of the service: taken from where the trainer puts them. */
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { messageOf, UserError } from '../base/errors.ts'
import { bringFile } from '../control/blobs/bring.ts'
import { lastStepOf, type Publications } from '../control/deployments/publications.ts'
import type { AdapterLoads } from '../control/gateway/late-models.ts'
import type { ReplicaTable } from '../control/gateway/replicas.ts'
import { type JobRow, jobNouns } from '../control/jobs/rows.ts'
import { lineageOf } from '../control/models/lineage.ts'
import { referencesIn } from '../control/models/provide.ts'
import type { ServiceContext } from '../control/service/context.ts'
import { type Loop, startLoop } from '../control/service/loop.ts'
import { recordEvent } from '../control/store/events.ts'
import type { DataParts } from './data-parts.ts'
import type { JobRoom } from './job-room.ts'

const everyMs = 500
const activeMax = 500
/** A job that has ended has published last shortly before. */
const endedMs = 60_000
const preloadMsMax = 60_000

const wanted = z.object({ deployment: z.string(), to: z.undefined().optional() })

export interface PublishingParts {
  readonly context: ServiceContext
  readonly data: Pick<DataParts, 'blobs' | 'checkpoints'>
  readonly room: Pick<JobRoom, 'folders'>
  readonly publications: Publications
  readonly table: ReplicaTable
  readonly loads: AdapterLoads
}

export function startPublishing(parts: PublishingParts): Loop {
  const { store, log } = parts.context
  const nouns = jobNouns(store)
  const refused = new Map<string, string>()
  const pass = async () => {
    const endedAfter = store.clock.unixMs() - endedMs
    const { rows } = await nouns.list({
      where: (is) =>
        is.or([
          is('state', 'in', ['running', 'stopping']),
          is.and([is('state', 'in', ['success', 'stopped']), is('since', '>', endedAfter)]),
        ]),
      limit: activeMax,
      descending: true,
    })
    for (const row of rows) {
      const target = wanted.safeParse(row.spec.file.publish).data
      if (target === undefined) continue
      try {
        await take(parts, row, target.deployment)
        refused.delete(row.id)
      } catch (error) {
        if (!(error instanceof UserError)) throw error
        // Training goes on, and is told once.
        const why = messageOf(error)
        if (refused.get(row.id) === why) continue
        refused.set(row.id, why)
        const message = `${target.deployment}:latest was not published: ${why}`
        await recordEvent(store, { subject: row.id, project: row.project_id, kind: 'job.note', message })
      }
    }
  }
  return startLoop({ name: 'publishing', everyMs, log, pass })
}

/** The newest that lies there, unless it was taken before. */
async function take(parts: PublishingParts, row: JobRow, deployment: string): Promise<void> {
  const { publications, room } = parts
  const folder = join(room.folders.output(row.id), 'published')
  const step = newestIn(folder)
  if (step === undefined) return
  const before = await publications.of(row.project_id, deployment)
  // Of several jobs each has its own: by the newest alone, two that ended within a minute would take turns.
  const last = before && lastStepOf(before, row.id)
  if (last !== undefined && last >= step) return
  const base = await baseOf(parts, row)
  await publications.accepting(row.project_id, deployment, base)
  const checkpoint = await bring(parts, row, `${deployment}-latest`, folder, step)
  await preload(parts, deployment, checkpoint)
  await publications.publish(row.project_id, deployment, { checkpoint, job: row.id, step, base })
}

/** The checkpoint of the project that the job's adapter is for; undefined when it came from elsewhere, or is gone. */
async function baseOf({ context }: PublishingParts, row: JobRow): Promise<string | undefined> {
  const { model } = row.spec.file
  if (!referencesIn({ model }).some((name) => /^(checkpoint|model):/.test(name))) return undefined
  // What the first attempt was given, whatever the name means by now.
  const edges = await lineageOf(context.store, row.project_id, row.id)
  return edges.find((edge) => edge.to.id === row.id && edge.from.id.startsWith('checkpoint_'))?.from.id
}

function newestIn(folder: string): number | undefined {
  if (!existsSync(folder)) return undefined
  const steps = readdirSync(folder).flatMap((name) => /^step-(\d+)$/.exec(name)?.[1] ?? [])
  return steps.length === 0 ? undefined : Math.max(...steps.map(Number))
}

async function bring(
  { data: { blobs, checkpoints } }: PublishingParts,
  { id, project_id: project }: JobRow,
  name: string,
  folder: string,
  step: number,
): Promise<string> {
  const own = join(folder, readdirSync(folder).find((one) => Number(/^step-(\d+)$/.exec(one)?.[1]) === step)!)
  const files = []
  for (const path of readdirSync(own))
    files.push({ path, blob: (await bringFile(blobs, project, join(own, path))).id })
  const layout = { data: 1, tensor: 1, pipeline: 1, expert: 1 }
  const given = { name: `${name}-${id.slice(-8)}-${step}`, step, files, layout }
  return (await checkpoints.add(project, { ...given, description: `Published by ${id}.` })).id
}

/** Before new requests get it, so that none of them waits for it. A replica that cannot now loads it when it is asked. */
async function preload({ table, loads, context }: PublishingParts, deployment: string, adapter: string) {
  const found = table.current.deployments.find(({ name }) => name === deployment)
  const replicas = found?.versions.filter(({ share }) => share > 0).flatMap(({ replicas }) => replicas) ?? []
  const signal = AbortSignal.timeout(preloadMsMax)
  const ready = replicas.filter(({ state }) => state === 'ready')
  const loaded = await Promise.allSettled(ready.map((replica) => loads.load(replica, adapter, signal)))
  for (const one of loaded)
    if (one.status === 'rejected')
      context.log.warn({ err: one.reason, adapter }, 'an adapter was not preloaded')
}
