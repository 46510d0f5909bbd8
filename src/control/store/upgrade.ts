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
  if (before.kind === 'libsql') await tryOnCopy(backup, options)
  else await tryInSchema(before, url, backup, options)
  return backup
}

/** A copy of all tables in a schema of their own beside those in use, which stay as they are whatever happens to it. */
async function tryInSchema(
  before: Store,
  url: string,
  backup: string,
  { migrations, ...options }: StoreOptions,
): Promise<void> {
  const db = before.db<object>()
  await dropTrials(before)
  const schema = `${trialSchema}${Math.floor(before.clock.unixMs())}_${before.ids.next('try').slice(-6)}`
  try {
    await sql`create schema ${sql.id(schema)}`.execute(db)
  } catch (error) {
    throw new UserError(`Bringing the database up to date cannot be tried on a copy: ${messageOf(error)}`, {
      fix: `Let its user make schemas: grant create on database NAME to USER. A copy of the database is ${backup}.`,
      cause: error,
    })
  }
  try {
    const applied = await appliedMigrations(before.db())
    const all = withCore(migrations)
    await using trial = await connectStore(url, { ...options, schema })
    const earlier = all.filter(({ name }) => applied.includes(name))
    await migrate(trial.db(), 'postgres', earlier, schema)
    await copyStore(before, trial)
    await migrate(trial.db(), 'postgres', all, schema)
  } catch (error) {
    throw triedAndFailed(error, backup)
  } finally {
    await sql`drop schema ${sql.id(schema)} cascade`.execute(db)
  }
}

const trialSchema = 'ropeway_trial_'
/** A trial that began so long ago was killed; a younger one may be another server's. */
const trialMsMax = 6 * 3_600_000

async function dropTrials(store: Store): Promise<void> {
  const { rows } = await sql<{ name: string }>`select nspname as name from pg_namespace
    where left(nspname, ${sql.lit(trialSchema.length)}) = ${trialSchema}`.execute(store.db())
  const began = (name: string) => Number.parseInt(name.slice(trialSchema.length), 10)
  const killed = rows.filter(({ name }) => !(store.clock.unixMs() - began(name) < trialMsMax))
  for (const { name } of killed) await sql`drop schema if exists ${sql.id(name)} cascade`.execute(store.db())
}

function triedAndFailed(error: unknown, backup: string): UserError {
  return new UserError(
    `Bringing the database up to date was tried on a copy and failed; nothing was changed. ${messageOf(error)}`,
    {
      fix: `Go on with the version of Ropeway that you had, and report this. A copy of the database is ${backup}.`,
      cause: error,
    },
  )
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
    throw triedAndFailed(error, backup)
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
