import { DEFAULT_MIGRATION_TABLE, type Kysely, Migrator, sql } from 'kysely'
import { assert } from '../../base/assert.ts'
import { messageOf, systemRefusal, UserError } from '../../base/errors.ts'
import type { StoreKind } from './kind.ts'

/** Column types that mean the same on both databases. */
export interface ColumnTypes {
  /** Sorts by bytes on both; PostgreSQL would sort by the database's language. */
  readonly text: ReturnType<typeof sql>
  /** Whole numbers and times. */
  readonly integer: 'bigint'
  readonly real: 'double precision'
  /** Text; its column's name must say that it is JSON (values.ts). */
  readonly json: 'text'
}

export interface Migration {
  /** Orders them: `0300-jobs`. Once landed, neither its name nor what it does may change. */
  readonly name: string
  // biome-ignore lint/suspicious/noExplicitAny: a migration speaks of tables as they were then, not as types say now
  up(db: Kysely<any>, types: ColumnTypes): Promise<void>
}

const types: { readonly [Kind in StoreKind]: ColumnTypes } = {
  libsql: { text: sql`text`, integer: 'bigint', real: 'double precision', json: 'text' },
  postgres: { text: sql`text collate "C"`, integer: 'bigint', real: 'double precision', json: 'text' },
}

/** Names of those that ran on this database; none on an empty one. */
export async function appliedMigrations(db: Kysely<unknown>): Promise<string[]> {
  const tables = await db.introspection.getTables({ withInternalKyselyTables: true })
  if (!tables.some(({ name }) => name === DEFAULT_MIGRATION_TABLE)) return []
  const known = db as unknown as Kysely<{ kysely_migration: { name: string } }>
  return (await known.selectFrom(DEFAULT_MIGRATION_TABLE).select('name').execute()).map(({ name }) => name)
}

/**
 * Brings the database up to date, in one transaction; several servers may try at the same time. Returns the names
 * of those that ran. Throws UserError naming the one that failed; nothing has changed then.
 */
export async function migrate(
  db: Kysely<unknown>,
  kind: StoreKind,
  migrations: readonly Migration[],
  schema?: string,
): Promise<string[]> {
  const byName = new Map(migrations.map((migration) => [migration.name, migration]))
  // A noun that stands on another's tables brings their migrations too.
  assert(byName.size === new Set(migrations).size, 'migrations have different names')
  const migrator = new Migrator({
    db,
    // Its own tables are looked for by name in all schemas, unless one is named.
    ...(schema !== undefined && { migrationTableSchema: schema }),
    // Nouns bring their own, and a later release may bring one that sorts before another's.
    allowUnorderedMigrations: true,
    provider: {
      getMigrations: async () =>
        Object.fromEntries(
          migrations.map(({ name, up }) => [
            name,
            { up: (inner: Kysely<unknown>) => up(inner, types[kind]) },
          ]),
        ),
    },
  })
  const { error, results } = await migrator.migrateToLatest()
  if (error !== undefined) {
    const failed = results?.find(({ status }) => status === 'Error')?.migrationName
    const what = `The database was left as it was: ${failed === undefined ? 'bringing it up to date' : failed} failed`
    const refusal = systemRefusal(error, what)
    if (refusal !== undefined) throw refusal
    throw new UserError(`${what}: ${messageOf(error)}`, {
      fix: 'If a newer Ropeway has used this database, use that one; otherwise restore a backup or report this.',
      cause: error,
    })
  }
  return (results ?? []).map(({ migrationName }) => migrationName)
}
