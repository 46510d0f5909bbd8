/**
 * What an actor may hand on to a key that it makes: at most what it has. A key is asked as itself, not as its person:
 * whoever finds one that may little must not come by one that may all.
 */
import {
  nouns,
  type Permission,
  type ProjectRole,
  projectRoles,
  scopesAllow,
  verbs,
} from '../../api/control/permissions.ts'
import { Refused } from '../../api/control/problem.ts'
import type { Actor, ProjectSeen } from '../service/actor.ts'
import type { Store } from '../store/store.ts'
import { usageTables } from '../usage/tables.ts'

const dayMs = 24 * 3600 * 1000

/** The role asked for, or the actor's own. Throws when that would be more than the actor is. */
export function roleOfNew({ role, name }: ProjectSeen, asked: ProjectRole = role): ProjectRole {
  if (projectRoles.indexOf(asked) <= projectRoles.indexOf(role)) return asked
  throw new Refused('forbidden', `In project ${name} you are ${role}, and a key is at most what you are.`, {
    param: 'role',
    fix: `Ask for the role ${role} or a lower one.`,
  })
}

/** A key that ends makes keys that end when it does, at the latest. */
export function endOfNew(store: Store, { endsAt }: Actor, days: number | undefined): { expiresAt?: number } {
  const asked = days === undefined ? Number.POSITIVE_INFINITY : store.clock.unixMs() + days * dayMs
  const expiresAt = Math.min(asked, endsAt ?? Number.POSITIVE_INFINITY)
  return Number.isFinite(expiresAt) ? { expiresAt } : {}
}

export async function refuseWider(store: Store, actor: Actor, scopes: readonly string[]): Promise<void> {
  refuseWiderScopes(actor, scopes)
  await refuseBounded(store, actor)
}

function refuseWiderScopes(actor: Actor, scopes: readonly string[]): void {
  const held = actor.scopes
  if (held === undefined || held.includes('*')) return
  const all = nouns.flatMap((noun) => verbs.map((verb): Permission => `${noun}:${verb}`))
  const wider = all.find((permission) => scopesAllow(scopes, permission) && !scopesAllow(held, permission))
  if (wider === undefined) return
  throw new Refused('forbidden', `The key that asks has not the scope ${wider} itself.`, {
    fix: 'Ask with a session, or with a key of wider scopes.',
  })
}

/** Limits and budgets count for one key: several that one of them made would have as much each. */
export async function refuseBounded(store: Store, actor: Actor): Promise<void> {
  if (actor.kind !== 'key') return
  const isBounded = actor.isLimited === true || (await hasBudget(store, actor.id))
  if (!isBounded) return
  throw new Refused(
    'forbidden',
    'A key that has limits or a budget neither makes keys nor changes their limits.',
    { fix: 'Ask with a session, or with a key without limits.' },
  )
}

async function hasBudget(store: Store, key: string): Promise<boolean> {
  const query = usageTables(store).selectFrom('budgets').select('id').where('key_id', '=', key)
  return (await query.limit(1).executeTakeFirst()) !== undefined
}

/** For what is asked outside of a project, where nothing else looks at scopes. */
export function refuseUnscoped(actor: Actor, permission: Permission): void {
  if (actor.scopes === undefined || scopesAllow(actor.scopes, permission)) return
  throw new Refused('forbidden', `The scopes of this key do not include ${permission}.`, {
    fix: `Use a key with the scope ${permission}.`,
  })
}
