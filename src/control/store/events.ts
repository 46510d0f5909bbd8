import { type Page, type PageQuery, readPage } from './pages.ts'
import type { Store } from './store.ts'
import { storable } from './values.ts'

/** Something that happened to something; never changed. `why` is answered from these. */
export interface EventRow {
  readonly id: string
  /** Id of the job, deployment, person ... that it happened to. */
  readonly subject_id: string
  readonly project_id: string | null
  /** Unix milliseconds. */
  readonly at: number
  /** In the noun's own closed set: `job.waiting`, `deployment.rolled_back`. */
  readonly kind: string
  /** A sentence for people, with the reason. No secrets. */
  readonly message: string
  readonly details: Readonly<Record<string, unknown>>
}

interface Tables {
  events: EventRow
}

export interface NewEvent {
  readonly subject: string
  readonly project?: string
  readonly kind: string
  readonly message: string
  readonly details?: Readonly<Record<string, unknown>>
}

/** In a transaction with the change that it tells of, so that there is none without the other. */
export async function recordEvent(store: Store, event: NewEvent): Promise<void> {
  await store
    .db<Tables>()
    .insertInto('events')
    .values({
      id: store.ids.next('event'),
      subject_id: event.subject,
      project_id: event.project ?? null,
      at: store.clock.unixMs(),
      kind: event.kind,
      // It may quote a program, or a file.
      message: storable(event.message),
      details: event.details ?? {},
    })
    .execute()
}

/** Events of one subject, oldest first unless `descending`. */
export function eventsOf(store: Store, subject: string, page: PageQuery): Promise<Page<EventRow>> {
  return readPage(store.db<Tables>().selectFrom('events').selectAll().where('subject_id', '=', subject), page)
}

export function eventsOfProject(store: Store, project: string, page: PageQuery): Promise<Page<EventRow>> {
  return readPage(store.db<Tables>().selectFrom('events').selectAll().where('project_id', '=', project), page)
}

export async function hasEvent(store: Store, subject: string, id: string): Promise<boolean> {
  const query = store.db<Tables>().selectFrom('events').select('id')
  return (await query.where('id', '=', id).where('subject_id', '=', subject).executeTakeFirst()) !== undefined
}
