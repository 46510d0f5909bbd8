/**
 * The database of the service: one libsql file, or PostgreSQL; the same code and the same answers on both.
 *
 * Each noun has a folder that owns its migration, its row type and its {@link Nouns}; this room knows none of them.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { mkdirSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { Kysely, type Transaction } from 'kysely'
import { type Clock, systemClock } from '../../base/clock.ts'
import { messageOf, UserError } from '../../base/errors.ts'
import { coreMigration } from './core-migration.ts'
import { type FillRandom, Ids } from './ids.ts'
import { kindOf, type StoreKind } from './kind.ts'
import { libsqlDialect } from './libsql.ts'
import { type Migration, migrate } from './migrations.ts'
import { postgresDialect } from './postgres.ts'
import type { Watch } from './watched-driver.ts'

export interface StoreOptions {
  /** Of every noun; this room adds its own. */
  readonly migrations: readonly Migration[]
  readonly clock?: Clock
  readonly random?: FillRandom
  /** Hears of broken idle connections; they are replaced without it. */
  readonly onLost?: (error: Error) => void
  readonly watch?: Watch
}

interface Running {
  transaction: Transaction<unknown> | undefined
  readonly afterCommit: (() => void)[]
}

export class Store implements AsyncDisposable {
  readonly kind: StoreKind
  readonly clock: Clock
  readonly ids: Ids
  readonly #root: Kysely<unknown>
  readonly #running = new AsyncLocalStorage<Running>()

  constructor(kind: StoreKind, root: Kysely<unknown>, clock: Clock, ids: Ids) {
    this.kind = kind
    this.clock = clock
    this.ids = ids
    this.#root = root
  }

  /** The database as tables of this shape: of the transaction around the caller, if there is one. */
  db<Tables>(): Kysely<Tables> {
    return (this.#running.getStore()?.transaction ?? this.#root) as unknown as Kysely<Tables>
  }

  /**
   * All or nothing: every {@link db} inside belongs to it, however deep; one inside another joins it. Await all that
   * is started inside. What throws undoes it all. An error of the commit itself leaves open whether it happened.
   */
  async transaction<Result>(work: () => Promise<Result>): Promise<Result> {
    if (this.#running.getStore()?.transaction !== undefined) return await work()
    const running: Running = { transaction: undefined, afterCommit: [] }
    const result = await this.#running.run(running, async () => {
      try {
        return await this.#root.transaction().execute((transaction) => {
          running.transaction = transaction
          return work()
        })
      } finally {
        // Whatever was started inside and still runs must not use what has ended.
        running.transaction = undefined
      }
    })
    for (const wake of running.afterCommit) this.#running.exit(wake)
    return result
  }

  /** Runs `wake` once what is being written is there for others to read; at once outside of a transaction. */
  afterCommit(wake: () => void): void {
    const running = this.#running.getStore()
    if (running?.transaction === undefined) wake()
    else running.afterCommit.push(wake)
  }

  async close(): Promise<void> {
    await this.#root.destroy()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

export type ConnectOptions = Omit<StoreOptions, 'migrations'> & {
  /** Of PostgreSQL: where all tables are, instead of the database's own place. */
  readonly schema?: string
}

/**
 * Opens the database at `url`: `postgres://...`, or the path of a libsql file, which is made with its folder when it
 * is not there; brings it up to date. Throws UserError when it cannot be reached or brought up to date.
 */
export async function openStore(url: string, { migrations, ...options }: StoreOptions): Promise<Store> {
  const store = await connectStore(url, options)
  try {
    await migrate(store.db(), store.kind, withCore(migrations))
  } catch (error) {
    await store.close()
    throw error
  }
  return store
}

/** This room's own migration and those of the nouns. */
export function withCore(migrations: readonly Migration[]): readonly Migration[] {
  return [coreMigration, ...migrations]
}

/** Opens a database as it is: for looking at it, copying it, trying something on it. */
export async function connectStore(url: string, options: ConnectOptions = {}): Promise<Store> {
  const clock = options.clock ?? systemClock
  const kind = kindOf(url)
  const root = new Kysely<unknown>({ dialect: dialectOf(kind, url, options) })
  try {
    await reach(root, kind)
  } catch (error) {
    await root.destroy()
    throw error
  }
  return new Store(kind, root, clock, new Ids(clock, options.random))
}

function dialectOf(kind: StoreKind, url: string, options: ConnectOptions) {
  const { onLost = () => undefined, watch, schema } = options
  if (kind === 'postgres') return postgresDialect(url, { onLost, watch, schema })
  const path = resolve(url)
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  return libsqlDialect(path, watch)
}

/** The first call opens the database; its failures are the user's to mend. The URL holds a password and is not shown. */
async function reach(root: Kysely<unknown>, kind: StoreKind): Promise<void> {
  try {
    await root.connection().execute(async () => undefined)
  } catch (error) {
    if (error instanceof UserError || kind === 'libsql') throw error
    throw new UserError(`PostgreSQL cannot be reached: ${messageOf(error)}`, {
      failure: 'unreachable',
      fix: 'Check the address, user, password and database in --database, and that the server runs.',
      cause: error,
    })
  }
}
