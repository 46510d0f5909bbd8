import { addKey } from '../keys/keys.ts'
import { addOrganisation, addProject } from '../projects/projects.ts'
import type { Store } from '../store/store.ts'
import { addPerson, countPeople, type PersonRow } from './people.ts'

export const firstOrganisation = 'main'
export const firstProject = 'default'
export const ownerEmail = 'owner@localhost'

interface Tables {
  people: PersonRow
}

/**
 * On an empty database: somebody who runs the service, an organisation, a project, and a key that may do everything.
 * Undefined when there are people already; of several servers that start at once, one gets the key.
 */
export async function makeFirstOwner(store: Store, email = ownerEmail): Promise<{ key: string } | undefined> {
  return await store.transaction(async () => {
    if ((await countPeople(store)) > 0) return undefined
    const owner = await addPerson(store, { email, name: 'Owner', isOperator: true })
    if (owner === undefined) return undefined
    const organisation = await addOrganisation(store, { name: firstOrganisation, title: '', owner: owner.id })
    const home = { organisation: organisation!.id, admin: owner.id }
    await addProject(store, { name: firstProject, title: '', ...home })
    return await ownerKey(store, owner.id)
  })
}

/** Another key for who runs the service, when the first was lost; undefined when nobody does. */
export async function makeOwnerKey(store: Store): Promise<{ key: string } | undefined> {
  const query = store.db<Tables>().selectFrom('people').selectAll().where('is_operator', '=', 1)
  const owner = await query.where('disabled_at', 'is', null).orderBy('id').executeTakeFirst()
  return owner && (await ownerKey(store, owner.id))
}

async function ownerKey(store: Store, person: string): Promise<{ key: string }> {
  const { key } = await addKey(store, { name: 'owner', person, scopes: ['*'], limits: {} })
  return { key }
}
