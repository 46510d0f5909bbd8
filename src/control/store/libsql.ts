import {
  type CompiledQuery,
  type DatabaseConnection,
  type Dialect,
  type Driver,
  type QueryResult,
  SqliteAdapter,
  SqliteIntrospector,
  SqliteQueryCompiler,
} from 'kysely'
import Database from 'libsql'
import { messageOf, systemRefusal, UserError } from '../../base/errors.ts'
import { type Watch, WatchedDriver } from './watched-driver.ts'

/** How long a call waits for another process that writes, in milliseconds. */
const busyWaitMs = 10_000

/** A libsql file. What was committed survives SIGKILL and power loss: write-ahead log, synced at every commit. */
export function libsqlDialect(path: string, watch?: Watch): Dialect {
  return {
    createAdapter: () => new TransactionalAdapter(),
    createDriver: () => new WatchedDriver(new LibsqlDriver(path), watch),
    createIntrospector: (db) => new SqliteIntrospector(db),
    createQueryCompiler: () => new SqliteQueryCompiler(),
  }
}

/** SQLite does undo table changes; kysely leaves that off for drivers with several connections. */
class TransactionalAdapter extends SqliteAdapter {
  override get supportsTransactionalDdl(): boolean {
    return true
  }
}

/** One connection, lent to one user at a time. */
class LibsqlDriver implements Driver {
  readonly #path: string
  #database: Database.Database | undefined
  #connection: LibsqlConnection | undefined
  #lastUser: Promise<void> = Promise.resolve()
  #give: (() => void) | undefined

  constructor(path: string) {
    this.#path = path
  }

  async init(): Promise<void> {
    try {
      const database = new Database(this.#path)
      for (const pragma of [
        `busy_timeout = ${busyWaitMs}`,
        'journal_mode = WAL',
        'synchronous = FULL',
        'foreign_keys = ON',
      ])
        database.pragma(pragma)
      this.#database = database
      this.#connection = new LibsqlConnection(database)
    } catch (error) {
      const what = `The database ${this.#path} cannot be opened`
      const refusal = systemRefusal(error, what)
      if (refusal !== undefined) throw refusal
      throw new UserError(`${what}: ${messageOf(error)}`, {
        fix: 'Check that its folder exists, that you may write there, and that the file is a database of Ropeway.',
        cause: error,
      })
    }
  }

  async acquireConnection(): Promise<DatabaseConnection> {
    const before = this.#lastUser
    let give!: () => void
    this.#lastUser = new Promise((resolve) => {
      give = resolve
    })
    await before
    this.#give = give
    return this.#connection!
  }

  async releaseConnection(): Promise<void> {
    this.#give?.()
  }

  // A deferred transaction that reads first may find at its first write that another process has written.
  async beginTransaction(): Promise<void> {
    this.#database!.prepare('begin immediate').run()
  }

  async commitTransaction(): Promise<void> {
    this.#database!.prepare('commit').run()
  }

  async rollbackTransaction(): Promise<void> {
    // A failed commit may have ended the transaction.
    if (this.#database!.inTransaction) this.#database!.prepare('rollback').run()
  }

  async destroy(): Promise<void> {
    this.#database?.close()
    this.#database = undefined
  }
}

class LibsqlConnection implements DatabaseConnection {
  readonly #database: Database.Database

  constructor(database: Database.Database) {
    this.#database = database
  }

  async executeQuery<Row>({ sql, parameters }: CompiledQuery): Promise<QueryResult<Row>> {
    const statement = this.#database.prepare(sql)
    if (statement.reader) return { rows: statement.all(...parameters) as Row[] }
    const { changes } = statement.run(...parameters)
    return { rows: [], numAffectedRows: BigInt(changes) }
  }

  async *streamQuery<Row>({ sql, parameters }: CompiledQuery, rowsAtOnce: number) {
    let rows: Row[] = []
    for (const row of this.#database.prepare(sql).iterate(...parameters)) {
      rows.push(row as Row)
      if (rows.length < rowsAtOnce) continue
      yield { rows }
      rows = []
    }
    if (rows.length > 0) yield { rows }
  }
}
