/**
 * Codes that sign a browser in as somebody who is known already, on the command line. Each works once and for minutes;
 * only hashes are stored, which suffices because a code has 256 random bits.
 */
import { newToken, sha256 } from '../service/tokens.ts'
import type { Migration } from '../store/migrations.ts'
import type { Store } from '../store/store.ts'
import type { PersonRow } from './people.ts'

const codePrefix = 'rwb_'
const codeMs = 5 * 60_000

interface CodeRow {
  readonly code_sha256: string
  readonly person_id: string
  readonly expires_at: number
  /** When the session ends at the latest; null where nothing ends it early. */
  readonly session_until: number | null
}

interface Tables {
  sign_in_codes: CodeRow
  people: PersonRow
}

export const signInCodesMigration: Migration = {
  name: '0202-sign-in-codes',
  async up(db, { text, integer }) {
    await db.schema
      .createTable('sign_in_codes')
      .addColumn('code_sha256', text, (column) => column.primaryKey())
      .addColumn('person_id', text, (column) => column.notNull().references('people.id').onDelete('cascade'))
      .addColumn('expires_at', integer, (column) => column.notNull())
      .execute()
  },
}

/** A key that ends must not make a session that outlives it. */
export const sessionEndsMigration: Migration = {
  name: '0203-sign-in-code-ends',
  async up(db, { integer }) {
    await db.schema.alterTable('sign_in_codes').addColumn('session_until', integer).execute()
  },
}

/** In a transaction with what is written down of it. Codes that nobody used in time go with the next. */
export async function addSignInCode(
  store: Store,
  person: string,
  sessionEndsAt: number | undefined,
): Promise<{ code: string; expiresAt: number }> {
  const code = newToken(codePrefix)
  const nowMs = store.clock.unixMs()
  const expiresAt = nowMs + codeMs
  const db = store.db<Tables>()
  await db.deleteFrom('sign_in_codes').where('expires_at', '<=', nowMs).execute()
  await db
    .insertInto('sign_in_codes')
    .values({
      ...{ code_sha256: sha256(code), person_id: person, expires_at: expiresAt },
      session_until: sessionEndsAt ?? null,
    })
    .execute()
  return { code, expiresAt }
}

/** Uses the code up; whose it was, or undefined when it is none, was used, has expired, or its person was disabled. */
export async function takeSignInCode(
  store: Store,
  code: string,
): Promise<{ person: PersonRow; endsAt?: number } | undefined> {
  const db = store.db<Tables>()
  // One statement: of two who try the same code at the same time, one gets in.
  const taken = await db
    .deleteFrom('sign_in_codes')
    .where('code_sha256', '=', sha256(code))
    .where('expires_at', '>', store.clock.unixMs())
    .returning(['person_id', 'session_until'])
    .executeTakeFirst()
  if (taken === undefined) return undefined
  const query = db.selectFrom('people').selectAll().where('id', '=', taken.person_id)
  const person = await query.where('disabled_at', 'is', null).executeTakeFirst()
  const { session_until: endsAt } = taken
  return person && { person, ...(endsAt !== null && { endsAt }) }
}
