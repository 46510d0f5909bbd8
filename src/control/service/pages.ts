import type { Page } from '../store/pages.ts'

/** A page of rows as the answer of a list. */
export function pageAnswer<Row, Item>({ rows, next }: Page<Row>, item: (row: Row) => Item) {
  return { items: rows.map(item), next: next ?? null }
}

/** The query of a list as the store takes it. */
export function pageAsked(query: { limit: number; cursor?: string | undefined }) {
  return { limit: query.limit, ...(query.cursor !== undefined && { cursor: query.cursor }) }
}
