/** Lists of files that never change: of a version of a dataset, of a checkpoint. */
import { listDigestText } from '../../api/control/digest.ts'
import { UserError } from '../../base/errors.ts'
import { sha256Of } from '../objects/hash.ts'
import { checkKey } from '../objects/store.ts'
import type { Store } from '../store/store.ts'
import { chunks } from './blobs.ts'
import type { BlobTables, FileRow } from './rows.ts'

export type NewFile = Omit<FileRow, 'owner_id'>

/** Files of one version or one checkpoint. */
export const filesMax = 10_000

/** SHA-256 over paths, lengths and contents. */
export async function digestOfFiles(files: readonly NewFile[]): Promise<string> {
  return sha256Of(Buffer.from(listDigestText(files)))
}

/** Throws a UserError for paths that could not lie in one folder, or too many of them. */
export function checkFiles(files: readonly { path: string }[]): void {
  if (files.length > filesMax) {
    throw new UserError(`${files.length} files are more than the ${filesMax} that are kept together.`, {
      failure: 'usage',
      fix: 'Join them: a JSONL file may hold any number of records.',
    })
  }
  const paths = new Set<string>()
  for (const { path } of files) {
    checkKey(path)
    if (paths.has(path)) throw new UserError(`There are two files ${path}.`, { failure: 'usage' })
    paths.add(path)
  }
  for (const { path } of files) {
    for (let cut = path.lastIndexOf('/'); cut > 0; cut = path.lastIndexOf('/', cut - 1)) {
      if (!paths.has(path.slice(0, cut))) continue
      throw new UserError(`${path.slice(0, cut)} cannot be a file and a folder.`, { failure: 'usage' })
    }
  }
}

/** In the transaction that makes their owner. */
export async function insertFiles(store: Store, owner: string, files: readonly NewFile[]): Promise<void> {
  for (const some of chunks(files)) {
    await store
      .db<BlobTables>()
      .insertInto('files')
      .values(some.map((file) => ({ ...file, owner_id: owner })))
      .execute()
  }
}

export async function deleteFiles(store: Store, owner: string): Promise<void> {
  await store.db<BlobTables>().deleteFrom('files').where('owner_id', '=', owner).execute()
}

/** By path. */
export async function filesOf(store: Store, owner: string): Promise<FileRow[]> {
  const query = store.db<BlobTables>().selectFrom('files').selectAll().where('owner_id', '=', owner)
  return query.orderBy('path').execute()
}
