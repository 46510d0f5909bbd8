import type { Blobs } from './blobs.ts'
import type { BlobRow, BlobTables } from './rows.ts'

/** How long content stays that no file names: long enough for an upload of many files to name them all. */
export const unusedMs = 24 * 3_600_000
/** And an upload of which nothing has come. */
export const unfinishedMs = 7 * 24 * 3_600_000
/** An upload that is not finished by then begins again. */
const uploadLifeMs = 30 * 24 * 3_600_000
const rowsMax = 500

/**
 * Removes content that nobody names any more. Any server may do it at any time, several at once too: a row that is
 * taken for removal is never used again, and whoever dies in between leaves it to the next.
 */
export async function sweepBlobs(blobs: Blobs): Promise<number> {
  const { store, objects } = blobs
  const nowMs = store.clock.unixMs()
  const db = () => store.db<BlobTables>()
  for (const [state, ms] of [
    ['ready', unusedMs],
    ['receiving', unfinishedMs],
  ] as const) {
    const old = db()
      .selectFrom('blobs')
      .select('id')
      .where('state', '=', state)
      .where('touched_at', '<', nowMs - ms)
      .where((is) =>
        is.not(is.exists(is.selectFrom('files').select('path').whereRef('files.blob_id', '=', 'blobs.id'))),
      )
    // `touched_at` stands twice: PostgreSQL asks it again of a row that somebody has just begun to use.
    await db()
      .updateTable('blobs')
      .set((is) => ({ state: 'dropping', live: null, version: is('version', '+', 1) }))
      .where('id', 'in', old.orderBy('touched_at').limit(rowsMax))
      .where('touched_at', '<', nowMs - ms)
      .execute()
  }
  const dropping = await db()
    .selectFrom('blobs')
    .selectAll()
    .where('state', '=', 'dropping')
    .limit(rowsMax)
    .execute()
  for (const blob of dropping) await drop(blobs, blob)
  // Uploads of the object store that a crash left without a row.
  await objects.abortOlder(nowMs - uploadLifeMs)
  return dropping.length
}

async function drop({ store, objects }: Blobs, blob: BlobRow): Promise<void> {
  if (blob.upload_json !== null) await objects.abort(blob.upload_json)
  await objects.delete(blob.key)
  await store.db<BlobTables>().deleteFrom('blobs').where('id', '=', blob.id).execute()
}
