import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { parseAllDocuments } from 'yaml'
import { type Manifest, manifest } from '../../api/control/manifest.ts'
import { firstIssue } from '../../api/issues.ts'
import { messageOf, UserError } from '../../base/errors.ts'

const documentsMax = 200

/** The documents of a file, checked; paths in them are made absolute. Throws UserErrors that name document and field. */
export function readManifests(path: string): Manifest[] {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw new UserError(`${path} cannot be read: ${messageOf(error)}`, { failure: 'not_found', cause: error })
  }
  const documents = parseAllDocuments(text).filter((document) => document.contents !== null)
  if (documents.length === 0) throw new UserError(`${path} holds no document.`, { failure: 'usage' })
  if (documents.length > documentsMax) {
    throw new UserError(`${path} holds more than ${documentsMax} documents.`, { failure: 'usage' })
  }
  const read = documents.map((document, index) => {
    const where = `${path}, document ${index + 1}`
    if (document.errors.length > 0) {
      throw new UserError(`${where} is not YAML: ${document.errors[0]!.message}`, { failure: 'usage' })
    }
    return withPaths(checked(document.toJS({ maxAliasCount: 100 }), where), dirname(resolve(path)))
  })
  refuseTwins(read, path)
  return read
}

function checked(value: unknown, where: string): Manifest {
  const parsed = manifest.safeParse(value)
  if (!parsed.success) {
    const { param, message } = firstIssue(parsed.error, manifest)
    throw new UserError(`${where}: ${param === undefined ? '' : `${param}: `}${message}`, {
      failure: 'usage',
      fix: '`ropeway schema apply` prints what a document may hold, for editors too.',
    })
  }
  const { data } = parsed
  if (data.kind === 'dataset' || data.kind === 'checkpoint') {
    if ((data.files === undefined) === (data.link === undefined))
      throw new UserError(`${where}: it takes either files or link.`, { failure: 'usage' })
  }
  if (data.kind === 'job' || data.kind === 'template') {
    if ((data.file === undefined) === (data.spec === undefined))
      throw new UserError(
        `${where}: it takes either file, the path of a job file, or spec, the job itself.`,
        {
          failure: 'usage',
        },
      )
  }
  return data
}

/** Two documents about one thing would undo each other at every run. */
function refuseTwins(documents: readonly Manifest[], path: string): void {
  const seen = new Map<string, number>()
  for (const [index, document] of documents.entries()) {
    const project = 'project' in document ? (document.project ?? '') : ''
    const key = `${document.kind} ${document.name} ${project}`
    const before = seen.get(key)
    if (before !== undefined)
      throw new UserError(
        `${path}: documents ${before} and ${index + 1} are both about the ${document.kind} ${document.name}.`,
        { failure: 'usage' },
      )
    seen.set(key, index + 1)
  }
}

function withPaths(given: Manifest, folder: string): Manifest {
  if (given.kind === 'job' || given.kind === 'template')
    return {
      ...given,
      ...(given.file !== undefined && { file: resolve(folder, given.file) }),
      ...(given.workspace !== undefined && { workspace: resolve(folder, given.workspace) }),
    }
  if (!('files' in given) || given.files === undefined) return given
  return { ...given, files: given.files.map((path) => resolve(folder, path)) }
}
