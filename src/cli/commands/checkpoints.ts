import type { Command } from 'commander'
import type { z } from 'zod'
import * as api from '../../api/control/models.ts'
import { UserError } from '../../base/errors.ts'
import { type Deletable, deleteVerbs } from '../deletable.ts'
import { download } from '../downloading.ts'
import { all, completeWith, type NounFlags, onService, type Session } from '../noun.ts'
import { wholeNumber } from '../options.ts'
import { timeText } from '../output.ts'
import { bytes, note } from '../terminal.ts'
import { filesOf, upload } from '../uploading.ts'
import { type LinkFlags, linkOf, linkOptions } from './datasets.ts'

type Checkpoint = z.output<typeof api.checkpointItem>

interface NewFlags extends NounFlags {
  step: number
  description: string
  layout?: string
}

export function checkpointCommand(program: Command): void {
  const noun = program
    .command('checkpoint')
    .description('files of a model at some step: from jobs, uploads, buckets')
  const named = (verb: string, description: string) =>
    completeWith(
      noun.command(verb).description(description).argument('<name>', 'its name, or JOB@STEP'),
      names,
    )
  onService(
    noun
      .command('list', { isDefault: true })
      .description('list them, newest first')
      .option('--job <name>', 'of this job')
      .option('--deleted', 'those that were deleted and can be restored'),
    runList,
  )
  onService(named('view', 'show one'), runView)
  onService(
    newOptions(noun.command('upload').description('make one of files'))
      .argument('<name>')
      .argument('<file...>', 'files, or a folder with all that lies in it'),
    runUpload,
  )
  onService(
    newOptions(linkOptions(noun.command('link').description('make one of what lies in a bucket or folder')))
      .argument('<name>')
      .argument(
        '<url>',
        's3://, gs:// or az://BUCKET/PREFIX, hf://ORG/NAME@REVISION, or file:///FOLDER of the machine of the service',
      ),
    runLink,
  )
  onService(named('files', 'its manifest: files and their digests'), runFiles)
  onService(named('download', 'fetch its files').argument('[folder]', 'into this folder', '.'), runDownload)
  onService(named('lineage', 'what it was made of, and what was made of it'), runLineage)
  deleteVerbs(noun, named, deletableCheckpoint)
}

function newOptions(command: Command): Command {
  return command
    .option('--step <n>', 'the step of its training', wholeNumber(0), 0)
    .option('--description <text>', 'for people', '')
    .option('--layout <parts>', 'how ranks share its tensors: data=2,tensor=4,pipeline=2,expert=1')
}

/** `tensor=4,pipeline=2`. */
function layoutOf(text: string | undefined): Record<string, number> {
  if (text === undefined) return {}
  return Object.fromEntries(
    text.split(',').map((pair) => {
      const [, way, count] = /^\s*(data|tensor|pipeline|expert)=(\d{1,6})\s*$/.exec(pair) ?? []
      if (way !== undefined) return [way, Number(count)]
      throw new UserError(`--layout ${text} is not a list such as tensor=4,pipeline=2.`, { failure: 'usage' })
    }),
  )
}

const names = async ({ client, project }: Session): Promise<string[]> =>
  (await all(client.items(api.listCheckpoints, { params: { project } }))).map(({ name }) => name)

async function runList(
  { client, out, project }: Session,
  { job, deleted }: NounFlags & { job?: string; deleted?: boolean },
): Promise<void> {
  const query = { ...(job !== undefined && { job }), deleted: deleted === true ? 'true' : 'false' } as const
  out.list(await all(client.items(api.listCheckpoints, { params: { project }, query })), {
    NAME: ({ name }) => name,
    STEP: ({ step }) => step,
    FORMAT: ({ format }) => format,
    SIZE: (row) => bytes(row.bytes),
    FROM: ({ source, job: from }) => (from === null ? source.kind : `job ${from.name}`),
    MADE: ({ created_at }) => timeText(created_at),
    ...(deleted === true && { ID: ({ id }: { id: string }) => id }),
  })
}

const view = ({ client, project }: Session, checkpoint: string): Promise<Checkpoint> =>
  client.call(api.viewCheckpoint, { params: { project, checkpoint } })

function show({ out }: Session, checkpoint: Checkpoint): void {
  out.one(checkpoint, {
    name: ({ name }) => name,
    step: ({ step }) => step,
    format: ({ format }) => format,
    layout: ({ layout }) =>
      Object.entries(layout)
        .map((pair) => pair.join('='))
        .join(' '),
    files: ({ files }) => files,
    size: (row) => bytes(row.bytes),
    digest: ({ digest }) => digest,
    from: ({ source, job }) => (source.kind === 'link' ? source.link.url : (job?.name ?? source.kind)),
    metrics: ({ metrics }) =>
      Object.entries(metrics)
        .map((pair) => pair.join('='))
        .join(' '),
    made: ({ created_at }) => timeText(created_at),
  })
}

async function runView(session: Session, _flags: NounFlags, checkpoint: string): Promise<void> {
  show(session, await view(session, checkpoint))
}

async function runUpload(session: Session, flags: NewFlags, name: string, paths: string[]): Promise<void> {
  const { client, project } = session
  const { step, description } = flags
  const layout = layoutOf(flags.layout)
  const files = await upload(client, project, await filesOf(paths))
  const body = { name, step, description, layout, files }
  show(session, await client.call(api.createCheckpoint, { params: { project }, body }))
}

async function runLink(
  session: Session,
  flags: NewFlags & LinkFlags,
  name: string,
  url: string,
): Promise<void> {
  const { client, project } = session
  const { step, description } = flags
  const body = { name, step, description, layout: layoutOf(flags.layout), link: linkOf(url, flags) }
  show(session, await client.call(api.linkCheckpoint, { params: { project }, body }))
}

const filesIn = ({ client, project }: Session, checkpoint: string) =>
  all(client.items(api.checkpointFiles, { params: { project, checkpoint } }))

async function runFiles(session: Session, _flags: NounFlags, checkpoint: string): Promise<void> {
  const files = (await filesIn(session, checkpoint)).map((file) => ({ id: file.path, ...file }))
  session.out.list(files, {
    PATH: ({ path }) => path,
    SIZE: (file) => bytes(file.bytes),
    DIGEST: ({ digest }) => digest.slice(0, 16),
  })
}

async function runDownload(
  session: Session,
  _flags: NounFlags,
  typed: string,
  folder: string,
): Promise<void> {
  const { client, project } = session
  const { id, name, source } = await view(session, typed)
  const fetchFrom = (path: string, start: number) =>
    client.bytes(api.checkpointContent, {
      params: { project, checkpoint: id },
      query: { path },
      headers: { range: `bytes=${start}-` },
    })
  await download(await filesIn(session, id), folder, fetchFrom, source.kind !== 'link')
  note(`${name} is in ${folder}.`)
}

async function runLineage(session: Session, _flags: NounFlags, checkpoint: string): Promise<void> {
  const { client, project } = session
  showLineage(session, await client.call(api.checkpointLineage, { params: { project, checkpoint } }))
}

export function showLineage({ out }: Session, { edges }: z.output<typeof api.lineageAnswer>): void {
  out.list(
    edges.map((edge) => ({ id: edge.to.id, ...edge })),
    { FROM: ({ from }) => from.label, TO: ({ to }) => to.label },
  )
}

const deletableCheckpoint: Deletable<Checkpoint> = {
  word: 'checkpoint',
  says: 'delete one that no model names',
  question: '?',
  find: view,
  delete: ({ client, project }, checkpoint) =>
    client.call(api.deleteCheckpoint, { params: { project, checkpoint } }),
  restore: ({ client, project }, checkpoint) =>
    client.call(api.restoreCheckpoint, { params: { project, checkpoint } }),
  deleted: async ({ client, project }) => {
    const query = { deleted: 'true' } as const
    const rows = await all(client.items(api.listCheckpoints, { params: { project }, query }))
    return rows.map(({ id }) => id)
  },
  show,
}
