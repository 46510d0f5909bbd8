import { type SelectQueryBuilder, sql } from 'kysely'
import { assert } from '../../base/assert.ts'
import { UserError } from '../../base/errors.ts'
import { jsonOf } from '../../base/json.ts'

/** A page of a list, and the cursor of the next one when there is more. */
export interface Page<Row> {
  readonly rows: Row[]
  readonly next?: string
}

export interface PageQuery {
  /** A column that is never null; ids sort by when they were made. */
  readonly sort?: string
  readonly descending?: boolean
  readonly limit: number
  /** {@link Page.next} of the page before, with the same sort and direction. */
  readonly cursor?: string
}

export const pageRowsMax = 1000

// biome-ignore lint/suspicious/noExplicitAny: any table, any selection
type Query<Row> = SelectQueryBuilder<any, any, Row>

/**
 * Reads one page by where the last one ended (keyset), so that page 1,000 costs what page 1 does and rows that come
 * or go meanwhile neither repeat nor hide others. It wants an index on what is filtered, then `sort`, then `id`.
 */
export async function readPage<Row extends { id: string }>(
  query: Query<Row>,
  { sort = 'id', descending = false, limit, cursor }: PageQuery,
): Promise<Page<Row>> {
  assert(limit >= 1 && limit <= pageRowsMax, `a page has 1 to ${pageRowsMax} rows`)
  const order = descending ? 'desc' : 'asc'
  const label = `${sort} ${order}`
  let paged = query.orderBy(sort, order).limit(limit + 1)
  if (sort !== 'id') paged = paged.orderBy('id', order)
  if (cursor !== undefined) {
    const [value, id] = readCursor(cursor, label)
    const compare = sql.raw(descending ? '<' : '>')
    paged =
      sort === 'id'
        ? paged.where(sql<boolean>`id ${compare} ${id}`)
        : paged.where(sql<boolean>`(${sql.ref(sort)}, id) ${compare} (${value}, ${id})`)
  }
  const rows = await paged.execute()
  if (rows.length <= limit) return { rows }
  rows.length = limit
  const last = rows[limit - 1]!
  return { rows, next: writeCursor(label, (last as Record<string, unknown>)[sort], last.id) }
}

/** The cursor of the page behind the row of this id, in a list by ids: for interfaces that page by ids. */
export function cursorAt(id: string, descending: boolean): string {
  return writeCursor(`id ${descending ? 'desc' : 'asc'}`, id, id)
}

function writeCursor(label: string, value: unknown, id: string): string {
  assert(value !== null && value !== undefined, 'lists are sorted by columns that are never null')
  return Buffer.from(JSON.stringify([label, value, id])).toString('base64url')
}

function readCursor(cursor: string, label: string): [string | number, string] {
  const parts = jsonOf(Buffer.from(cursor, 'base64url').toString('utf8'))
  if (Array.isArray(parts) && parts.length === 3) {
    const [given, value, id] = parts as unknown[]
    const isValue = typeof value === 'string' || (typeof value === 'number' && Number.isFinite(value))
    if (given === label && isValue && typeof id === 'string') return [value, id]
  }
  throw new UserError('The cursor is not one that this list gave, or it was given for another order.', {
    failure: 'usage',
    fix: 'Ask without a cursor for the first page, then give what the answer has as `next`.',
  })
}
