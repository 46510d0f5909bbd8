/** A job's log: of all its attempts, merged over ranks, with filters; read on while it grows. */
import type { LogLineView } from '../../api/control/jobs.ts'
import type { Store } from '../store/store.ts'
import type { ServedCluster } from './reconcile.ts'
import type { AttemptRow, JobRow, JobTables } from './rows.ts'
import { isActive } from './states.ts'

export interface LogFilter {
  /** The newest without it. */
  readonly attempt?: number
  readonly rank?: number
  /** Only lines that hold this text. */
  readonly contains?: string
  readonly sinceMs?: number
  readonly stream?: 'out' | 'err'
}

export interface JobLogPage {
  lines: LogLineView[]
  cursor: string
  /** Nothing will come behind this page: the job is at rest, or the attempt is over. */
  complete: boolean
}

const pageBytes = 256 << 10

export async function attemptsOf(store: Store, job: string): Promise<AttemptRow[]> {
  return await store
    .db<JobTables>()
    .selectFrom('job_attempts')
    .selectAll()
    .where('job_id', '=', job)
    .orderBy('attempt')
    .execute()
}

/**
 * One page behind `cursor` (from the oldest line that is kept without it). Lines of a page are in the order of their
 * times; a rank that is behind may bring older ones with the next page.
 */
export async function readJobLog(
  store: Store,
  clusters: ReadonlyMap<string, ServedCluster>,
  row: JobRow,
  filter: LogFilter,
  cursor: string | undefined,
): Promise<JobLogPage> {
  const position = parseCursor(cursor)
  const attempts = await attemptsOf(store, row.id)
  const wanted = filter.attempt ?? position.attempt ?? attempts.at(-1)?.attempt
  const attempt = attempts.find((one) => one.attempt === wanted)
  const isAtRest = !isActive(row.state)
  if (attempt === undefined)
    return { lines: [], cursor: cursor ?? '', complete: isAtRest && row.state !== 'waiting' }
  const launcher = clusters.get(attempt.cluster)?.launcher
  if (launcher === undefined) return { lines: [], cursor: cursor ?? '', complete: true }
  const ranks = filter.rank === undefined ? range(attempt.processes) : [filter.rank]
  const lines: LogLineView[] = []
  const cursors: Record<string, string> = wanted === position.attempt ? { ...position.ranks } : {}
  let complete = attempt.ended_at !== null
  for (const rank of ranks) {
    const from = cursors[rank]
    const page = await launcher.logs(attempt.run_id, {
      member: rank,
      bytesMax: Math.ceil(pageBytes / ranks.length),
      ...(from !== undefined && { cursor: from }),
    })
    cursors[rank] = page.cursor
    complete &&= page.complete
    if (page.skipped)
      lines.push({
        at: page.lines[0]?.atMs ?? 0,
        attempt: wanted!,
        rank,
        stream: 'err',
        text: '[older lines were not kept]',
      })
    for (const { atMs, stream, text } of page.lines)
      if (passes(filter, atMs, stream, text)) lines.push({ at: atMs, attempt: wanted!, rank, stream, text })
  }
  lines.sort((a, b) => a.at - b.at)
  return { lines, cursor: writeCursor(wanted!, cursors), complete }
}

function passes({ contains, sinceMs, stream }: LogFilter, atMs: number, from: string, text: string): boolean {
  if (sinceMs !== undefined && atMs < sinceMs) return false
  if (stream !== undefined && stream !== from) return false
  return contains === undefined || text.includes(contains)
}

function range(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index)
}

/** `<attempt>/<rank>=<launcher's cursor>,...` */
function writeCursor(attempt: number, ranks: Readonly<Record<string, string>>): string {
  const parts = Object.entries(ranks).map(([rank, at]) => `${rank}=${at}`)
  return `${attempt}/${parts.join(',')}`
}

function parseCursor(cursor: string | undefined): { attempt?: number; ranks: Record<string, string> } {
  const match = /^(\d{1,9})\/(.*)$/.exec(cursor ?? '')
  if (match === null) return { ranks: {} }
  const parts = match[2]!.split(',').flatMap((part) => {
    const own = /^(\d{1,5})=([\w:.-]{1,100})$/.exec(part)
    return own === null ? [] : [[own[1]!, own[2]!] as const]
  })
  return { attempt: Number(match[1]), ranks: Object.fromEntries(parts) }
}
