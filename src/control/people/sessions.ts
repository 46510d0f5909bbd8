import type { Logger } from '../../base/log.ts'
import { newToken, sha256 } from '../service/tokens.ts'
import type { Store } from '../store/store.ts'
import { noteUse } from './last-use.ts'
import type { PersonRow } from './people.ts'

export const sessionTokenPrefix = 'rws_'
const sessionDays = 30
export const sessionMs = sessionDays * 24 * 3600 * 1000

export interface SessionRow {
  readonly id: string
  readonly token_sha256: string
  readonly person_id: string
  readonly created_at: number
  readonly expires_at: number
  readonly last_used_at: number
  /** What logged in: a program's name, as it calls itself. */
  readonly client: string
}

interface Tables {
  sessions: SessionRow
  people: PersonRow
}

/** The token is in the answer and nowhere else. */
export async function openSession(
  store: Store,
  personId: string,
  client: string,
  endsAt = Number.POSITIVE_INFINITY,
): Promise<{ id: string; token: string; expiresAt: number }> {
  const token = newToken(sessionTokenPrefix)
  const id = store.ids.next('session')
  const nowMs = store.clock.unixMs()
  const expiresAt = Math.min(nowMs + sessionMs, endsAt)
  await store
    .db<Tables>()
    .insertInto('sessions')
    .values({
      id,
      token_sha256: sha256(token),
      person_id: personId,
      created_at: nowMs,
      expires_at: expiresAt,
      last_used_at: nowMs,
      client,
    })
    .execute()
  return { id, token, expiresAt }
}

/** Whose token this is; undefined when it is nobody's, has expired, or its person was disabled. */
export async function personOfToken(
  store: Store,
  token: string,
  log: Pick<Logger, 'warn'>,
): Promise<{ session: string; person: PersonRow } | undefined> {
  const nowMs = store.clock.unixMs()
  const found = await store
    .db<Tables>()
    .selectFrom('sessions')
    .innerJoin('people', 'people.id', 'sessions.person_id')
    .selectAll('people')
    .select(['sessions.id as session', 'sessions.last_used_at as used'])
    .where('sessions.token_sha256', '=', sha256(token))
    .where('sessions.expires_at', '>', nowMs)
    .where('people.disabled_at', 'is', null)
    .executeTakeFirst()
  if (found === undefined) return undefined
  const { session, used, ...person } = found
  await noteUse(store, log, used, (last_used_at) =>
    store.db<Tables>().updateTable('sessions').set({ last_used_at }).where('id', '=', session).execute(),
  )
  return { session, person }
}

export async function sessionsOf(store: Store, personId: string): Promise<SessionRow[]> {
  const query = store.db<Tables>().selectFrom('sessions').selectAll().where('person_id', '=', personId)
  return await query
    .where('expires_at', '>', store.clock.unixMs())
    .orderBy('id', 'desc')
    .limit(1000)
    .execute()
}

export async function closeSession(store: Store, personId: string, id: string): Promise<boolean> {
  const { numDeletedRows } = await store
    .db<Tables>()
    .deleteFrom('sessions')
    .where('id', '=', id)
    .where('person_id', '=', personId)
    .executeTakeFirstOrThrow()
  return numDeletedRows > 0n
}

/** After a change of password: whoever else is signed in must sign in again. */
export async function closeOtherSessions(store: Store, personId: string, keep: string): Promise<void> {
  await store
    .db<Tables>()
    .deleteFrom('sessions')
    .where('person_id', '=', personId)
    .where('id', '!=', keep)
    .execute()
}

export async function closeAllSessions(store: Store, personId: string): Promise<void> {
  await store.db<Tables>().deleteFrom('sessions').where('person_id', '=', personId).execute()
}
