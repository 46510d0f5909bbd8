import { existsSync } from 'node:fs'
import type { JobFolders } from '../control/jobs/folders.ts'
import { bestUntil, checkpointFolder } from '../control/jobs/output-checkpoints.ts'
import { type JobRow, jobNouns } from '../control/jobs/rows.ts'
import { isFinal } from '../control/jobs/states.ts'
import { collectCheckpoints } from '../control/models/collect.ts'
import type { ServiceContext } from '../control/service/context.ts'
import { type Loop, startLoop } from '../control/service/loop.ts'
import { checkpointFields } from '../train/checkpoint-fields.ts'
import type { DataParts } from './data-parts.ts'

const everyMs = 5000
const activeMax = 500
/** Jobs that ended are looked at among so many of the newest, and once more when they were seen running. */
const newestMax = 100

/** Makes checkpoints of the project of those that jobs of this machine have written. */
export function startCollecting(
  context: ServiceContext,
  data: DataParts,
  { folders, cluster }: { folders: JobFolders; cluster: string },
): Loop {
  const { store, log } = context
  const nouns = jobNouns(store)
  const collect = collectorOf(context, data, folders)
  let running = new Set<string>()
  /** Jobs that ended and of which everything was brought, as they were then. */
  let settled = new Map<string, number>()
  const pass = async () => {
    const active = await nouns.list({
      where: (is) => is.and([is('state', 'in', ['running', 'stopping'])]),
      limit: activeMax,
    })
    const newest = await nouns.list({ descending: true, limit: newestMax })
    const ended = [...running].filter((id) => !active.rows.some((row) => row.id === id))
    const last = (await Promise.all(ended.map((id) => nouns.get(id)))).filter((row) => row !== undefined)
    const rows = new Map([...active.rows, ...newest.rows, ...last].map((row) => [row.id, row]))
    const known = settled
    settled = new Map()
    for (const row of rows.values()) {
      // What has ended is on no cluster any more: its folder says whether it ran here.
      const isHere = isFinal(row.state) ? existsSync(folders.output(row.id)) : row.cluster === cluster
      if (!isHere || (!isFinal(row.state) && row.status.checkpointStep === 0)) continue
      if (known.get(row.id) !== row.version) await collect(row)
      if (isFinal(row.state)) settled.set(row.id, row.version)
    }
    running = new Set(active.rows.map(({ id }) => id))
  }
  return startLoop({ name: 'collect', everyMs, log, pass })
}

/** Brings what one job has written so far; nothing, where it ran on another machine. */
export function collectorOf(
  { log }: Pick<ServiceContext, 'log'>,
  { blobs, checkpoints, retention }: Pick<DataParts, 'blobs' | 'checkpoints' | 'retention'>,
  folders: JobFolders,
): (job: JobRow) => Promise<void> {
  return async ({ id, name, project_id: project, spec, status }: JobRow) => {
    const numbers = Object.entries(status.metrics).filter(
      (pair): pair is [string, number] => typeof pair[1] === 'number',
    )
    const output = folders.output(id)
    const metrics = Object.fromEntries(numbers)
    const { processes } = spec
    const made = await collectCheckpoints(
      blobs,
      checkpoints,
      { project, job: { id, name }, output, metrics, processes },
      (folder, reason) => log.warn({ job: id, folder, reason }, 'a checkpoint was left out'),
    )
    // Only behind a new one: what somebody restores of a job that ended stays.
    const newest = made.at(-1)
    const known = newest && bestUntil(checkpointFolder(output, newest.step))
    if (known === undefined || spec.kind !== 'train') return
    // A file that another version of Ropeway took may say it otherwise: then all stay.
    const said = checkpointFields.safeParse(spec.file.checkpoint ?? {})
    if (said.success) await retention.keepAsJobSays(project, { id, name }, { keep: said.data.keep, ...known })
  }
}
