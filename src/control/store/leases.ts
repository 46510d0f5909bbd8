/**
 * Who works on what, when several servers share a database: whoever writes its name into the row first, until a time.
 *
 * A lease keeps others from doing the same work, but a server that stood still may go on after its lease ended. So
 * taking one raises the row's `version`: what the earlier holder still writes by compare-and-set is refused. What is
 * done outside of the database must bear being done twice. Servers' clocks may differ by less than a lease's length.
 */
import { type Kysely, sql } from 'kysely'
import type { Condition, NounRow, Nouns } from './nouns.ts'
import type { Store } from './store.ts'

// biome-ignore lint/suspicious/noExplicitAny: the table's name is known only at run time
type AnyTables = any

export interface LeaseTerms {
  /** One running loop of one running server; two that share a name would share leases. */
  readonly owner: string
  readonly forMs: number
}

/** Takes up to `limit` rows that nobody holds and that satisfy `where`, oldest ids first; returns those taken. */
export async function takeRows<Row extends NounRow>(
  nouns: Nouns<Row>,
  { owner, forMs, limit, where }: LeaseTerms & { limit: number; where?: Condition },
): Promise<Row[]> {
  const { store, table } = nouns
  const nowMs = store.clock.unixMs()
  const db = store.db<AnyTables>()
  let free = db.selectFrom(table).select('id').where(isFree(nowMs))
  if (where !== undefined) free = free.where(where)
  // The condition stands twice: PostgreSQL asks it again of a row that another server changed meanwhile.
  const taken = await db
    .updateTable(table)
    .set({ lease_owner: owner, lease_until: nowMs + forMs, version: sql`version + 1` })
    .where('id', 'in', free.orderBy('id').limit(limit))
    .where(isFree(nowMs))
    .returningAll()
    .execute()
  return (taken as Row[]).sort((a, b) => (a.id < b.id ? -1 : 1))
}

/** Takes one row; undefined when somebody holds it, this owner included. */
export async function takeRow<Row extends NounRow>(
  nouns: Nouns<Row>,
  id: string,
  terms: LeaseTerms,
): Promise<Row | undefined> {
  const [row] = await takeRows(nouns, { ...terms, limit: 1, where: (is) => is.and([is('id', '=', id)]) })
  return row
}

/** Holds a row for longer; false when the lease has ended or is another's: stop working on it. */
export async function renewRow<Row extends NounRow>(
  { store, table }: Nouns<Row>,
  id: string,
  { owner, forMs }: LeaseTerms,
): Promise<boolean> {
  const nowMs = store.clock.unixMs()
  const { numUpdatedRows } = await store
    .db<AnyTables>()
    .updateTable(table)
    .set({ lease_until: nowMs + forMs })
    .where('id', '=', id)
    .where('lease_owner', '=', owner)
    .where('lease_until', '>', nowMs)
    .executeTakeFirstOrThrow()
  return numUpdatedRows > 0n
}

/** Lets others have the row at once. */
export async function giveUpRow<Row extends NounRow>(
  { store, table }: Nouns<Row>,
  id: string,
  owner: string,
): Promise<void> {
  await store
    .db<AnyTables>()
    .updateTable(table)
    .set({ lease_owner: null, lease_until: null })
    .where('id', '=', id)
    .where('lease_owner', '=', owner)
    .execute()
}

/** Ends the leases on these rows: for a server that alone works on them, after its predecessor's death. */
export async function endLeases<Row extends NounRow>(
  { store, table }: Nouns<Row>,
  where: Condition,
): Promise<void> {
  await store
    .db<AnyTables>()
    .updateTable(table)
    .set({ lease_owner: null, lease_until: null })
    .where('lease_owner', 'is not', null)
    .where(where)
    .execute()
}

/** Ends the leases on names of whoever was called so, or began so and then a slash: a predecessor that is dead. */
export async function endNamesOf(store: Store, owner: string): Promise<void> {
  await (store.db() as Kysely<AnyTables>)
    .deleteFrom('leases')
    .where((is) => is.and([is('lease_owner', '>=', `${owner}/`), is('lease_owner', '<', `${owner}0`)]))
    .execute()
}

/** Takes or renews a lease on a name, for work that only one server does (a scheduler); false when another has it. */
export async function takeName(store: Store, name: string, { owner, forMs }: LeaseTerms): Promise<boolean> {
  const nowMs = store.clock.unixMs()
  const lease = { lease_owner: owner, lease_until: nowMs + forMs }
  const taken = await (store.db() as Kysely<AnyTables>)
    .insertInto('leases')
    .values({ name, ...lease })
    .onConflict((conflict) =>
      conflict
        .column('name')
        .doUpdateSet(lease)
        .where((is) => is.or([is('leases.lease_until', '<=', nowMs), is('leases.lease_owner', '=', owner)])),
    )
    .returning('name')
    .executeTakeFirst()
  return taken !== undefined
}

export async function giveUpName(store: Store, name: string, owner: string): Promise<void> {
  await (store.db() as Kysely<AnyTables>)
    .deleteFrom('leases')
    .where('name', '=', name)
    .where('lease_owner', '=', owner)
    .execute()
}

function isFree(nowMs: number): Condition {
  return (is) => is.and([is.or([is('lease_until', 'is', null), is('lease_until', '<=', nowMs)])])
}
