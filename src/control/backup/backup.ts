/**
 * A backup is a folder: the database as one libsql file, whatever it is in the service, the files of the data folder,
 * and a manifest with what must be in them.
 */
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmdirSync,
  rmSync,
} from 'node:fs'
import { basename, dirname, join, resolve, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import type { Clock } from '../../base/clock.ts'
import { messageOf, UserError } from '../../base/errors.ts'
import { hashOfFile, readJsonFile, syncFolder, writeFileAtomic } from '../../base/files.ts'
import { type CopiedTable, copyStore, digestsOf } from '../store/copy.ts'
import { reserveOf } from '../store/disk-reserve.ts'
import type { Migration } from '../store/migrations.ts'
import { connectStore, openStore, type Store } from '../store/store.ts'
import { snapshot } from '../store/upgrade.ts'
import { checkFileList, writeFileList } from './file-list.ts'
import { type PassedOver, TreeCopy } from './tree-copy.ts'

const databaseName = 'ropeway.db'
const filesName = 'files'
const listName = 'files.jsonl'
const objectsName = 'objects'
const manifestName = 'manifest.json'
/** What jobs do in their folders must not keep the service from being copied. */
const jobsName = 'jobs'
const usageName = 'usage'
/** Not of the service's state: the database itself is copied apart, and locks and older copies are of one machine. */
const leftOut: ReadonlySet<string> = new Set([
  ...[databaseName, 'lock.db', join(usageName, 'lock.db')].flatMap((name) =>
    ['', '-wal', '-shm', '-journal'].map((ending) => `${name}${ending}`),
  ),
  reserveOf(databaseName),
  // The lock of older versions.
  join(usageName, 'ledger.pid'),
  'backups',
])
/** In the folder that is restored into, until all of it is there. */
const restoringName = '.restoring'

const manifest = z.object({
  format: z.literal(1),
  made_at: z.int(),
  database_sha256: z.string(),
  /** Of the list of files; absent in backups of before there was one. */
  files_sha256: z.string().optional(),
  /** Where the objects are that it does not hold. */
  objects_elsewhere: z.string().optional(),
  tables: z.array(z.object({ table: z.string(), rows: z.int(), digest: z.string() })),
})
type Manifest = z.output<typeof manifest>

export interface BackupOptions {
  readonly folder: string
  readonly target: string
  readonly migrations: readonly Migration[]
  /** Where the objects are; in the data folder without it. */
  readonly objects?: string | undefined
  /** Objects that are not in the data folder are left out. */
  readonly withoutObjects?: boolean
}

export interface Backup {
  readonly tables: readonly CopiedTable[]
  readonly passedOver: readonly PassedOver[]
}

/** `target` must not exist. It appears whole or not at all; the service may run meanwhile. */
export async function makeBackup(store: Store, options: BackupOptions): Promise<Backup> {
  const { folder, target } = options
  if (existsSync(target))
    throw new UserError(`${target} exists already.`, {
      failure: 'conflict',
      fix: 'Name a folder that does not.',
    })
  const objects = objectsToCopy(options)
  for (const source of [folder, objects.from])
    if (source !== undefined) refuseInside(target, source, 'the folder that it would be a copy of')
  const partial = join(dirname(resolve(target)), `.${basename(target)}.partial`)
  rmSync(partial, { recursive: true, force: true })
  mkdirSync(partial, { recursive: true, mode: 0o700 })
  try {
    const made = await fillBackup(store, partial, options, objects)
    renameSync(partial, target)
    syncFolder(dirname(resolve(target)))
    return made
  } finally {
    // It would hold the database and the key of its secrets.
    rmSync(partial, { recursive: true, force: true })
  }
}

async function fillBackup(
  store: Store,
  partial: string,
  { folder, migrations }: BackupOptions,
  objects: ObjectsPlan,
): Promise<Backup> {
  // The database first: files are written before the rows that speak of them.
  const database = join(partial, databaseName)
  await snapshot(store, database, { migrations })
  const files = join(partial, filesName)
  mkdirSync(files, { mode: 0o700 })
  const passedOver = copyFiles(folder, files)
  if (objects.from !== undefined) passedOver.push(...copyObjects(objects.from, join(files, objectsName)))
  const files_sha256 = writeFileList(files, join(partial, listName))
  const tables = await digestsOfFile(database, store.clock)
  const elsewhere = objects.elsewhere === undefined ? {} : { objects_elsewhere: objects.elsewhere }
  const hashes = { database_sha256: hashOfFile(database), files_sha256 }
  const content = { format: 1, made_at: store.clock.unixMs(), ...hashes, ...elsewhere, tables }
  writeFileAtomic(join(partial, manifestName), `${JSON.stringify(content, undefined, 2)}\n`)
  return { tables, passedOver }
}

export interface RestoreOptions {
  readonly folder: string
  readonly database: string
  readonly migrations: readonly Migration[]
  readonly clock: Clock
}

/**
 * Into an empty data folder and, with `database`, an empty PostgreSQL. Throws UserError when the backup is not whole, and
 * leaves the folder as it was.
 */
export async function restoreBackup(
  source: string,
  options: RestoreOptions,
): Promise<readonly CopiedTable[]> {
  const { folder } = options
  const expected = readManifest(source)
  refuseInside(folder, source, 'the backup')
  requireHash(join(source, databaseName), expected.database_sha256)
  if (expected.files_sha256 !== undefined) requireHash(join(source, listName), expected.files_sha256)
  const isNew = !existsSync(folder)
  if (!isNew && readdirSync(folder).some((name) => name !== restoringName))
    throw new UserError(`${folder} is not empty.`, {
      failure: 'conflict',
      fix: 'Give a new folder with --data.',
    })
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  // Inside and not beside: the folder may be where a disk is mounted.
  const partial = join(folder, restoringName)
  rmSync(partial, { recursive: true, force: true })
  try {
    const tables = await fillFolder(source, partial, expected, options)
    for (const name of inOrder(readdirSync(partial))) renameSync(join(partial, name), join(folder, name))
    syncFolder(folder)
    return tables
  } finally {
    rmSync(partial, { recursive: true, force: true })
    if (isNew && readdirSync(folder).length === 0) rmdirSync(folder)
  }
}

async function fillFolder(
  source: string,
  partial: string,
  expected: Manifest,
  { folder, database, migrations, clock }: RestoreOptions,
): Promise<readonly CopiedTable[]> {
  mkdirSync(partial, { mode: 0o700 })
  const files = join(source, filesName)
  if (existsSync(files)) new TreeCopy().copy(files, partial)
  // As they arrived, not as they left.
  if (expected.files_sha256 !== undefined) checkFileList(partial, join(source, listName))
  // Brought up to date as a copy: the backup stays as it is.
  const copy = join(partial, databaseName)
  copyFileSync(join(source, databaseName), copy)
  const isElsewhere = database !== databaseIn(folder)
  let tables: readonly CopiedTable[] = expected.tables
  {
    await using restored = await openStore(copy, { migrations, clock })
    await requireContent(restored, expected.tables)
    if (isElsewhere) {
      await using target = await openStore(database, { migrations, clock })
      tables = await copyStore(restored, target)
    }
  }
  if (isElsewhere) for (const ending of ['', '-wal', '-shm']) rmSync(`${copy}${ending}`, { force: true })
  return tables
}

/** The database last: without it, what a kill left of a folder is no service. */
function inOrder(names: readonly string[]): string[] {
  return names.toSorted((a, b) => Number(a === databaseName) - Number(b === databaseName))
}

/** Where the objects of a backup are that it does not hold; undefined when it holds them. */
export function objectsElsewhere(source: string): string | undefined {
  return readManifest(source).objects_elsewhere
}

interface ObjectsPlan {
  readonly from?: string
  readonly elsewhere?: string
}

/** Objects in the data folder are copied with it; a folder elsewhere is copied too; a bucket cannot be. */
function objectsToCopy({ objects: url, folder, withoutObjects = false }: BackupOptions): ObjectsPlan {
  if (url === undefined) return {}
  const path = url.startsWith('file://') ? fileURLToPath(url) : undefined
  if (path !== undefined && resolve(path) === resolve(folder, objectsName)) return {}
  if (withoutObjects) return { elsewhere: url }
  if (path !== undefined && existsSync(path)) return { from: path }
  throw new UserError(`The objects of this service are in ${url}, which a backup cannot hold.`, {
    failure: 'usage',
    fix: 'Keep copies of it by its own means (versions, replication), and give --without-objects.',
  })
}

/** Where {@link restoreBackup} puts the database of a data folder. */
export function databaseIn(folder: string): string {
  return join(folder, databaseName)
}

async function requireContent(store: Store, expected: readonly CopiedTable[]): Promise<void> {
  const found = new Map((await digestsOf(store)).map((table) => [table.table, table]))
  const wrong = expected.find(({ table, rows }) => (found.get(table)?.rows ?? 0) !== rows)
  if (wrong === undefined) return
  throw new UserError(
    `The table ${wrong.table} of the backup does not hold the ${wrong.rows} rows of its manifest.`,
    {
      fix: 'Take another backup.',
    },
  )
}

async function digestsOfFile(path: string, clock: Clock): Promise<CopiedTable[]> {
  const copy = `${path}.read`
  copyFileSync(path, copy)
  try {
    await using store = await connectStore(copy, { clock })
    return await digestsOf(store)
  } finally {
    for (const ending of ['', '-wal', '-shm']) rmSync(`${copy}${ending}`, { force: true })
  }
}

function readManifest(source: string): Manifest {
  try {
    return manifest.parse(readJsonFile(join(source, manifestName)))
  } catch (error) {
    throw new UserError(`${source} is no backup of Ropeway: ${messageOf(error)}`, {
      failure: 'usage',
      fix: 'Give a folder that `ropeway backup` made.',
      cause: error,
    })
  }
}

/** What of the data folder was passed over. Throws UserError when that is more than what jobs made, or what went meanwhile. */
function copyFiles(folder: string, target: string): PassedOver[] {
  if (!existsSync(folder)) return []
  const copy = new TreeCopy(leftOut)
  // A part of the folder that is a link to another disk is a part of the service all the same.
  for (const name of readdirSync(folder)) copy.copy(realPath(join(folder, name)), join(target, name), name)
  const unreadable = copy.passedOver.find(
    ({ path, why }) => why === 'unreadable' && !path.startsWith(`${jobsName}${sep}`),
  )
  if (unreadable !== undefined) throw cannotRead(join(folder, unreadable.path))
  return copy.passedOver
}

function copyObjects(from: string, target: string): PassedOver[] {
  const copy = new TreeCopy()
  copy.copy(realPath(from), target)
  const [unreadable] = copy.passedOver.filter(({ why }) => why === 'unreadable')
  if (unreadable !== undefined) throw cannotRead(join(from, unreadable.path))
  return copy.passedOver
}

function cannotRead(path: string): UserError {
  return new UserError(`${path} cannot be read, and a backup without it would not be whole.`, {
    fix: 'Run this as the user of the service.',
  })
}

function requireHash(path: string, expected: string): void {
  const found = existsSync(path) ? hashOfFile(path) : undefined
  if (found === expected) return
  const what = found === undefined ? 'is missing' : 'is not what its manifest says: it was changed or cut off'
  throw new UserError(`The backup is not whole: ${path} ${what}.`, { fix: 'Take another backup.' })
}

function refuseInside(target: string, folder: string, what: string): void {
  if (!`${realPath(target)}${sep}`.startsWith(`${realPath(folder)}${sep}`)) return
  throw new UserError(`${target} lies in ${what}.`, {
    failure: 'usage',
    fix: 'Name a folder elsewhere, on another disk at best.',
  })
}

/** With all links followed, as far as there is something. */
function realPath(path: string): string {
  const full = resolve(path)
  return existsSync(full) ? realpathSync(full) : join(realPath(dirname(full)), basename(full))
}
