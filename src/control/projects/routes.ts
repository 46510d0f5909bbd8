import { Refused } from '../../api/control/problem.ts'
import * as api from '../../api/control/projects.ts'
import { personMeant } from '../people/people.ts'
import { pageAnswer, pageAsked } from '../service/pages.ts'
import type { RouteModule, Serve } from '../service/routes.ts'
import { type EventRow, eventsOf, eventsOfProject } from '../store/events.ts'
import type { Store } from '../store/store.ts'
import {
  acceptInvitation,
  addInvitation,
  type InvitationRow,
  listInvitations,
  openInvitation,
  removeInvitation,
} from './invitations.ts'
import * as rows from './projects.ts'

const hourMs = 3600 * 1000

export const projectRoutes: RouteModule = (serve, { store }) => {
  organisationRoutes(serve, store)
  organisationMemberRoutes(serve, store)
  invitationRoutes(serve, store)
  projectOnlyRoutes(serve, store)
  projectMemberRoutes(serve, store)
}

function organisationRoutes(serve: Serve, store: Store): void {
  serve(api.listOrganisations, async ({ actor, query }) => {
    const person = { id: actor.personId, isOperator: actor.isOperator }
    if (actor.onlyProject !== undefined) return { items: [], next: null }
    return pageAnswer(await rows.listOrganisations(store, person, pageAsked(query)), organisationView)
  })
  serve(api.createOrganisation, async ({ actor, body, audit }) => {
    if (actor.scopes !== undefined && !actor.scopes.includes('*'))
      throw new Refused('forbidden', 'This key may not make organisations.', {
        fix: 'Log in, or use a key with the scope *.',
      })
    if (actor.onlyProject !== undefined)
      throw new Refused('forbidden', 'A key of one project may not make organisations.')
    return await store.transaction(async () => {
      const made = await rows.addOrganisation(store, { ...body, owner: actor.personId })
      if (made === undefined) throw nameTaken('an organisation', body.name)
      await audit('organisation.create', made.id, { name: made.name })
      return organisationView(made)
    })
  })
  serve(api.viewOrganisation, async ({ organisation }) =>
    organisationView((await rows.organisationOf(store, organisation.id))!),
  )
  serve(api.editOrganisation, async ({ organisation, body, audit }) =>
    store.transaction(async () => {
      await rows.retitle(store, 'organisations', organisation.id, body.title)
      await audit('organisation.edit', organisation.id, { ...body })
      return organisationView((await rows.organisationOf(store, organisation.id))!)
    }),
  )
}

function organisationMemberRoutes(serve: Serve, store: Store): void {
  serve(api.listOrganisationMembers, async ({ organisation }) => ({
    items: await rows.organisationMembers(store, organisation.id),
  }))
  serve(api.setOrganisationMember, async ({ organisation, params, body, audit }) => {
    const person = await personMeant(store, params.person)
    await store.transaction(async () => {
      await rows.holdOrganisation(store, organisation.id)
      if ((await rows.organisationRoleOf(store, organisation.id, person.id)) === undefined)
        throw notMember(params.person, organisation.name)
      await rows.setOrganisationMember(store, organisation.id, person.id, body.role)
      await refuseOwnerless(store, organisation)
      await audit('organisation-member.set', person.id, { role: body.role })
    })
  })
  serve(api.removeOrganisationMember, async ({ organisation, params, audit }) => {
    const person = await personMeant(store, params.person)
    await store.transaction(async () => {
      await rows.holdOrganisation(store, organisation.id)
      if (!(await rows.removeOrganisationMember(store, organisation.id, person.id)))
        throw notMember(params.person, organisation.name)
      await refuseOwnerless(store, organisation)
      await audit('organisation-member.remove', person.id)
    })
  })
}

function invitationRoutes(serve: Serve, store: Store): void {
  serve(api.createInvitation, async ({ organisation, actor, body, audit }) => {
    const project = body.project === undefined ? undefined : await rows.projectOf(store, body.project)
    if (body.project !== undefined && project?.organisation_id !== organisation.id)
      throw new Refused('not_found', `${organisation.name} has no project ${body.project}.`, {
        param: 'project',
      })
    return await store.transaction(async () => {
      const { row, token } = await addInvitation(store, {
        email: body.email,
        organisation_id: organisation.id,
        organisation_role: body.role,
        project_id: project?.id ?? null,
        project_role: project === undefined ? null : (body.project_role ?? 'develop'),
        invited_by: actor.personId,
        expires_at: store.clock.unixMs() + body.hours * hourMs,
      })
      await audit('invitation.create', row.id, { email: row.email, role: row.organisation_role })
      return { ...invitationView(row), token }
    })
  })
  serve(api.listInvitations, async ({ organisation, query }) =>
    pageAnswer(await listInvitations(store, organisation.id, pageAsked(query)), invitationView),
  )
  serve(api.deleteInvitation, async ({ organisation, params, audit }) =>
    store.transaction(async () => {
      if (!(await removeInvitation(store, organisation.id, params.invitation)))
        throw new Refused('not_found', `There is no invitation ${params.invitation} here.`)
      await audit('invitation.delete', params.invitation)
    }),
  )
  serve(api.acceptInvitation, async ({ actor, body, audit }) =>
    store.transaction(async () => {
      if (actor.kind === 'key')
        throw new Refused('forbidden', 'A key cannot accept an invitation.', { fix: 'Log in first.' })
      const row = await openInvitation(store, body.token, actor.name)
      await acceptInvitation(store, row, actor.personId)
      await audit('invitation.accept', row.id)
      return organisationView((await rows.organisationOf(store, row.organisation_id))!)
    }),
  )
}

function projectOnlyRoutes(serve: Serve, store: Store): void {
  serve(api.listProjects, async ({ actor, query }) => {
    const person = {
      id: actor.personId,
      isOperator: actor.isOperator,
      ...(actor.onlyProject !== undefined && { onlyProject: actor.onlyProject }),
    }
    const organisation =
      query.organisation === undefined ? undefined : await rows.organisationOf(store, query.organisation)
    if (query.organisation !== undefined && organisation === undefined) return { items: [], next: null }
    const only = organisation === undefined ? {} : { organisation: organisation.id }
    return pageAnswer(await rows.listProjects(store, person, { ...pageAsked(query), ...only }), projectView)
  })
  serve(api.createProject, async ({ organisation, actor, body, audit }) =>
    store.transaction(async () => {
      const project = { ...body, organisation: organisation.id, admin: actor.personId }
      const made = await rows.addProject(store, project)
      if (made === undefined) throw nameTaken('a project', body.name)
      await audit('project.create', made.id, { name: made.name })
      return projectView(made)
    }),
  )
  serve(api.viewProject, async ({ project }) => ({
    ...projectView((await rows.projectOf(store, project.id))!),
    role: project.role,
  }))
  serve(api.editProject, async ({ project, body, audit }) =>
    store.transaction(async () => {
      await rows.retitle(store, 'projects', project.id, body.title)
      await audit('project.edit', project.id, { ...body })
      return projectView((await rows.projectOf(store, project.id))!)
    }),
  )
  serve(api.listEvents, async ({ project, query }) => {
    const page = { ...pageAsked(query), descending: true }
    if (query.subject === undefined)
      return pageAnswer(await eventsOfProject(store, project.id, page), eventView)
    const { rows: found, next } = await eventsOf(store, query.subject, page)
    const own = found.filter(({ project_id }) => project_id === project.id)
    return pageAnswer({ rows: own, ...(next !== undefined && { next }) }, eventView)
  })
}

function projectMemberRoutes(serve: Serve, store: Store): void {
  serve(api.listProjectMembers, async ({ project }) => ({
    items: await rows.projectMembers(store, project.id),
  }))
  serve(api.setProjectMember, async ({ project, params, body, audit }) => {
    const person = await personMeant(store, params.person)
    await store.transaction(async () => {
      if ((await rows.organisationRoleOf(store, project.organisationId, person.id)) === undefined)
        throw new Refused(
          'conflict',
          `${person.email} does not belong to the organisation of this project.`,
          {
            fix: 'Invite them first (ropeway org invite).',
          },
        )
      await rows.setProjectMember(store, project.id, person.id, body.role)
      await audit('member.set', person.id, { role: body.role })
    })
  })
  serve(api.removeProjectMember, async ({ project, params, audit }) => {
    const person = await personMeant(store, params.person)
    await store.transaction(async () => {
      if (!(await rows.removeProjectMember(store, project.id, person.id)))
        throw notMember(params.person, project.name)
      await audit('member.remove', person.id)
    })
  })
}

async function refuseOwnerless(store: Store, { id, name }: { id: string; name: string }): Promise<void> {
  if ((await rows.countOwners(store, id)) > 0) return
  throw new Refused('conflict', `${name} would have no owner.`, { fix: 'Make somebody else an owner first.' })
}

function notMember(person: string, of: string): Refused {
  return new Refused('not_found', `${person} is no member of ${of}.`)
}

function nameTaken(what: string, name: string): Refused {
  return new Refused('name_taken', `There is already ${what} named ${name}.`, {
    param: 'name',
    fix: 'Choose another name.',
  })
}

function organisationView({ id, name, title, created_at }: rows.OrganisationRow) {
  return { id, name, title, created_at }
}

function projectView(row: rows.ProjectRow) {
  return { ...organisationView(row), organisation_id: row.organisation_id }
}

function invitationView(row: InvitationRow) {
  const { id, email, organisation_role: role, project_id: project, project_role } = row
  const { created_at, expires_at, accepted_at } = row
  return { id, email, role, project, project_role, created_at, expires_at, accepted_at }
}

function eventView({ id, subject_id: subject, at, kind, message, details }: EventRow) {
  return { id, subject, at, kind, message, details }
}
