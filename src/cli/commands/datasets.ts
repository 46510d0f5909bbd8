import type { Command } from 'commander'
import type { z } from 'zod'
import * as api from '../../api/control/datasets.ts'
import { type Deletable, deleteVerbs } from '../deletable.ts'
import { download } from '../downloading.ts'
import { all, completeWith, type NounFlags, onService, type Session } from '../noun.ts'
import { wholeNumber } from '../options.ts'
import { line, timeText } from '../output.ts'
import { bytes, note } from '../terminal.ts'
import { filesOf, upload } from '../uploading.ts'

interface UploadFlags extends NounFlags {
  message: string
  replace?: boolean
}

export interface LinkFlags extends NounFlags {
  message: string
  credential?: string
  endpoint?: string
  region?: string
}

export function datasetCommand(program: Command): void {
  const noun = program
    .command('dataset')
    .description('what models learn from: versions of files that never change')
  const named = (verb: string, description: string) =>
    completeWith(noun.command(verb).description(description).argument('<name>'), names)
  onService(
    noun
      .command('list', { isDefault: true })
      .description('list them')
      .option('--deleted', 'those that were deleted and can be restored'),
    runList,
  )
  onService(named('view', 'show one, its newest version or NAME@3'), runView)
  onService(
    named('upload', 'make a version of files; what the service has is not sent again')
      .argument('<file...>', 'files, or folders with all that lies in them')
      .option('-m, --message <text>', 'what changed', '')
      .option('--replace', 'the version holds these files alone; otherwise earlier ones stay'),
    runUpload,
  )
  onService(
    linkOptions(
      named('link', 'make a version of what lies in a bucket or folder; nothing is copied'),
    ).argument(
      '<url>',
      's3://, gs:// or az://BUCKET/PREFIX, hf://datasets/ORG/NAME, or file:///FOLDER of the machine of the service',
    ),
    runLink,
  )
  onService(named('refresh', 'look again at what is linked'), runRefresh)
  onService(
    named('remove-file', 'make a version without some files').argument('<path...>', 'paths in the dataset'),
    runRemoveFile,
  )
  onService(named('versions', 'list its versions'), runVersions)
  onService(named('files', 'list the files of a version'), runFiles)
  onService(
    named('preview', 'show the first records')
      .option('--file <path>', 'of this file')
      .option('-n, --number <n>', 'so many', wholeNumber(1, 100), 5),
    runPreview,
  )
  onService(named('statistics', 'count its records and fields'), runStatistics)
  onService(
    named('download', 'fetch the files of a version').argument('[folder]', 'into this folder', '.'),
    runDownload,
  )
  onService(
    named('edit', 'change its name or description')
      .option('--name <new-name>', 'the new name')
      .option('--description <text>', 'the new description'),
    runEdit,
  )
  deleteVerbs(noun, named, deletableDataset)
}

export function linkOptions(command: Command): Command {
  return command
    .option('-m, --message <text>', 'what changed', '')
    .option('--credential <name>', 'the credential to read the bucket with')
    .option('--endpoint <url>', 'of an S3 service that is not Amazon’s')
    .option('--region <name>', 'the region of the bucket')
}

export function linkOf(url: string, { credential, endpoint, region }: LinkFlags) {
  return {
    url,
    ...(credential !== undefined && { credential }),
    ...(endpoint !== undefined && { endpoint }),
    ...(region !== undefined && { region }),
  }
}

const names = async (session: Session): Promise<string[]> =>
  (await listed(session, false)).map(({ name }) => name)

function listed({ client, project }: Session, deleted: boolean) {
  const query = { deleted: deleted ? 'true' : 'false' } as const
  return all(client.items(api.listDatasets, { params: { project }, query }))
}

async function runList(session: Session, flags: NounFlags & { deleted?: boolean }): Promise<void> {
  session.out.list(await listed(session, flags.deleted === true), {
    NAME: ({ name }) => name,
    VERSION: ({ latest }) => latest,
    DESCRIPTION: ({ description }) => description.slice(0, 60),
    CHANGED: ({ updated_at }) => timeText(updated_at),
    ...(flags.deleted === true && { ID: ({ id }: { id: string }) => id }),
  })
}

type View = Awaited<ReturnType<typeof view>>

const view = ({ client, project }: Session, dataset: string) =>
  client.call(api.viewDataset, { params: { project, dataset } })

function show({ out }: Session, dataset: View): void {
  out.one(dataset, {
    name: ({ name, version }) => `${name}@${version.number}`,
    description: ({ description }) => description,
    files: ({ version }) => version.files,
    size: ({ version }) => bytes(version.bytes),
    digest: ({ version }) => version.digest,
    linked: ({ version }) => version.link?.url,
    message: ({ version }) => version.message,
    made: ({ version }) => timeText(version.created_at),
  })
}

async function runView(session: Session, _flags: NounFlags, dataset: string): Promise<void> {
  show(session, await view(session, dataset))
}

async function runUpload(
  session: Session,
  flags: UploadFlags,
  dataset: string,
  paths: string[],
): Promise<void> {
  const { client, project } = session
  const files = await upload(client, project, await filesOf(paths))
  let made: View | undefined
  for (let at = 0; at < files.length; at += api.requestFilesMax) {
    const some = files.slice(at, at + api.requestFilesMax)
    const body = { files: some, keep: flags.replace !== true || at > 0, message: flags.message }
    made = await client.call(api.addVersion, { params: { project, dataset }, body })
  }
  show(session, made!)
}

async function runLink(session: Session, flags: LinkFlags, dataset: string, url: string): Promise<void> {
  const { client, project } = session
  const body = { link: linkOf(url, flags), message: flags.message }
  show(session, await client.call(api.linkDataset, { params: { project, dataset }, body }))
}

async function runRefresh(session: Session, _flags: NounFlags, dataset: string): Promise<void> {
  const { client, project } = session
  show(session, await client.call(api.refreshDataset, { params: { project, dataset } }))
}

async function runRemoveFile(
  session: Session,
  _flags: NounFlags,
  dataset: string,
  remove: string[],
): Promise<void> {
  const { client, project } = session
  const { name } = await view(session, dataset)
  const body = { files: [], remove }
  show(session, await client.call(api.addVersion, { params: { project, dataset: name }, body }))
}

async function runVersions(
  { client, out, project }: Session,
  _flags: NounFlags,
  dataset: string,
): Promise<void> {
  out.list(await all(client.items(api.listVersions, { params: { project, dataset } })), {
    VERSION: ({ number }) => number,
    FILES: ({ files }) => files,
    SIZE: (version) => bytes(version.bytes),
    LINKED: ({ link }) => link?.url,
    MESSAGE: ({ message }) => message,
    MADE: ({ created_at }) => timeText(created_at),
  })
}

const filesIn = ({ client, project }: Session, dataset: string) =>
  all(client.items(api.listFiles, { params: { project, dataset } }))

async function runFiles(session: Session, _flags: NounFlags, dataset: string): Promise<void> {
  const files = (await filesIn(session, dataset)).map((file) => ({ id: file.path, ...file }))
  session.out.list(files, {
    PATH: ({ path }) => path,
    SIZE: (file) => bytes(file.bytes),
    DIGEST: ({ digest }) => digest.slice(0, 16),
  })
}

async function runPreview(
  { client, project }: Session,
  { file, number: limit }: NounFlags & { file?: string; number: number },
  dataset: string,
): Promise<void> {
  const query = { limit, ...(file !== undefined && { path: file }) }
  const { records, problem } = await client.call(api.previewDataset, { params: { project, dataset }, query })
  for (const { value } of records) line(JSON.stringify(value))
  if (problem !== null) note(problem)
}

async function runStatistics(
  { client, out, project }: Session,
  _flags: NounFlags,
  dataset: string,
): Promise<void> {
  const found = await client.call(api.datasetStatistics, { params: { project, dataset } })
  if (out.isJson) return line(JSON.stringify(found))
  const scope = found.whole ? 'all' : 'its first'
  note(`${found.records} records in ${scope} ${bytes(found.bytes)}`)
  out.list(
    found.fields.map((field) => ({ id: field.name, ...field })),
    {
      FIELD: ({ name }) => name,
      RECORDS: ({ records }) => records,
      TYPES: ({ types }) => Object.keys(types).join(' '),
      'MEAN LENGTH': ({ length_mean: mean }) => mean?.toFixed(1),
      LONGEST: ({ length_max: longest }) => longest,
    },
  )
  for (const problem of found.problems) note(problem)
}

async function runDownload(
  session: Session,
  _flags: NounFlags,
  dataset: string,
  folder: string,
): Promise<void> {
  const { client, project } = session
  const { name, version } = await view(session, dataset)
  // The number pins the version, whatever is added meanwhile.
  const pinned = `${name}@${version.number}`
  const fetchFrom = (path: string, start: number) =>
    client.bytes(api.readFile, {
      params: { project, dataset: pinned },
      query: { path },
      headers: { range: `bytes=${start}-` },
    })
  await download(await filesIn(session, pinned), folder, fetchFrom, version.link === null)
  note(`${pinned} is in ${folder}.`)
}

async function runEdit(
  { client, out, project }: Session,
  { name, description }: NounFlags & { name?: string; description?: string },
  dataset: string,
): Promise<void> {
  const body = { ...(name !== undefined && { name }), ...(description !== undefined && { description }) }
  const edited = await client.call(api.editDataset, { params: { project, dataset }, body })
  out.one(edited, { name: (row) => row.name, description: (row) => row.description })
}

const deletableDataset: Deletable<z.output<typeof api.datasetItem>> = {
  word: 'dataset',
  says: 'delete it with all its versions',
  question: ' with all its versions?',
  find: view,
  delete: ({ client, project }, dataset) => client.call(api.deleteDataset, { params: { project, dataset } }),
  restore: ({ client, project }, dataset) =>
    client.call(api.restoreDataset, { params: { project, dataset } }),
  deleted: async (session) => (await listed(session, true)).map(({ id }) => id),
  show: ({ out }, restored) =>
    out.one(restored, { name: ({ name }) => name, version: ({ latest }) => latest }),
}
