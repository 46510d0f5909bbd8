/** Bringing a database up to date that holds something: tried on a copy first, and backed up. */
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { sql } from 'kysely'
import { messageOf, UserError } from '../../base/errors.ts'
import { syncFolder } from '../../base/files.ts'
import { copyStore } from './copy.ts'
import { kindOf } from './kind.ts'
import { appliedMigrations, migrate } from './migrations.ts'
import { connectStore, openStore, type Store, type StoreOptions, withCore } from './store.ts'

/**
 * {@link openStore} for a service. When migrations are missing on a database that has some, a copy goes into `folder`
 * first, and they run on another copy of that; only then on the database itself. Throws UserError when they fail on
 * the copy: the database is as it was.
 */
export async function openUpgraded(
  url: string,
  options: StoreOptions,
  folder: string,
): Promise<{ store: Store; backup?: string }> {
  const backup = await backUpIfOld(url, options, folder)
  const store = await openStore(url, options)
  return backup === undefined ? { store } : { store, backup }
}

async function backUpIfOld(url: string, options: StoreOptions, folder: string): Promise<string | undefined> {
  if (kindOf(url) === 'libsql' && !existsSync(url)) return undefined
  const { migrations, ...rest } = options
  await using before = await connectStore(url, rest)
  const applied = await appliedMigrations(before.db())
  const missing = withCore(migrations).filter(({ name }) => !applied.includes(name))
  if (applied.length === 0 || missing.length === 0) return undefined
  const stamp = new Date(before.clock.unixMs()).toISOString().replaceAll(/[:.]/g, '-')
  const backup = join(folder, `before-${missing.at(-1)!.name}-${stamp}.db`)
  await snapshot(before, backup, options)
  await tryOnCopy(backup, options)
  return backup
}

async function tryOnCopy(backup: string, options: StoreOptions): Promise<void> {
  const trial = `${backup}.trial`
  try {
    {
      await using source = await connectStore(backup)
      await vacuumInto(source, trial)
    }
    await using _ = await openStore(trial, { migrations: options.migrations, clock: options.clock! })
  } catch (error) {
    throw new UserError(
      `Bringing the database up to date was tried on a copy and failed; nothing was changed. ${messageOf(error)}`,
      {
        fix: `Go on with the version of Ropeway that you had, and report this. A copy of the database is ${backup}.`,
        cause: error,
      },
    )
  } finally {
    for (const ending of ['', '-wal', '-shm']) rmSync(`${trial}${ending}`, { force: true })
  }
}

/**
 * Writes all that a store holds at one moment into a libsql file, whole or not at all, while it is in use. The copy
 * has the migrations that the store has.
 */
export async function snapshot(
  store: Store,
  path: string,
  { migrations }: Pick<StoreOptions, 'migrations'>,
): Promise<void> {
  const folder = join(path, '..')
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const partial = `${path}.partial`
  for (const ending of ['', '-wal', '-shm']) rmSync(`${partial}${ending}`, { force: true })
  if (store.kind === 'libsql') await vacuumInto(store, partial)
  else {
    const applied = await appliedMigrations(store.db())
    await using copy = await connectStore(partial, { clock: store.clock })
    await migrate(
      copy.db(),
      'libsql',
      withCore(migrations).filter(({ name }) => applied.includes(name)),
    )
    await copyStore(store, copy)
    // Into the file itself: what is renamed is one file.
    await sql`pragma wal_checkpoint(truncate)`.execute(copy.db())
  }
  renameSync(partial, path)
  for (const ending of ['-wal', '-shm']) rmSync(`${partial}${ending}`, { force: true })
  syncFolder(folder)
}

async function vacuumInto(store: Store, path: string): Promise<void> {
  await sql`vacuum into ${path}`.execute(store.db())
}
