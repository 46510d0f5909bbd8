/** Steps about clusters, projects, quotas and keys: where things are, and who may. */
import type { Client } from '../../api/control/client.ts'
import * as keys from '../../api/control/keys.ts'
import * as machines from '../../api/control/machine-endpoints.ts'
import type { ManifestOf } from '../../api/control/manifest.ts'
import * as projects from '../../api/control/projects.ts'
import { UserError } from '../../base/errors.ts'
import { all, meant } from '../noun.ts'
import { type Change, changing, creating, differences, type Planner, unlessMissing } from './plan.ts'

export const planCluster: Planner<'cluster'> = async ({ client }, { name, slots, open }) => {
  const { items } = await client.call(machines.listClusters, {})
  const known = items.find((cluster) => cluster.name === name)
  if (known === undefined)
    return creating(devicesText(slots), () =>
      client.call(machines.createCluster, { body: { name, slots, open } }),
    )
  return changing(differences({ slots: known.slots, open: known.open }, { slots, open }), () =>
    client.call(machines.editCluster, { params: { cluster: name }, body: { slots, open } }),
  )
}

function devicesText(slots: Readonly<Record<string, number>>): string {
  const parts = Object.entries(slots).map(([type, count]) => `${count} ${type}`)
  return parts.length === 0 ? 'without devices' : parts.join(', ')
}

export const planProject: Planner<'project'> = async ({ client }, wanted) => {
  const { name, title } = wanted
  const params = { project: name }
  const known = await unlessMissing(client.call(projects.viewProject, { params }))
  const members =
    known === undefined ? [] : (await client.call(projects.listProjectMembers, { params })).items
  const changes: Change[] = []
  if (known !== undefined && title !== undefined && title !== known.title)
    changes.push({ field: 'title', from: known.title, to: title })
  for (const { email, role } of wanted.members ?? []) {
    const before = members.find((member) => member.email === email)?.role
    if (before !== role) changes.push({ field: `members.${email}`, from: before, to: role })
  }
  const act = async () => {
    if (known === undefined) await createProject(client, wanted)
    else if (title !== undefined && title !== known.title)
      await client.call(projects.editProject, { params, body: { title } })
    for (const { email, role } of wanted.members ?? [])
      if (changes.some(({ field }) => field === `members.${email}`))
        await client.call(projects.setProjectMember, { params: { ...params, person: email }, body: { role } })
    return await client.call(projects.viewProject, { params })
  }
  if (known !== undefined) return changing(changes, act)
  return { does: 'create', says: title ?? '', changes, act }
}

async function createProject(client: Client, wanted: ManifestOf<'project'>): Promise<void> {
  const organisations = await all(client.items(projects.listOrganisations, {}))
  const only = organisations.length === 1 ? organisations[0] : undefined
  const { id } =
    wanted.organisation === undefined && only !== undefined
      ? only
      : meant(organisations, wanted.organisation ?? '', 'org')
  const body = { name: wanted.name, title: wanted.title ?? '' }
  await client.call(projects.createProject, { params: { organisation: id }, body })
}

export const planQuota: Planner<'quota'> = async ({ client, project }, { name: device, devices }) => {
  const quotas = await unlessMissing(client.call(machines.listQuotas, { params: { project } }))
  const known = quotas?.items.find((quota) => quota.device === device)
  const act = () => client.call(machines.setQuota, { params: { project, device }, body: { devices } })
  if (known === undefined) return creating(`${devices} of ${device}`, act)
  return changing(differences({ devices: known.devices }, { devices }), act)
}

/** A key may get other limits. Its scopes and its role are what it was given out for. */
export const planKey: Planner<'key'> = async ({ client, project }, wanted) => {
  const { kind: _, project: __, ...body } = wanted
  const { name, scopes, limits } = body
  const rows = await unlessMissing(all(client.items(keys.listKeys, { params: { project } })))
  const known = rows?.find((key) => key.name === name)
  if (known === undefined)
    return creating(`may do ${scopes.join(' ')}`, () =>
      client.call(keys.createKey, { params: { project }, body }),
    )
  if (differences([...known.scopes].sort(), [...scopes].sort()).length > 0)
    throw new UserError(
      `The key ${name} may do ${known.scopes.join(' ')}, not ${scopes.join(' ')}, and a key never gets other scopes.`,
      {
        failure: 'conflict',
        fix: `Give the new one another name, or revoke it: ropeway key revoke ${name}.`,
      },
    )
  return changing(differences(known.limits, limits, 'limits'), () =>
    client.call(keys.editKey, { params: { project, key: known.id }, body: { limits } }),
  )
}
