import { Refused } from '../../api/control/problem.ts'
import type { Store } from '../store/store.ts'

export interface PersonRow {
  readonly id: string
  readonly email: string
  readonly name: string
  readonly version: number
  readonly created_at: number
  readonly updated_at: number
  readonly disabled_at: number | null
  /** 1 for who runs the service. */
  readonly is_operator: number
  readonly password_hash: string | null
  readonly totp_sealed: string | null
  /** 1 once a first code was given: only then is one asked for. */
  readonly totp_confirmed: number
  readonly totp_last_step: number
  /** Issuer and subject at an OpenID provider. */
  readonly oidc_subject: string | null
}

interface Tables {
  people: PersonRow
}

export interface NewPerson {
  readonly email: string
  readonly name: string
  readonly passwordHash?: string
  readonly oidcSubject?: string
  readonly isOperator?: boolean
}

/** Undefined when somebody has this address. */
export async function addPerson(store: Store, person: NewPerson): Promise<PersonRow | undefined> {
  const nowMs = store.clock.unixMs()
  return await store
    .db<Tables>()
    .insertInto('people')
    .values({
      id: store.ids.next('person'),
      email: person.email.toLowerCase(),
      name: person.name,
      version: 1,
      created_at: nowMs,
      updated_at: nowMs,
      disabled_at: null,
      is_operator: person.isOperator === true ? 1 : 0,
      password_hash: person.passwordHash ?? null,
      totp_sealed: null,
      totp_confirmed: 0,
      totp_last_step: 0,
      oidc_subject: person.oidcSubject ?? null,
    })
    .onConflict((conflict) => conflict.doNothing())
    .returningAll()
    .executeTakeFirst()
}

export async function personById(store: Store, id: string): Promise<PersonRow | undefined> {
  return await store.db<Tables>().selectFrom('people').selectAll().where('id', '=', id).executeTakeFirst()
}

export async function personByEmail(store: Store, email: string): Promise<PersonRow | undefined> {
  const query = store.db<Tables>().selectFrom('people').selectAll()
  return await query.where('email', '=', email.toLowerCase()).executeTakeFirst()
}

export async function personBySubject(store: Store, subject: string): Promise<PersonRow | undefined> {
  const query = store.db<Tables>().selectFrom('people').selectAll()
  return await query.where('oidc_subject', '=', subject).executeTakeFirst()
}

/** By address or id. Throws `not_found`. */
export async function personMeant(store: Store, typed: string): Promise<PersonRow> {
  const person = typed.includes('@') ? await personByEmail(store, typed) : await personById(store, typed)
  if (person !== undefined) return person
  throw new Refused('not_found', `There is no person ${typed}.`, {
    fix: 'Give their address, or invite them.',
  })
}

export async function countPeople(store: Store): Promise<number> {
  const query = store.db<Tables>().selectFrom('people')
  return (await query.select((is) => is.fn.countAll<number>().as('count')).executeTakeFirstOrThrow()).count
}

type PersonChanges = Partial<
  Pick<
    PersonRow,
    | 'name'
    | 'disabled_at'
    | 'password_hash'
    | 'totp_sealed'
    | 'totp_confirmed'
    | 'totp_last_step'
    | 'oidc_subject'
  >
>

/** By compare-and-set; undefined when somebody has written since. */
export async function changePerson(
  store: Store,
  { id, version }: Pick<PersonRow, 'id' | 'version'>,
  changes: PersonChanges,
): Promise<PersonRow | undefined> {
  return await store
    .db<Tables>()
    .updateTable('people')
    .set({ ...changes, version: version + 1, updated_at: store.clock.unixMs() })
    .where('id', '=', id)
    .where('version', '=', version)
    .returningAll()
    .executeTakeFirst()
}
