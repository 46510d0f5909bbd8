import {
  type Dialect,
  PostgresAdapter,
  PostgresDriver,
  PostgresIntrospector,
  PostgresQueryCompiler,
} from 'kysely'
import pg from 'pg'
import { assert } from '../../base/assert.ts'
import { type Watch, WatchedDriver } from './watched-driver.ts'

export const connectionsMax = 10
const connectWaitMs = 10_000
const statementMsMax = 60_000

export interface PostgresOptions {
  readonly onLost: (error: Error) => void
  readonly watch?: Watch | undefined
  /** All tables are looked for and made here instead of where the database says. Letters, digits and `_`. */
  readonly schema?: string | undefined
}

/** A pool of connections to PostgreSQL 13 or later. `onLost` hears of idle connections that broke. */
export function postgresDialect(url: string, { onLost, watch, schema }: PostgresOptions): Dialect {
  assert(schema === undefined || /^[a-z0-9_]+$/.test(schema), 'a schema needs no quotes')
  const pool = new pg.Pool({
    connectionString: url,
    max: connectionsMax,
    connectionTimeoutMillis: connectWaitMs,
    statement_timeout: statementMsMax,
    idle_in_transaction_session_timeout: statementMsMax,
    application_name: 'ropeway',
    ...(schema !== undefined && { options: `-c search_path=${schema}` }),
    types: { getTypeParser: parserOf },
  })
  pool.on('error', onLost)
  return {
    createAdapter: () => new PostgresAdapter(),
    createDriver: () => new WatchedDriver(new PostgresDriver({ pool }), watch),
    createIntrospector: (db) => new PostgresIntrospector(db),
    createQueryCompiler: () => new PostgresQueryCompiler(),
  }
}

/** bigint and numeric (sums of bigint) arrive as text; here they are numbers, as on SQLite. */
const wholeNumberTypes: ReadonlySet<number> = new Set([20, 1700])

const parserOf = ((type: number, format?: 'text' | 'binary') => {
  if (wholeNumberTypes.has(type)) return exactNumber
  return pg.types.getTypeParser(type, format as 'text')
}) as typeof pg.types.getTypeParser

function exactNumber(text: string): number {
  const value = Number(text)
  assert(
    !Number.isInteger(value) || Number.isSafeInteger(value),
    'whole numbers in the database are below 2^53',
  )
  return value
}
