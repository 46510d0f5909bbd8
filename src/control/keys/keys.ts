import type { ProjectRole } from '../../api/control/permissions.ts'
import type { Logger } from '../../base/log.ts'
import { noteUse } from '../people/last-use.ts'
import type { PersonRow } from '../people/people.ts'
import { newToken, sha256 } from '../service/tokens.ts'
import { type Page, type PageQuery, readPage } from '../store/pages.ts'
import type { Store } from '../store/store.ts'

export const keyTokenPrefix = 'rwk_'
const shownCharacters = keyTokenPrefix.length + 6

/** Bounds on what one key may ask of the gateway; absent ones do not bound. */
export interface KeyLimits {
  readonly requestsPerMinute?: number | undefined
  readonly tokensPerMinute?: number | undefined
  readonly concurrent?: number | undefined
}

export interface KeyRow {
  readonly id: string
  readonly sha256: string
  readonly shown: string
  readonly name: string
  /** Who made it; it may do at most what this person may. */
  readonly person_id: string
  /** Null: in all projects of the person. */
  readonly project_id: string | null
  readonly role_max: ProjectRole | null
  readonly scopes_json: readonly string[]
  readonly limits_json: KeyLimits
  readonly version: number
  readonly created_at: number
  readonly expires_at: number | null
  readonly last_used_at: number | null
  readonly revoked_at: number | null
}

interface Tables {
  keys: KeyRow
  people: PersonRow
}

export interface NewKey {
  readonly name: string
  readonly person: string
  readonly project?: string
  readonly roleMax?: ProjectRole
  readonly scopes: readonly string[]
  readonly limits: KeyLimits
  readonly expiresAt?: number
}

/** The key itself is in the answer and nowhere else. */
export async function addKey(store: Store, key: NewKey): Promise<{ row: KeyRow; key: string }> {
  const token = newToken(keyTokenPrefix)
  const row = await store
    .db<Tables>()
    .insertInto('keys')
    .values({
      id: store.ids.next('key'),
      sha256: sha256(token),
      shown: token.slice(0, shownCharacters),
      name: key.name,
      person_id: key.person,
      project_id: key.project ?? null,
      role_max: key.roleMax ?? null,
      scopes_json: key.scopes,
      limits_json: key.limits,
      version: 1,
      created_at: store.clock.unixMs(),
      expires_at: key.expiresAt ?? null,
      last_used_at: null,
      revoked_at: null,
    })
    .returningAll()
    .executeTakeFirstOrThrow()
  return { row, key: token }
}

/** The key with this SHA-256 and its person; undefined when it is unknown, revoked, expired or its person disabled. */
export async function keyByHash(
  store: Store,
  hash: string,
  log: Pick<Logger, 'warn'>,
): Promise<{ key: KeyRow; person: PersonRow } | undefined> {
  const nowMs = store.clock.unixMs()
  const key = await store
    .db<Tables>()
    .selectFrom('keys')
    .selectAll()
    .where('sha256', '=', hash)
    .where('revoked_at', 'is', null)
    .where((is) => is.or([is('expires_at', 'is', null), is('expires_at', '>', nowMs)]))
    .executeTakeFirst()
  if (key === undefined) return undefined
  const person = await store
    .db<Tables>()
    .selectFrom('people')
    .selectAll()
    .where('id', '=', key.person_id)
    .where('disabled_at', 'is', null)
    .executeTakeFirst()
  if (person === undefined) return undefined
  await noteUse(store, log, key.last_used_at, (last_used_at) =>
    store.db<Tables>().updateTable('keys').set({ last_used_at }).where('id', '=', key.id).execute(),
  )
  return { key, person }
}

export async function keyById(store: Store, id: string): Promise<KeyRow | undefined> {
  return await store.db<Tables>().selectFrom('keys').selectAll().where('id', '=', id).executeTakeFirst()
}

/** Keys of a project, or those of a person that are of none. */
export async function listKeys(
  store: Store,
  of: { project: string } | { person: string },
  page: PageQuery,
): Promise<Page<KeyRow>> {
  const query = store.db<Tables>().selectFrom('keys').selectAll().where('revoked_at', 'is', null)
  if ('project' in of) return await readPage(query.where('project_id', '=', of.project), page)
  return await readPage(query.where('person_id', '=', of.person).where('project_id', 'is', null), page)
}

export async function changeKey(
  store: Store,
  id: string,
  changes: Partial<Pick<KeyRow, 'name' | 'scopes_json' | 'limits_json' | 'expires_at' | 'revoked_at'>>,
): Promise<KeyRow | undefined> {
  return await store
    .db<Tables>()
    .updateTable('keys')
    .set((is) => ({ ...changes, version: is('version', '+', 1) }))
    .where('id', '=', id)
    .where('revoked_at', 'is', null)
    .returningAll()
    .executeTakeFirst()
}
