import { type Page, type PageQuery, readPage } from '../store/pages.ts'
import type { Store } from '../store/store.ts'

/** Who did what to what, when and from where. Written with the deed, never changed. */
export interface AuditRow {
  readonly id: string
  readonly at: number
  readonly organisation_id: string | null
  readonly project_id: string | null
  readonly person_id: string | null
  /** The session or key that was used. */
  readonly actor_id: string | null
  /** Noun and verb: `key.create`. */
  readonly action: string
  /** Id of what it was done to. */
  readonly subject: string
  readonly address: string
  readonly request_id: string
  /** No secrets. */
  readonly details: Readonly<Record<string, unknown>>
}

interface Tables {
  audit: AuditRow
}

export type NewAudit = Omit<AuditRow, 'id' | 'at'>

export async function recordAudit(store: Store, entry: NewAudit): Promise<void> {
  const row = { id: store.ids.next('audit'), at: store.clock.unixMs(), ...entry }
  await store.db<Tables>().insertInto('audit').values(row).execute()
}

/** Of a project, of an organisation with its projects, or `everywhere`. */
export async function listAudit(
  store: Store,
  of: { project_id: string } | { organisation_id: string } | 'everywhere',
  page: PageQuery,
): Promise<Page<AuditRow>> {
  const query = store.db<Tables>().selectFrom('audit').selectAll()
  if (of === 'everywhere') return await readPage(query, page)
  const [[column, id]] = Object.entries(of) as [['project_id' | 'organisation_id', string]]
  return await readPage(query.where(column, '=', id), page)
}
