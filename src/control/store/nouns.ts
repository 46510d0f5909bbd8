import { type ExpressionBuilder, type Kysely, sql } from 'kysely'
import { assert } from '../../base/assert.ts'
import { UserError } from '../../base/errors.ts'
import type { Migration } from './migrations.ts'
import { type Page, type PageQuery, pageRowsMax, readPage } from './pages.ts'
import type { Store } from './store.ts'

/** What the row of every noun has. */
export interface NounRow {
  readonly id: string
  readonly project_id: string
  readonly name: string
  /** Goes up by one at every write; a write names the one that it read. */
  readonly version: number
  /** Unix milliseconds. */
  readonly created_at: number
  readonly updated_at: number
  readonly deleted_at: number | null
  /** Who works on the row, and until when nobody else does (Unix milliseconds). */
  readonly lease_owner: string | null
  readonly lease_until: number | null
  /** What the user asked for. */
  readonly spec: object
  /** What is. */
  readonly status: object
}

type OwnColumns = 'version' | 'created_at' | 'updated_at' | 'deleted_at' | 'lease_owner' | 'lease_until'

export type NewNoun<Row extends NounRow> = Omit<Row, OwnColumns | 'id'> & { readonly id?: string }
export type NounChanges<Row extends NounRow> = Partial<
  Omit<Row, 'id' | 'project_id' | 'version' | 'created_at' | 'updated_at' | 'lease_owner' | 'lease_until'>
>

// biome-ignore lint/suspicious/noExplicitAny: the table's name is known only at run time
type AnyTables = any

/** A condition on the rows of the table, in kysely's expressions. */
export type Condition = (is: ExpressionBuilder<AnyTables, AnyTables>) => ReturnType<typeof is.and>

export interface NounQuery extends PageQuery {
  readonly project?: string
  readonly where?: Condition
  /** `false`, unless said otherwise: those that were deleted are not listed. */
  readonly deleted?: boolean
}

/** How often {@link Nouns.change} begins again when others write at the same time. */
const changeTriesMax = 50

/** The table of one noun: rows of one shape, written by compare-and-set on `version`. */
export class Nouns<Row extends NounRow> {
  readonly store: Store
  readonly table: string
  readonly prefix: string

  /** `prefix` begins the ids: `job` gives `job_...`. */
  constructor(store: Store, table: string, prefix: string) {
    this.store = store
    this.table = table
    this.prefix = prefix
  }

  /** Undefined when the name (or the id, if given) is taken; the existing row is unchanged. */
  async insert(values: NewNoun<Row>): Promise<Row | undefined> {
    const nowMs = this.store.clock.unixMs()
    const row = {
      ...values,
      id: values.id ?? this.store.ids.next(this.prefix),
      version: 1,
      created_at: nowMs,
      updated_at: nowMs,
      deleted_at: null,
      lease_owner: null,
      lease_until: null,
    }
    const insert = this.#db().insertInto(this.table).values(row)
    const inserted = await insert
      .onConflict((conflict) => conflict.doNothing())
      .returningAll()
      .executeTakeFirst()
    return inserted as Row | undefined
  }

  /** By id, whether deleted or not. */
  async get(id: string): Promise<Row | undefined> {
    const query = this.#db().selectFrom(this.table).selectAll().where('id', '=', id)
    return (await query.executeTakeFirst()) as Row | undefined
  }

  /** By name, not deleted; the newest where names repeat. */
  async named(project: string, name: string): Promise<Row | undefined> {
    const query = this.#rows(project).where('name', '=', name).orderBy('id', 'desc').limit(1)
    return (await query.executeTakeFirst()) as Row | undefined
  }

  /**
   * What a person typed: a name, an id, or the beginning of either. A whole name or id wins; otherwise at most
   * `limit` rows that begin so, newest first: one means that it was unique.
   */
  async find(project: string, typed: string, limit = 10): Promise<Row[]> {
    const exact = this.#rows(project).where((is) => is.or([is('id', '=', typed), is('name', '=', typed)]))
    const rows = (await exact.orderBy('id', 'desc').limit(1).execute()) as Row[]
    if (rows.length > 0 || typed === '') return rows
    const begins = this.#rows(project).where((is) =>
      is.or([startsWith(is, 'name', typed), startsWith(is, 'id', typed)]),
    )
    return (await begins.orderBy('id', 'desc').limit(limit).execute()) as Row[]
  }

  async list({ project, where, deleted = false, ...page }: NounQuery): Promise<Page<Row>> {
    let query = this.#db()
      .selectFrom(this.table)
      .selectAll()
      .where('deleted_at', deleted ? 'is not' : 'is', null)
    if (project !== undefined) query = query.where('project_id', '=', project)
    if (where !== undefined) query = query.where(where)
    return (await readPage(query as never, page)) as Page<Row>
  }

  /** All rows of a list, read page by page. */
  async all(query: Omit<NounQuery, 'limit' | 'cursor'>): Promise<Row[]> {
    const rows: Row[] = []
    for (let cursor: string | undefined; ; ) {
      const page = await this.list({ ...query, limit: pageRowsMax, ...(cursor !== undefined && { cursor }) })
      rows.push(...page.rows)
      if (page.next === undefined) return rows
      cursor = page.next
    }
  }

  /** Writes over the row that was read; undefined when somebody has written since, and nothing changes. */
  async update(row: Pick<Row, 'id' | 'version'>, changes: NounChanges<Row>): Promise<Row | undefined> {
    const query = this.#db()
      .updateTable(this.table)
      .set({ ...changes, version: row.version + 1, updated_at: this.store.clock.unixMs() })
      .where('id', '=', row.id)
      .where('version', '=', row.version)
    return (await query.returningAll().executeTakeFirst()) as Row | undefined
  }

  /**
   * Reads, asks `change` what to write and writes it, again and again while others write in between. `change` may
   * run several times; undefined from it leaves the row alone. Returns the row as it is then, or undefined when there
   * is none.
   */
  async change(id: string, change: (row: Row) => NounChanges<Row> | undefined): Promise<Row | undefined> {
    for (let tries = 0; tries < changeTriesMax; tries++) {
      const row = await this.get(id)
      if (row === undefined) return undefined
      const changes = change(row)
      if (changes === undefined) return row
      const updated = await this.update(row, changes)
      if (updated !== undefined) return updated
    }
    assert(false, `one of ${changeTriesMax} writes of ${id} comes between those of others`)
  }

  /** Takes the row from the database for good. */
  async purge(id: string): Promise<boolean> {
    const { numDeletedRows } = await this.#db()
      .deleteFrom(this.table)
      .where('id', '=', id)
      .executeTakeFirstOrThrow()
    return numDeletedRows > 0n
  }

  #rows(project: string) {
    return this.#db()
      .selectFrom(this.table)
      .selectAll()
      .where('project_id', '=', project)
      .where('deleted_at', 'is', null)
  }

  #db(): Kysely<AnyTables> {
    return this.store.db<AnyTables>()
  }
}

/** A range that an index can answer, where LIKE with a parameter cannot; `typed` has no wildcards. */
/** For a condition of a query: the text of a column begins so. */
export function startsWith(is: ExpressionBuilder<AnyTables, AnyTables>, column: string, typed: string) {
  return is.and([
    is(column, '>=', typed),
    is(column, '<', `${typed}\u{10ffff}`),
    sql<boolean>`substr(${sql.ref(column)}, 1, ${[...typed].length}) = ${typed}`,
  ])
}

/** Refuses a change that was decided on by an earlier state of the row; without `version` it was not. */
export function holdToVersion(row: NounRow, version: number | undefined, what: string): void {
  if (version === undefined || version === row.version) return
  throw new UserError(
    `Somebody changed ${what} meanwhile: this is about version ${version}, it has ${row.version}.`,
    {
      failure: 'conflict',
      fix: 'Look at it as it is now, and change that.',
    },
  )
}

type TableBuilder = ReturnType<Kysely<AnyTables>['schema']['createTable']>

export interface NounTable {
  readonly table: string
  /** Whether two rows of a project that are not deleted may have the same name. */
  readonly uniqueNames: boolean
  /** What this noun filters or sorts by. */
  readonly columns?: (table: TableBuilder) => TableBuilder
}

/** For a migration: makes the table of a noun with its indices (by project and id, by name, by lease). */
export async function createNounTable(
  db: Kysely<AnyTables>,
  { text, integer, json }: Parameters<Migration['up']>[1],
  { table, uniqueNames, columns = (builder) => builder }: NounTable,
): Promise<void> {
  const base = db.schema
    .createTable(table)
    .addColumn('id', text, (column) => column.primaryKey())
    .addColumn('project_id', text, (column) => column.notNull())
    .addColumn('name', text, (column) => column.notNull())
    .addColumn('version', integer, (column) => column.notNull())
    .addColumn('created_at', integer, (column) => column.notNull())
    .addColumn('updated_at', integer, (column) => column.notNull())
    .addColumn('deleted_at', integer)
    .addColumn('lease_owner', text)
    .addColumn('lease_until', integer)
    .addColumn('spec', json, (column) => column.notNull())
    .addColumn('status', json, (column) => column.notNull())
  await columns(base).execute()
  await db.schema.createIndex(`${table}_by_project`).on(table).columns(['project_id', 'id']).execute()
  const names = db.schema.createIndex(`${table}_by_name`).on(table).columns(['project_id', 'name'])
  const live = sql<boolean>`deleted_at is null`
  await (uniqueNames ? names.unique().where(live) : names).execute()
}
