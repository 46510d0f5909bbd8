/**
 * Codes that stand in for a lost authenticator app. Each works once; only hashes are stored, which suffices because a
 * code has 80 random bits.
 */
import { randomBytes } from 'node:crypto'
import { recoveryCodeCount } from '../../api/control/second-factor.ts'
import { sha256 } from '../service/tokens.ts'
import type { Migration } from '../store/migrations.ts'
import type { Store } from '../store/store.ts'
import { toBase32 } from './totp.ts'

const codeBytes = 10

interface Tables {
  recovery_codes: { person_id: string; code_sha256: string }
}

export const recoveryCodesMigration: Migration = {
  name: '0201-recovery-codes',
  async up(db, { text }) {
    await db.schema
      .createTable('recovery_codes')
      .addColumn('person_id', text, (column) => column.notNull().references('people.id').onDelete('cascade'))
      .addColumn('code_sha256', text, (column) => column.notNull())
      .addPrimaryKeyConstraint('recovery_codes_key', ['person_id', 'code_sha256'])
      .execute()
  },
}

/** New ones in place of all that there were; in a transaction with what else belongs to it. */
export async function renewCodes(store: Store, person: string): Promise<string[]> {
  await dropCodes(store, person)
  const codes = Array.from({ length: recoveryCodeCount }, () =>
    toBase32(randomBytes(codeBytes)).replace(/(.{4})(?=.)/g, '$1-'),
  )
  await store
    .db<Tables>()
    .insertInto('recovery_codes')
    .values(codes.map((code) => ({ person_id: person, code_sha256: hashOf(code) })))
    .execute()
  return codes
}

export async function dropCodes(store: Store, person: string): Promise<void> {
  await store.db<Tables>().deleteFrom('recovery_codes').where('person_id', '=', person).execute()
}

/** Uses the code up; how many are left, or undefined when it is none of theirs. */
export async function takeCode(store: Store, person: string, code: string): Promise<number | undefined> {
  // One statement: of two who try the same code at the same time, one gets in.
  const { numDeletedRows } = await store
    .db<Tables>()
    .deleteFrom('recovery_codes')
    .where('person_id', '=', person)
    .where('code_sha256', '=', hashOf(code))
    .executeTakeFirstOrThrow()
  if (numDeletedRows === 0n) return undefined
  const query = store.db<Tables>().selectFrom('recovery_codes').where('person_id', '=', person)
  return (await query.select((is) => is.fn.countAll<number>().as('count')).executeTakeFirstOrThrow()).count
}

/** As people type them: in any case, with or without dashes. */
function hashOf(code: string): string {
  return sha256(code.toUpperCase().replace(/[^A-Z2-7]/g, ''))
}
