/** Deleting in two steps: gone from all lists at once, and for good a day later, until when it can be restored. */
import { UserError } from '../../base/errors.ts'
import { recordEvent } from './events.ts'
import type { NounChanges, NounRow, Nouns } from './nouns.ts'

export const restoreMs = 24 * 3_600_000
const purgedMax = 100

/** The noun in events and messages: its table's prefix. */
async function record<Row extends NounRow>(nouns: Nouns<Row>, row: Row, kind: string, message: string) {
  const { store, prefix } = nouns
  await recordEvent(store, { subject: row.id, project: row.project_id, kind: `${prefix}.${kind}`, message })
}

/** Deleting what is deleted changes nothing. `message`: why, for `why` and for whoever restores it. */
export async function deleteSoftly<Row extends NounRow>(
  nouns: Nouns<Row>,
  id: string,
  message = 'It was deleted.',
): Promise<void> {
  await nouns.store.transaction(async () => {
    const nowMs = nouns.store.clock.unixMs()
    let mine = false
    const deleted = await nouns.change(id, (row) => {
      mine = row.deleted_at === null
      return mine ? ({ deleted_at: nowMs } as NounChanges<Row>) : undefined
    })
    if (mine && deleted !== undefined) await record(nouns, deleted, 'deleted', message)
  })
}

/** Takes back a deletion within a day. Throws UserError when it is gone, or when its name is another's by now. */
export async function restoreDeleted<Row extends NounRow>(
  nouns: Nouns<Row>,
  project: string,
  id: string,
): Promise<Row> {
  return await nouns.store.transaction(async () => {
    const row = await nouns.get(id)
    if (row === undefined || row.project_id !== project) {
      throw new UserError(`There is no such ${nouns.prefix} to restore.`, {
        failure: 'not_found',
        fix: `It can be restored for 24 hours, by its id: \`ropeway ${nouns.prefix} list --deleted\`.`,
      })
    }
    if (row.deleted_at === null) return row
    if ((await nouns.named(project, row.name)) !== undefined) {
      throw new UserError(`There is another ${nouns.prefix} ${row.name} by now.`, {
        failure: 'conflict',
        fix: 'Rename or delete that one first.',
      })
    }
    const restored = await nouns.update(row, { deleted_at: null } as NounChanges<Row>)
    if (restored === undefined) {
      throw new UserError(`${row.name} was changed by somebody else at the same time.`, {
        failure: 'conflict',
        fix: 'Try again.',
      })
    }
    await record(nouns, restored, 'restored', 'It was restored.')
    return restored
  })
}

/** Removes for good what was deleted more than a day ago, with what `also` removes; returns how many. */
export async function purgeDeleted<Row extends NounRow>(
  nouns: Nouns<Row>,
  also: (row: Row) => Promise<void>,
): Promise<number> {
  const before = nouns.store.clock.unixMs() - restoreMs
  const { rows } = await nouns.list({
    deleted: true,
    where: (is) => is.and([is('deleted_at', '<', before)]),
    limit: purgedMax,
  })
  for (const { id } of rows) {
    await nouns.store.transaction(async () => {
      const row = await nouns.get(id)
      if (row === undefined || row.deleted_at === null || row.deleted_at >= before) return
      // Written to first: from here on nobody restores it.
      if ((await nouns.update(row, {})) === undefined) return
      await also(row)
      await nouns.purge(id)
    })
  }
  return rows.length
}
