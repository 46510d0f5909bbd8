/** What deeds on one's own account ask for first. */
import { Refused } from '../../api/control/problem.ts'
import type { Actor } from '../service/actor.ts'
import type { ServiceContext } from '../service/context.ts'
import { countFailure, refuseTooMany } from './attempts.ts'
import { verifyPassword } from './passwords.ts'
import type { PersonRow } from './people.ts'

export function requireSession(actor: Actor): void {
  if (actor.kind === 'session') return
  throw new Refused('forbidden', 'This needs a person who is logged in; a key may not do it.', {
    fix: 'ropeway login',
  })
}

export async function confirmPassword(
  { store, scrypt }: ServiceContext,
  person: PersonRow,
  password: string,
  address: string,
): Promise<void> {
  await refuseTooMany(store, person.email, address)
  if (await verifyPassword(password, person.password_hash ?? undefined, scrypt)) return
  await countFailure(store, person.email, address)
  throw new Refused('unauthenticated', 'The password is wrong.')
}

export async function must(change: Promise<PersonRow | undefined>): Promise<void> {
  if ((await change) === undefined)
    throw new Refused('conflict', 'Your account was changed elsewhere at the same moment.', {
      fix: 'Try again.',
    })
}
