import type { z } from 'zod'
import {
  createKey,
  createOwnKey,
  editKey,
  listKeys,
  listOwnKeys,
  type newKey,
  revokeKey,
  revokeOwnKey,
} from '../../api/control/keys.ts'
import { Refused } from '../../api/control/problem.ts'
import { pageAnswer, pageAsked } from '../service/pages.ts'
import type { RouteModule } from '../service/routes.ts'
import type { Store } from '../store/store.ts'
import { endOfNew, refuseBounded, refuseUnscoped, refuseWider, roleOfNew } from './hand-on.ts'
import { addKey, changeKey, type KeyRow, keyById, listKeys as listRows, type NewKey } from './keys.ts'

export const keyRoutes: RouteModule = (serve, { store }) => {
  serve(listKeys, async ({ project, query }) =>
    pageAnswer(await listRows(store, { project: project.id }, pageAsked(query)), view),
  )
  serve(createKey, async ({ project, actor, body, audit }) => {
    await refuseWider(store, actor, body.scopes)
    return await make(store, audit, {
      name: body.name,
      person: actor.personId,
      project: project.id,
      roleMax: roleOfNew(project, body.role),
      scopes: body.scopes,
      limits: body.limits,
      ...endOfNew(store, actor, body.days),
    })
  })
  serve(editKey, async ({ project, params, actor, body, audit }) => {
    if (body.limits !== undefined) await refuseBounded(store, actor)
    const row = await keyOf(store, params.key, ({ project_id }) => project_id === project.id)
    return await store.transaction(async () => {
      const { name, limits } = body
      const changed = await changeKey(store, row.id, {
        ...(name !== undefined && { name }),
        ...(limits !== undefined && { limits_json: limits }),
      })
      await audit('key.edit', row.id, { ...body })
      return view(changed ?? row)
    })
  })
  serve(revokeKey, async ({ project, params, actor, audit }) => {
    const row = await keyOf(store, params.key, ({ project_id }) => project_id === project.id)
    if (row.person_id !== actor.personId && project.role !== 'admin' && project.role !== 'maintain')
      throw new Refused('forbidden', 'This key is of another person.', {
        fix: 'Whoever made it, or who maintains the project, can revoke it.',
      })
    await revoke(store, audit, row)
  })
  serve(listOwnKeys, async ({ actor, query }) => {
    if (actor.onlyProject !== undefined)
      throw new Refused('forbidden', 'A key of one project does not see those of others.')
    refuseUnscoped(actor, 'key:view')
    return pageAnswer(await listRows(store, { person: actor.personId }, pageAsked(query)), view)
  })
  serve(createOwnKey, async ({ actor, body, audit }) => {
    if (actor.onlyProject !== undefined)
      throw new Refused('forbidden', 'A key of one project cannot make keys for others.')
    refuseUnscoped(actor, 'key:create')
    await refuseWider(store, actor, body.scopes)
    return await make(store, audit, {
      name: body.name,
      person: actor.personId,
      scopes: body.scopes,
      limits: body.limits,
      ...endOfNew(store, actor, body.days),
    })
  })
  serve(revokeOwnKey, async ({ params, actor, audit }) => {
    const isOwn = (row: KeyRow) => row.person_id === actor.personId && row.project_id === null
    if (actor.onlyProject !== undefined)
      throw new Refused('forbidden', 'A key of one project may not do that.')
    refuseUnscoped(actor, 'key:delete')
    await revoke(store, audit, await keyOf(store, params.key, isOwn))
  })
}

type Audit = (action: string, subject: string, details?: Record<string, unknown>) => Promise<void>

async function make(store: Store, audit: Audit, key: NewKey): Promise<z.output<typeof newKey>> {
  return await store.transaction(async () => {
    const made = await addKey(store, key)
    await audit('key.create', made.row.id, { name: key.name, scopes: key.scopes })
    return { ...view(made.row), key: made.key }
  })
}

async function revoke(store: Store, audit: Audit, row: KeyRow): Promise<void> {
  await store.transaction(async () => {
    await changeKey(store, row.id, { revoked_at: store.clock.unixMs() })
    await audit('key.delete', row.id, { name: row.name })
  })
}

async function keyOf(store: Store, id: string, isMeant: (row: KeyRow) => boolean): Promise<KeyRow> {
  const row = await keyById(store, id)
  if (row !== undefined && row.revoked_at === null && isMeant(row)) return row
  throw new Refused('not_found', `There is no key ${id} here.`, { fix: 'ropeway key lists them.' })
}

function view(row: KeyRow) {
  const { id, name, shown, person_id: person, role_max: role, scopes_json, limits_json } = row
  const { created_at, expires_at, last_used_at } = row
  return {
    id,
    name,
    shown,
    person,
    role,
    scopes: [...scopes_json],
    limits: limits_json,
    created_at,
    expires_at,
    last_used_at,
  }
}
