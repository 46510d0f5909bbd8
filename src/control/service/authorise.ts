import {
  type Access,
  isPermission,
  type Permission,
  type ProjectRole,
  projectRoles,
  roleAllows,
  scopesAllow,
} from '../../api/control/permissions.ts'
import { Refused } from '../../api/control/problem.ts'
import { organisationOf, organisationRoleOf, projectOf, projectRoleOf } from '../projects/projects.ts'
import type { Store } from '../store/store.ts'
import type { Actor, OrganisationSeen, ProjectSeen } from './actor.ts'

export interface Admission {
  readonly project?: ProjectSeen
  readonly organisation?: OrganisationSeen
}

/** Lets a request through to its handler, with the project or organisation of its path, or throws why not. */
export async function admit(
  store: Store,
  access: Access,
  actor: Actor | undefined,
  path: { project?: string; organisation?: string },
): Promise<Admission> {
  if (access === 'public') return {}
  if (actor === undefined)
    throw new Refused('unauthenticated', 'This needs a key or a session.', {
      fix: 'Log in (ropeway login), or send Authorization: Bearer KEY.',
    })
  if (access === 'signed_in') return {}
  if (access === 'operator') {
    if (!actor.isOperator || !(actor.scopes?.includes('*') ?? true))
      throw new Refused('forbidden', 'Only who runs this service may do that.')
    return path.project === undefined ? {} : { project: await projectForOperator(store, path.project) }
  }
  if (isPermission(access)) return { project: await seeProject(store, actor, path.project!, access) }
  return { organisation: await seeOrganisation(store, actor, path.organisation!, access) }
}

async function projectForOperator(store: Store, typed: string): Promise<ProjectSeen> {
  const row = await projectOf(store, typed)
  if (row === undefined) throw new Refused('not_found', `There is no project ${typed}.`)
  return { id: row.id, name: row.name, organisationId: row.organisation_id, role: 'admin' }
}

/** Also for handlers that reach into a second project. */
export async function seeProject(
  store: Store,
  actor: Actor,
  typed: string,
  permission: Permission,
): Promise<ProjectSeen> {
  const row = await projectOf(store, typed)
  const role = row && (await roleIn(store, actor, row))
  // Who may not see it is not told that it is there.
  if (row === undefined || role === undefined)
    throw new Refused('not_found', `There is no project ${typed} that you may see.`, {
      fix: 'ropeway project lists those that you may.',
    })
  if (!roleAllows(role, permission))
    throw new Refused(
      'forbidden',
      `In project ${row.name} you are ${role}, which may not ${said(permission)}.`,
      {
        fix: 'An admin of the project can give you another role.',
      },
    )
  if (actor.scopes !== undefined && !scopesAllow(actor.scopes, permission))
    throw new Refused('forbidden', `The scopes of this key do not include ${permission}.`, {
      fix: `Use a key with the scope ${permission}.`,
    })
  return { id: row.id, name: row.name, organisationId: row.organisation_id, role }
}

function said(permission: Permission): string {
  const [noun, verb] = permission.split(':')
  return `${verb} a ${noun}`
}

async function roleIn(
  store: Store,
  actor: Actor,
  project: Parameters<typeof projectRoleOf>[1],
): Promise<ProjectRole | undefined> {
  if (actor.onlyProject !== undefined && actor.onlyProject !== project.id) return undefined
  const role = actor.isOperator ? 'admin' : await projectRoleOf(store, project, actor.personId)
  if (role === undefined || actor.roleMax === undefined) return role
  return projectRoles[Math.min(projectRoles.indexOf(role), projectRoles.indexOf(actor.roleMax))]
}

async function seeOrganisation(
  store: Store,
  actor: Actor,
  typed: string,
  access: 'organisation:view' | 'organisation:edit',
): Promise<OrganisationSeen> {
  const row = await organisationOf(store, typed)
  const isBound =
    actor.onlyProject !== undefined || (actor.scopes !== undefined && !actor.scopes.includes('*'))
  const role =
    row === undefined || isBound
      ? undefined
      : actor.isOperator
        ? 'owner'
        : await organisationRoleOf(store, row.id, actor.personId)
  if (row === undefined || role === undefined)
    throw new Refused('not_found', `There is no organisation ${typed} that you may see.`, {
      fix: 'ropeway org lists those that you may.',
    })
  if (access === 'organisation:edit' && role !== 'owner')
    throw new Refused('forbidden', `Only owners of ${row.name} may do that.`)
  return { id: row.id, name: row.name, role }
}
