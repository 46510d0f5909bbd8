import { Refused } from '../../api/control/problem.ts'
import type { Store } from '../store/store.ts'

/** Failed log-ins in a row, by account and by address: after so many, a window long none is tried. */
export const failuresMax = { account: 10, address: 50 } as const
export const attemptWindowMs = 15 * 60_000

interface Tables {
  attempts: { name: string; failures: number; since: number }
}

/** Throws `rate_limited` when too many attempts on one of these failed lately. */
export async function refuseTooMany(store: Store, account: string, address: string): Promise<void> {
  const nowMs = store.clock.unixMs()
  const rows = await store
    .db<Tables>()
    .selectFrom('attempts')
    .selectAll()
    .where('name', 'in', [`account:${account}`, `address:${address}`])
    .where('since', '>', nowMs - attemptWindowMs)
    .execute()
  const tooMany = rows.find(
    ({ name, failures }) => failures >= failuresMax[name.startsWith('account:') ? 'account' : 'address'],
  )
  if (tooMany === undefined) return
  const minutes = Math.ceil((tooMany.since + attemptWindowMs - nowMs) / 60_000)
  throw new Refused('rate_limited', 'Too many log-ins failed.', {
    fix: `Try again in ${minutes} minutes; an owner can invite you anew.`,
  })
}

export async function countFailure(store: Store, account: string, address: string): Promise<void> {
  await count(store, [`account:${account}`, `address:${address}`])
}

async function count(store: Store, names: readonly string[]): Promise<void> {
  const nowMs = store.clock.unixMs()
  const db = store.db<Tables>()
  await db
    .deleteFrom('attempts')
    .where('since', '<=', nowMs - attemptWindowMs)
    .execute()
  for (const name of names)
    await db
      .insertInto('attempts')
      .values({ name, failures: 1, since: nowMs })
      .onConflict((conflict) =>
        conflict.column('name').doUpdateSet((is) => ({ failures: is('attempts.failures', '+', 1) })),
      )
      .execute()
}

/** Accounts that one address may ask for within a window: each costs a hash, and tells whether an address is taken. */
export const signUpsMax = 20

/** Counts a sign-up, whatever becomes of it; throws `rate_limited` when there were too many lately. */
export async function countSignUp(store: Store, address: string): Promise<void> {
  const name = `sign-up:${address}`
  await count(store, [name])
  const query = store.db<Tables>().selectFrom('attempts').selectAll().where('name', '=', name)
  const row = await query.executeTakeFirst()
  if (row === undefined || row.failures <= signUpsMax) return
  const minutes = Math.ceil((row.since + attemptWindowMs - store.clock.unixMs()) / 60_000)
  throw new Refused('rate_limited', 'Too many accounts were asked for from your address.', {
    fix: `Try again in ${minutes} minutes.`,
  })
}

export async function forgetFailures(store: Store, account: string): Promise<void> {
  await store.db<Tables>().deleteFrom('attempts').where('name', '=', `account:${account}`).execute()
}
