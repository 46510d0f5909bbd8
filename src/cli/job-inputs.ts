/**
 * What a training job names outside of its folder: sent as datasets and checkpoints of the project, and named so in
 * the file that the service gets. What lies in the folder goes with it; what the service has is not sent again. What lies in a
 * bucket is linked as a dataset.
 */
import { createHash } from 'node:crypto'
import { existsSync, statSync } from 'node:fs'
import { basename, relative, resolve, sep } from 'node:path'
import { listCredentials } from '../api/control/credentials.ts'
import * as datasets from '../api/control/datasets.ts'
import { createCheckpoint } from '../api/control/models.ts'
import { UserError } from '../base/errors.ts'
import { dataEndings } from '../train/data/records.ts'
import { expanded } from '../train/data/source-files.ts'
import { all, type Session } from './noun.ts'
import { note } from './terminal.ts'
import { findModel, namedModel } from './text-model.ts'
import { filesOf, type LocalFile, upload } from './uploading.ts'

/** Buckets by their schemes, and which kind of credential reads them. */
const credentialOf = { s3: 's3', gs: 'gcs', az: 'azure-blob', hf: 'huggingface' } as const
const schemes = /^(s3|gs|az|hf):\/\//

type Target = Pick<Session, 'client' | 'project'>
type JobFile = Readonly<Record<string, unknown>>

/** The file as the service can run it. Paths in it are relative to `folder`. */
export async function sendInputs(target: Target, file: JobFile, folder: string): Promise<JobFile> {
  if ('run' in file) return file
  const name = typeof file.name === 'string' ? file.name : 'model'
  const sent = async (text: string, send: (path: string) => Promise<string>) => {
    const path = resolve(folder, expanded(text, 'data'))
    return isOutside(path, folder) && existsSync(path) ? await send(path) : text
  }
  const data = await mapped(file.data, (text) =>
    schemes.test(text) ? asLinked(target, name, text) : sent(text, (path) => asDataset(target, name, path)),
  )
  const { model } = file
  const isFrom = typeof model === 'object' && model !== null && 'from' in model
  const from =
    isFrom &&
    (await mapped(model.from, async (text) => {
      const named = existsSync(resolve(folder, text)) ? undefined : namedModel(text)
      if (named !== undefined) return await asCheckpoint(target, named)
      return await sent(text, (path) => asCheckpoint(target, path))
    }))
  return { ...file, ...(data !== undefined && { data }), ...(isFrom && { model: { ...model, from } }) }
}

/** The same value, with what `change` makes of each text in it. */
async function mapped(value: unknown, change: (text: string) => Promise<string>): Promise<unknown> {
  if (typeof value === 'string') return await change(value)
  if (typeof value !== 'object' || value === null) return value
  const entries: [string, unknown][] = []
  for (const [field, one] of Object.entries(value)) entries.push([field, await mapped(one, change)])
  return Array.isArray(value) ? entries.map(([, one]) => one) : Object.fromEntries(entries)
}

function isOutside(path: string, folder: string): boolean {
  const way = relative(folder, path)
  return way === '..' || way.startsWith(`..${sep}`)
}

/** `dataset:whale-texts@2`, or a file in it. */
async function asDataset({ client, project }: Target, job: string, path: string): Promise<string> {
  const dataset = nameOf(`${job}-${basename(path).replace(/\..*$/, '')}`)
  const files = await upload(client, project, await filesOf([path]))
  let number = 0
  for (let at = 0; at < files.length; at += datasets.requestFilesMax) {
    const some = files.slice(at, at + datasets.requestFilesMax)
    const body = { files: some, keep: at > 0, message: `For the job ${job}.` }
    const made = await client.call(datasets.addVersion, { params: { project, dataset }, body })
    number = made.version.number
  }
  note(`${path} is the dataset ${dataset}@${number}.`)
  return statSync(path).isDirectory()
    ? `dataset:${dataset}@${number}`
    : `dataset:${dataset}@${number}/${basename(path)}`
}

/** As `dataset link` would; read with the project's only credential of that kind, or without one. A file is one of its folder. */
async function asLinked({ client, project }: Target, job: string, url: string): Promise<string> {
  const kind = credentialOf[schemes.exec(url)![1] as keyof typeof credentialOf]
  const known = await all(client.items(listCredentials, { params: { project } }))
  const fitting = known.filter((credential) => credential.kind === kind)
  if (fitting.length > 1)
    throw new UserError(
      `${url} could be read with ${fitting.map(({ name }) => name).join(' or ')}, credentials of kind ${kind}.`,
      {
        failure: 'usage',
        fix: `Link it: ropeway dataset link NAME ${url} --credential NAME; then write dataset:NAME.`,
      },
    )
  const file = dataEndings.test(url) ? basename(url) : undefined
  const place = file === undefined ? url : url.slice(0, -file.length - 1)
  const dataset = nameOf(`${job}-${basename(place)}`)
  const credential = fitting[0]?.name
  const link = { url: place, ...(credential !== undefined && { credential }) }
  const body = { link, message: `For the job ${job}.` }
  const { version } = await client.call(datasets.linkDataset, { params: { project, dataset }, body })
  note(`${url} is linked as the dataset ${dataset}@${version.number}.`)
  return `dataset:${dataset}@${version.number}${file === undefined ? '' : `/${file}`}`
}

/** `checkpoint:stories-1f2e3d4c`: the name says which content it has, for that of a checkpoint never changes. */
async function asCheckpoint({ client, project }: Target, path: string): Promise<string> {
  // A run's folder stands for its newest checkpoint.
  const found = findModel(path) ?? path
  const files = await upload(client, project, withoutMoments(await filesOf([found])))
  const content = files.map((file) => `${file.path} ${file.blob}`).join('\n')
  const digest = createHash('sha256').update(content).digest('hex').slice(0, 8)
  const name = nameOf(`${basename(path)}-${digest}`)
  await client.call(createCheckpoint, { params: { project }, body: { name, files } })
  note(`${path} is the checkpoint ${name}.`)
  return statSync(path).isDirectory() ? `checkpoint:${name}` : `checkpoint:${name}/${basename(path)}`
}

/** A job that begins with a model has moments of its own. */
function withoutMoments(files: readonly LocalFile[]): LocalFile[] {
  return files.filter(({ path }) => !/^optimizer[^/]*\.safetensors$/.test(path))
}

/** As names of things are: docs of `nounName`. */
function nameOf(text: string): string {
  const allowed = text.toLowerCase().replace(/[^a-z0-9._-]+/g, '-')
  return allowed.slice(-63).replace(/^[^a-z0-9]+|[^a-z0-9]+$/g, '') || 'data'
}
