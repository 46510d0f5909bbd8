/**
 * What a training job names outside of its folder: sent as datasets and checkpoints of the project, and named so in
 * the file that the service gets. What lies in the folder goes with it; what the service has is not sent again.
 */
import { createHash } from 'node:crypto'
import { existsSync, statSync } from 'node:fs'
import { basename, relative, resolve, sep } from 'node:path'
import * as datasets from '../api/control/datasets.ts'
import { createCheckpoint } from '../api/control/models.ts'
import { expanded } from '../train/data/source-files.ts'
import type { Session } from './noun.ts'
import { note } from './terminal.ts'
import { findModel } from './text-model.ts'
import { filesOf, type LocalFile, upload } from './uploading.ts'

type Target = Pick<Session, 'client' | 'project'>
type JobFile = Readonly<Record<string, unknown>>

/** The file as the service can run it. Paths in it are relative to `folder`. */
export async function sendInputs(target: Target, file: JobFile, folder: string): Promise<JobFile> {
  if ('run' in file) return file
  const name = typeof file.name === 'string' ? file.name : 'model'
  const data = await withPaths(file.data, folder, (path) => asDataset(target, name, path))
  const { model } = file
  const isFrom = typeof model === 'object' && model !== null && 'from' in model
  const from = isFrom && (await withPaths(model.from, folder, (path) => asCheckpoint(target, path)))
  return { ...file, ...(data !== undefined && { data }), ...(isFrom && { model: { ...model, from } }) }
}

/** The same value, with what `send` makes of each path in it that leads out of the folder. */
async function withPaths(
  value: unknown,
  folder: string,
  send: (path: string) => Promise<string>,
): Promise<unknown> {
  if (typeof value === 'string') {
    const path = resolve(folder, expanded(value, 'data'))
    return isOutside(path, folder) && existsSync(path) ? await send(path) : value
  }
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) {
    const all: unknown[] = []
    for (const one of value) all.push(await withPaths(one, folder, send))
    return all
  }
  const fields: Record<string, unknown> = {}
  for (const [field, one] of Object.entries(value)) fields[field] = await withPaths(one, folder, send)
  return fields
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
