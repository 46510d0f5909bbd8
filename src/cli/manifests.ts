import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { parseAllDocuments } from 'yaml'
import { z } from 'zod'
import { type Manifest, manifest } from '../api/control/manifest.ts'
import { messageOf, UserError } from '../base/errors.ts'

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
  return documents.map((document, index) => {
    const where = `${path}, document ${index + 1}`
    if (document.errors.length > 0) {
      throw new UserError(`${where} is not YAML: ${document.errors[0]!.message}`, { failure: 'usage' })
    }
    return withPaths(checked(document.toJS({ maxAliasCount: 100 }), where), dirname(resolve(path)))
  })
}

function checked(value: unknown, where: string): Manifest {
  const parsed = manifest.safeParse(value)
  if (!parsed.success) {
    const { path, message } = parsed.error.issues[0]!
    throw new UserError(`${where}: ${path.length === 0 ? '' : `${path.join('.')}: `}${message}`, {
      failure: 'usage',
      fix: '`ropeway apply --schema` prints what a document may hold, for editors too.',
    })
  }
  const { data } = parsed
  if (!('files' in data) && !('link' in data)) {
    if (data.kind === 'dataset' || data.kind === 'checkpoint') throw noContent(where)
    return data
  }
  if ((data.files === undefined) === (data.link === undefined)) throw noContent(where)
  return data
}

function noContent(where: string): UserError {
  return new UserError(`${where}: it takes either files or link.`, { failure: 'usage' })
}

function withPaths(given: Manifest, folder: string): Manifest {
  if (!('files' in given) || given.files === undefined) return given
  return { ...given, files: given.files.map((path) => resolve(folder, path)) }
}

/** JSON Schema (2020-12) of one document. */
export function manifestSchema(): object {
  return z.toJSONSchema(manifest, { io: 'input', unrepresentable: 'any' })
}
