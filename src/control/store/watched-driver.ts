import type {
  CompiledQuery,
  DatabaseConnection,
  Driver,
  QueryCompiler,
  QueryResult,
  TransactionSettings,
} from 'kysely'
import { fromDatabase, toDatabase } from './values.ts'

/** Stands around every call of a database, `begin` and `commit` too: tests fail or kill there. */
export type Watch = <Result>(sql: string, call: () => Promise<Result>) => Promise<Result>

const unwatched: Watch = (_, call) => call()

/** Any driver, with the values of values.ts going in and out and a watch around each call. */
export class WatchedDriver implements Driver {
  readonly #inner: Driver
  readonly #watch: Watch
  readonly #connections = new WeakMap<DatabaseConnection, WatchedConnection>()

  constructor(inner: Driver, watch: Watch = unwatched) {
    this.#inner = inner
    this.#watch = watch
  }

  init(): Promise<void> {
    return this.#inner.init()
  }

  async acquireConnection(): Promise<DatabaseConnection> {
    const inner = await this.#inner.acquireConnection()
    let connection = this.#connections.get(inner)
    if (connection === undefined) {
      connection = new WatchedConnection(inner, this.#watch)
      this.#connections.set(inner, connection)
    }
    return connection
  }

  async beginTransaction(connection: DatabaseConnection, settings: TransactionSettings): Promise<void> {
    const inner = innerOf(connection)
    try {
      await this.#watch('begin', () => this.#inner.beginTransaction(inner, settings))
    } catch (error) {
      // It may have begun: the next user of this connection must not write into a transaction that nobody ends.
      await this.#inner.rollbackTransaction(inner)
      throw error
    }
  }

  commitTransaction(connection: DatabaseConnection): Promise<void> {
    return this.#watch('commit', () => this.#inner.commitTransaction(innerOf(connection)))
  }

  rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    return this.#watch('rollback', () => this.#inner.rollbackTransaction(innerOf(connection)))
  }

  savepoint(connection: DatabaseConnection, name: string, compile: QueryCompiler['compileQuery']) {
    return this.#inner.savepoint!(innerOf(connection), name, compile)
  }

  rollbackToSavepoint(connection: DatabaseConnection, name: string, compile: QueryCompiler['compileQuery']) {
    return this.#inner.rollbackToSavepoint!(innerOf(connection), name, compile)
  }

  releaseSavepoint(connection: DatabaseConnection, name: string, compile: QueryCompiler['compileQuery']) {
    return this.#inner.releaseSavepoint!(innerOf(connection), name, compile)
  }

  releaseConnection(connection: DatabaseConnection): Promise<void> {
    return this.#inner.releaseConnection(innerOf(connection))
  }

  destroy(): Promise<void> {
    return this.#inner.destroy()
  }
}

class WatchedConnection implements DatabaseConnection {
  readonly inner: DatabaseConnection
  readonly #watch: Watch

  constructor(inner: DatabaseConnection, watch: Watch) {
    this.inner = inner
    this.#watch = watch
  }

  async executeQuery<Row>(query: CompiledQuery): Promise<QueryResult<Row>> {
    const bound = { ...query, parameters: query.parameters.map(toDatabase) }
    const result = await this.#watch(query.sql, () => this.inner.executeQuery<Row>(bound))
    fromDatabase(result.rows)
    return result
  }

  async *streamQuery<Row>(query: CompiledQuery, rows: number): AsyncIterableIterator<QueryResult<Row>> {
    const bound = { ...query, parameters: query.parameters.map(toDatabase) }
    for await (const result of this.inner.streamQuery<Row>(bound, rows)) {
      fromDatabase(result.rows)
      yield result
    }
  }
}

function innerOf(connection: DatabaseConnection): DatabaseConnection {
  return (connection as WatchedConnection).inner
}
