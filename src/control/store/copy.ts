/**
 * Copies everything that one database holds into another, empty one, of either kind, and checks that it arrived.
 *
 * Both must have had the same migrations. The source is read in one transaction: what is written meanwhile is not
 * copied, and what is copied belongs together.
 */
import { createHash } from 'node:crypto'
import { type Kysely, sql } from 'kysely'
import { UserError } from '../../base/errors.ts'
import type { Store } from './store.ts'
import { isJsonColumn } from './values.ts'

/** Rows of one insert; SQLite takes 32,766 parameters. */
const rowsAtOnce = 200

// biome-ignore lint/suspicious/noExplicitAny: tables are whatever there are
type AnyTables = any
type Row = Record<string, unknown>

export interface CopiedTable {
  readonly table: string
  readonly rows: number
  /** Of all rows, in no order: the sum of their SHA-256, in hex. */
  readonly digest: string
}

/** Throws UserError when `to` is not empty, or does not hold afterwards what `from` did; `to` is left empty then. */
export async function copyStore(from: Store, to: Store): Promise<CopiedTable[]> {
  const copied: CopiedTable[] = []
  await to.transaction(async () => {
    const tables = await tablesOf(to)
    for (const table of tables) await refuseFull(to, table)
    await reading(from, async () => {
      await requireSameTables(tables, await tablesOf(from))
      for (const table of tables) copied.push(await copyTable(from, to, table))
    })
    for (const { table, rows, digest } of copied) {
      const arrived = await digestOf(to, table)
      if (arrived.rows !== rows || arrived.digest !== digest)
        throw new UserError(
          `The table ${table} did not arrive as it was: ${arrived.rows} of ${rows} rows, or other values.`,
          {
            fix: 'Nothing was kept. Try again; if it stays so, report it.',
          },
        )
    }
  })
  return copied
}

/** Rows and digest of each table, in one transaction. */
export async function digestsOf(store: Store): Promise<CopiedTable[]> {
  return await reading(store, async () => {
    const digests: CopiedTable[] = []
    for (const table of await tablesOf(store)) digests.push({ table, ...(await digestOf(store, table)) })
    return digests
  })
}

/** A transaction whose reads all see one moment. */
async function reading<Result>(store: Store, work: () => Promise<Result>): Promise<Result> {
  return await store.transaction(async () => {
    if (store.kind === 'postgres')
      await sql`set transaction isolation level repeatable read`.execute(store.db())
    return await work()
  })
}

/** In the order in which they were made, so that what refers to others comes after them. */
async function tablesOf(store: Store): Promise<string[]> {
  const query =
    store.kind === 'libsql'
      ? sql<{
          name: string
        }>`select name from sqlite_master where type = 'table' and name not like 'sqlite\\_%' escape '\\'
          and name not like 'libsql\\_%' escape '\\' order by rowid`
      : sql<{
          name: string
        }>`select relname as name from pg_class join pg_namespace on relnamespace = pg_namespace.oid
          where relkind = 'r' and nspname = current_schema() order by pg_class.oid`
  const { rows } = await query.execute(store.db())
  return rows.map(({ name }) => name).filter((name) => !name.startsWith('kysely_'))
}

async function requireSameTables(to: readonly string[], from: readonly string[]): Promise<void> {
  const missing = from.filter((table) => !to.includes(table))
  if (missing.length === 0 && from.length === to.length) return
  throw new UserError(
    `The two databases are not of the same version: ${missing.join(', ') || 'tables are missing'}.`,
    {
      fix: 'Start the service once on the older one with this version of Ropeway, so that it is brought up to date.',
    },
  )
}

async function refuseFull(store: Store, table: string): Promise<void> {
  const found = await (store.db() as Kysely<AnyTables>)
    .selectFrom(table)
    .select(sql`1`.as('one'))
    .limit(1)
    .execute()
  if (found.length === 0) return
  throw new UserError(`The database to copy into is not empty: ${table} has rows.`, {
    failure: 'conflict',
    fix: 'Give a new, empty database.',
  })
}

async function copyTable(from: Store, to: Store, table: string): Promise<CopiedTable> {
  const digest = new Digest()
  for await (const rows of batches(from, table)) {
    for (const row of rows) digest.add(row)
    await (to.db() as Kysely<AnyTables>).insertInto(table).values(rows.map(withJsonText)).execute()
  }
  return { table, rows: digest.rows, digest: digest.hex() }
}

/** As text also where the JSON is a text or a number itself. */
function withJsonText(row: Row): Row {
  const columns = Object.entries(row).map(([name, value]) => [
    name,
    isJsonColumn(name) && value !== null ? JSON.stringify(value) : value,
  ])
  return Object.fromEntries(columns)
}

async function digestOf(store: Store, table: string): Promise<{ rows: number; digest: string }> {
  const digest = new Digest()
  for await (const rows of batches(store, table)) for (const row of rows) digest.add(row)
  return { rows: digest.rows, digest: digest.hex() }
}

/** All rows, some at a time. Within a transaction. */
async function* batches(store: Store, table: string): AsyncGenerator<Row[]> {
  const db = store.db() as Kysely<AnyTables>
  if (store.kind === 'libsql') {
    let after = -1
    for (;;) {
      const rows = (await db
        .selectFrom(table)
        .selectAll()
        .select(sql<number>`rowid`.as('ropeway_rowid'))
        .where(sql<boolean>`rowid > ${after}`)
        .orderBy(sql`rowid`)
        .limit(rowsAtOnce)
        .execute()) as (Row & { ropeway_rowid: number })[]
      if (rows.length === 0) return
      after = rows.at(-1)!.ropeway_rowid
      yield rows.map(({ ropeway_rowid: _, ...row }) => row)
    }
  }
  await sql`declare ropeway_copy no scroll cursor for select * from ${sql.table(table)}`.execute(db)
  for (;;) {
    const { rows } = await sql<Row>`fetch forward ${sql.lit(rowsAtOnce)} from ropeway_copy`.execute(db)
    if (rows.length === 0) break
    yield rows
  }
  await sql`close ropeway_copy`.execute(db)
}

/** A sum over rows that does not depend on their order, nor on the order of their columns. */
class Digest {
  rows = 0
  #sum = 0n

  add(row: Row): void {
    const sorted = Object.fromEntries(Object.entries(row).sort(([a], [b]) => (a < b ? -1 : 1)))
    const hash = createHash('sha256').update(JSON.stringify(sorted)).digest('hex')
    this.#sum = BigInt.asUintN(256, this.#sum + BigInt(`0x${hash}`))
    this.rows++
  }

  hex(): string {
    return this.#sum.toString(16).padStart(64, '0')
  }
}
