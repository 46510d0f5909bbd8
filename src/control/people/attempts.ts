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
  const nowMs = store.clock.unixMs()
  const db = store.db<Tables>()
  await db
    .deleteFrom('attempts')
    .where('since', '<=', nowMs - attemptWindowMs)
    .execute()
  for (const name of [`account:${account}`, `address:${address}`])
    await db
      .insertInto('attempts')
      .values({ name, failures: 1, since: nowMs })
      .onConflict((conflict) =>
        conflict.column('name').doUpdateSet((is) => ({ failures: is('attempts.failures', '+', 1) })),
      )
      .execute()
}

export async function forgetFailures(store: Store, account: string): Promise<void> {
  await store.db<Tables>().deleteFrom('attempts').where('name', '=', `account:${account}`).execute()
}
