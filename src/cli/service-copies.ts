/** Copies of the service's data: `ropeway backup`, `restore` and `migrate`. Loaded by them alone, databases and all. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { systemClock } from '../base/clock.ts'
import { UserError } from '../base/errors.ts'
import { holdAlone } from '../base/sole-user.ts'
import { databaseIn, makeBackup, objectsElsewhere, restoreBackup } from '../control/backup/backup.ts'
import type { PassedOver, Reason } from '../control/backup/tree-copy.ts'
import { placeOfObjects } from '../control/servers/agreement.ts'
import { type CopiedTable, copyStore } from '../control/store/copy.ts'
import { kindOf } from '../control/store/kind.ts'
import { openStore } from '../control/store/store.ts'
import { type DataFlags, dataOf, otherServerFix } from './service-data.ts'
import { migrations } from './service-parts.ts'
import { note } from './terminal.ts'

export async function runBackup(
  target: string,
  flags: DataFlags & { withoutObjects?: boolean },
): Promise<void> {
  const { folder, database } = dataOf(flags)
  requireThere(database)
  await using store = await openStore(database, { migrations, clock: systemClock })
  const withoutObjects = flags.withoutObjects === true
  const objects = await placeOfObjects(store)
  const options = { folder, target, migrations, objects, withoutObjects }
  const { tables, passedOver } = await makeBackup(store, options)
  note(
    `Backed up ${rowsIn(tables)} to ${target}. It holds secrets and their key: keep it where nobody else reads.`,
  )
  if (passedOver.length > 0) note(passedOverText(passedOver))
}

export async function runRestore(source: string, flags: DataFlags): Promise<void> {
  const { folder } = dataOf(flags)
  const database = flags.database ?? databaseIn(folder)
  const tables = await restoreBackup(source, { folder, database, migrations, clock: systemClock })
  note(`Restored ${rowsIn(tables)} into ${folder}, and every file arrived as it was.`)
  const elsewhere = objectsElsewhere(source)
  if (elsewhere !== undefined) note(`Its objects are in ${elsewhere}: start with --objects.`)
}

export async function runMigrate(flags: DataFlags & { to: string }): Promise<void> {
  const { folder, database } = dataOf(flags)
  requireThere(database)
  // What is written while it is copied would be lost.
  using _lock = kindOf(database) === 'libsql' ? holdAlone(join(folder, 'lock.db'), otherServerFix) : undefined
  await using from = await openStore(database, { migrations, clock: systemClock })
  await using to = await openStore(flags.to, { migrations, clock: systemClock })
  const tables = await copyStore(from, to)
  note(`Copied ${rowsIn(tables)}, and every row arrived as it was. The old database is unchanged.`)
  if (to.kind === 'postgres') note('Go on with: ropeway up --database postgres://... (or ROPEWAY_DATABASE)')
}

function requireThere(database: string): void {
  if (kindOf(database) === 'postgres' || existsSync(database)) return
  throw new UserError(`There is no database ${database}.`, {
    failure: 'not_found',
    fix: 'Say where the service keeps its data with --data or --database.',
  })
}

const reasons: { readonly [R in Reason]: string } = {
  special: 'pipes, sockets and devices',
  gone: 'what went meanwhile',
  unreadable: 'what cannot be read, or has no name that can be written',
}

function passedOverText(passedOver: readonly PassedOver[]): string {
  const parts = (Object.keys(reasons) as Reason[]).flatMap((reason) => {
    const found = passedOver.filter(({ why }) => why === reason)
    return found.length === 0 ? [] : [`${reasons[reason]} (${found.length}, such as ${found[0]!.path})`]
  })
  return `Left out of it: ${parts.join('; ')}.`
}

function rowsIn(tables: readonly CopiedTable[]): string {
  const rows = tables.reduce((sum, table) => sum + table.rows, 0)
  return `${rows} rows of ${tables.length} tables`
}
