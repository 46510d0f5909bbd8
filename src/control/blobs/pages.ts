import { UserError } from '../../base/errors.ts'
import type { Store } from '../store/store.ts'
import type { BlobTables, FileRow } from './rows.ts'

/** One page of the files of an owner, by path; the cursor is the last path of the page before. */
export async function filesPage(
  store: Store,
  owner: string,
  { limit, cursor }: { limit: number; cursor?: string | undefined },
): Promise<{ items: { path: string; bytes: number; digest: string }[]; next: string | null }> {
  let query = store.db<BlobTables>().selectFrom('files').select(['path', 'bytes', 'digest'])
  query = query.where('owner_id', '=', owner)
  if (cursor !== undefined) query = query.where('path', '>', cursor)
  const items = await query
    .orderBy('path')
    .limit(limit + 1)
    .execute()
  const more = items.length > limit
  if (more) items.length = limit
  return { items, next: more ? items.at(-1)!.path : null }
}

export async function fileOf(store: Store, owner: string, path: string): Promise<FileRow> {
  const query = store.db<BlobTables>().selectFrom('files').selectAll().where('owner_id', '=', owner)
  const file = await query.where('path', '=', path).executeTakeFirst()
  if (file !== undefined) return file
  throw new UserError(`There is no file ${JSON.stringify(path.slice(0, 200))} in it.`, {
    failure: 'not_found',
  })
}
