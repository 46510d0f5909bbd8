/** The verbs that show what a job left: what it printed, and its files. */
import { createWriteStream } from 'node:fs'
import { pipeline } from 'node:stream/promises'
import { type Command, InvalidArgumentError } from 'commander'
import * as api from '../../api/control/job-endpoints.ts'
import type { LogLineView } from '../../api/control/jobs.ts'
import { messageOf, UserError } from '../../base/errors.ts'
import { download } from '../downloading.ts'
import { onJob, viewOf } from '../job-verb.ts'
import type { NounFlags, Session } from '../noun.ts'
import { agoMs, milliseconds, wholeNumber } from '../options.ts'
import { line, timeText } from '../output.ts'
import { bytes, note } from '../terminal.ts'

interface LogFlags extends NounFlags {
  follow?: boolean
  rank?: number
  attempt?: number
  head?: number
  since?: number
  contains?: string
  stream?: 'out' | 'err'
  times?: boolean
  output?: string
}

export function logsVerb(noun: Command): void {
  onJob(noun, 'logs', 'what the ranks of a job printed', runLogs, (command) =>
    command
      .option('-f, --follow', 'also what is still to come')
      .option('--rank <n>', 'of this rank alone', wholeNumber(0))
      .option('--attempt <n>', 'of this attempt instead of the newest', wholeNumber(1))
      .option('--head <n>', 'the first lines alone', wholeNumber(1))
      .option('--since <time>', 'of the last 30s, 10m, 2h ...', milliseconds)
      .option('--contains <text>', 'only lines with this text')
      .option('--stream <name>', 'out or err', outOrErr)
      .option('--times', 'with the time and rank of each line')
      .option('-o, --output <file>', 'into this file, which must not exist, instead of stdout'),
  )
}

export function fileVerbs(noun: Command): void {
  onJob(noun, 'artifacts', 'files in its output folder', runArtifacts)
  onJob(noun, 'download', 'fetch files of its output folder', runDownload, (command) =>
    command
      .argument('[path...]', 'these, or all below these; everything without them')
      .option('--into <folder>', 'where to', '.'),
  )
}

function outOrErr(text: string): 'out' | 'err' {
  if (text === 'out' || text === 'err') return text
  throw new InvalidArgumentError('It takes out or err.')
}

async function runLogs(session: Session, flags: LogFlags, typed: string): Promise<void> {
  const { rank, attempt, head, contains, stream, since, follow, output } = flags
  const query = {
    ...(rank !== undefined && { rank }),
    ...(attempt !== undefined && { attempt }),
    ...(head !== undefined && { head }),
    ...(contains !== undefined && { contains }),
    ...(stream !== undefined && { stream }),
    ...(since !== undefined && { since: agoMs(since) }),
    ...(follow === true && { follow: 'true' as const }),
  }
  const params = { project: session.project, job: typed }
  const textOf = (event: LogLineView) => {
    if (session.out.isJson) return JSON.stringify(event)
    const text = printable(event.text)
    return flags.times === true ? `${timeText(event.at)} [${event.rank}] ${event.stream} ${text}` : text
  }
  const events = session.client.events(api.readJobLog, { params, query })
  if (output === undefined) for await (const event of events) line(textOf(event as LogLineView))
  else await writeLines(output, events as AsyncIterable<LogLineView>, textOf)
}

async function writeLines<Item>(
  path: string,
  items: AsyncIterable<Item>,
  textOf: (item: Item) => string,
): Promise<void> {
  let lines = 0
  const texts = async function* () {
    for await (const item of items) {
      lines++
      yield `${textOf(item)}\n`
    }
  }
  try {
    await pipeline(texts, createWriteStream(path, { flags: 'wx' }))
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === undefined || !['EEXIST', 'ENOENT', 'EACCES', 'ENOSPC', 'EISDIR'].includes(code)) throw error
    throw new UserError(`${path} cannot be written: ${messageOf(error)}`, {
      failure: code === 'EEXIST' ? 'conflict' : 'failed',
      fix: 'Name a file that does not exist, in a folder that does.',
    })
  }
  note(`${lines} lines are in ${path}.`)
}

/** Colours of programs may pass; what moves the cursor or rings may not. */
function printable(text: string): string {
  const colours = String.raw`\u001b\[[\d;]*m`
  return text.replace(
    new RegExp(`(${colours})|[\\p{Cc}&&[^\\t]]`, 'gv'),
    (_, colour?: string) => colour ?? '',
  )
}

async function runArtifacts(session: Session, _: NounFlags, typed: string): Promise<void> {
  const params = { project: session.project, job: typed }
  const { items } = await session.client.call(api.listJobArtifacts, { params })
  session.out.list(
    items.map((item) => ({ ...item, id: item.path })),
    {
      PATH: ({ path }) => path,
      SIZE: (item) => bytes(item.bytes),
      CHANGED: (item) => timeText(item.modified_at),
    },
  )
}

async function runDownload(
  session: Session,
  { into }: NounFlags & { into: string },
  typed: string,
  paths: readonly string[],
): Promise<void> {
  const { id, name } = await viewOf(session, typed)
  const params = { project: session.project, job: id }
  const { items } = await session.client.call(api.listJobArtifacts, { params })
  const isWanted = (path: string) =>
    paths.length === 0 || paths.some((one) => path === one || path.startsWith(`${one.replace(/\/+$/, '')}/`))
  const files = items.filter(({ path }) => isWanted(path)).map((item) => ({ ...item, digest: '' }))
  if (files.length === 0)
    throw new UserError(`${name} has no such file in its output.`, {
      failure: 'not_found',
      fix: `ropeway job artifacts ${name} lists them.`,
    })
  const fetchFrom = (path: string, start: number) =>
    session.client.bytes(api.readJobArtifact, {
      params,
      query: { path },
      headers: { range: `bytes=${start}-` },
    })
  await download(files, into, fetchFrom, false)
  note(`${files.length} files of ${name} are in ${into}.`)
}
