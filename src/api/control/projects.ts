import { z } from 'zod'
import { endpoint } from './endpoint.ts'
import { nounId, nounName, pageOf, pageQuery, queryInteger, storableText, time } from './fields.ts'
import { email } from './people.ts'
import { organisationRoles, projectRoles } from './permissions.ts'

const title = storableText(200)
const changeTitle = z.strictObject({ title })
/** A name or an id. */
const reference = storableText(100, 1)

export const organisation = z.object({ id: nounId, name: z.string(), title: z.string(), created_at: time })
export const project = organisation.extend({ organisation_id: nounId })

const memberOf = <Role extends z.ZodType>(role: Role) =>
  z.object({ person: nounId, email: z.string(), name: z.string(), role, since: time })
export const organisationMember = memberOf(z.enum(organisationRoles))
export const projectMember = memberOf(z.enum(projectRoles))

export const listOrganisations = endpoint({
  name: 'organisations.list',
  method: 'GET',
  path: '/organisations',
  summary: 'Organisations that you belong to.',
  access: 'signed_in',
  query: pageQuery,
  answer: pageOf(organisation),
})

export const createOrganisation = endpoint({
  name: 'organisations.create',
  method: 'POST',
  once: true,
  path: '/organisations',
  summary: 'Make an organisation, which you own.',
  access: 'signed_in',
  body: z.strictObject({ name: nounName, title: title.default('') }),
  answer: organisation,
})

export const viewOrganisation = endpoint({
  name: 'organisations.view',
  method: 'GET',
  path: '/organisations/:organisation',
  summary: 'One organisation.',
  access: 'organisation:view',
  answer: organisation,
})

export const editOrganisation = endpoint({
  name: 'organisations.edit',
  method: 'PATCH',
  path: '/organisations/:organisation',
  summary: 'Change the title of an organisation.',
  access: 'organisation:edit',
  body: changeTitle,
  answer: organisation,
})

export const listOrganisationMembers = endpoint({
  name: 'organisation-members.list',
  method: 'GET',
  path: '/organisations/:organisation/members',
  summary: 'Who belongs to an organisation.',
  access: 'organisation:view',
  answer: z.object({ items: z.array(organisationMember) }),
})

export const setOrganisationMember = endpoint({
  name: 'organisation-members.set',
  method: 'PUT',
  path: '/organisations/:organisation/members/:person',
  summary: 'Give a member of the organisation another role.',
  access: 'organisation:edit',
  body: z.strictObject({ role: z.enum(organisationRoles) }),
  answer: 'nothing',
})

export const removeOrganisationMember = endpoint({
  name: 'organisation-members.remove',
  method: 'DELETE',
  path: '/organisations/:organisation/members/:person',
  summary: 'Take a person out of the organisation and all of its projects.',
  access: 'organisation:edit',
  answer: 'nothing',
})

const invitationFields = {
  email,
  role: z.enum(organisationRoles).default('member'),
  project: reference.optional(),
  project_role: z.enum(projectRoles).optional(),
}

export const invitation = z.object({
  id: nounId,
  email: z.string(),
  role: z.enum(organisationRoles),
  project: z.string().nullable(),
  project_role: z.enum(projectRoles).nullable(),
  created_at: time,
  expires_at: time,
  accepted_at: time.nullable(),
})

export const createInvitation = endpoint({
  name: 'invitations.create',
  method: 'POST',
  once: true,
  path: '/organisations/:organisation/invitations',
  summary: 'Invite somebody: the token in the answer is what they sign up or accept with.',
  access: 'organisation:edit',
  body: z.strictObject({ ...invitationFields, hours: z.int().min(1).max(720).default(168) }),
  answer: invitation.extend({ token: z.string() }),
})

export const listInvitations = endpoint({
  name: 'invitations.list',
  method: 'GET',
  path: '/organisations/:organisation/invitations',
  summary: 'Invitations of an organisation.',
  access: 'organisation:edit',
  query: pageQuery,
  answer: pageOf(invitation),
})

export const deleteInvitation = endpoint({
  name: 'invitations.delete',
  method: 'DELETE',
  path: '/organisations/:organisation/invitations/:invitation',
  summary: 'Withdraw an invitation.',
  access: 'organisation:edit',
  answer: 'nothing',
})

export const acceptInvitation = endpoint({
  name: 'invitations.accept',
  method: 'POST',
  once: true,
  path: '/invitations/accept',
  summary: 'Join by an invitation that was made out to your address.',
  access: 'signed_in',
  body: z.strictObject({ token: z.string().min(1).max(200) }),
  answer: organisation,
})

export const listProjects = endpoint({
  name: 'projects.list',
  method: 'GET',
  path: '/projects',
  summary: 'Projects that you may see.',
  access: 'signed_in',
  query: pageQuery.extend({ organisation: reference.optional() }),
  answer: pageOf(project),
})

export const createProject = endpoint({
  name: 'projects.create',
  method: 'POST',
  once: true,
  path: '/organisations/:organisation/projects',
  summary: 'Make a project, whose admin you are.',
  access: 'organisation:view',
  body: z.strictObject({ name: nounName, title: title.default('') }),
  answer: project,
})

export const viewProject = endpoint({
  name: 'projects.view',
  method: 'GET',
  path: '/projects/:project',
  summary: 'One project, and what you are in it.',
  access: 'project:view',
  answer: project.extend({ role: z.enum(projectRoles) }),
})

export const editProject = endpoint({
  name: 'projects.edit',
  method: 'PATCH',
  path: '/projects/:project',
  summary: 'Change the title of a project.',
  access: 'project:edit',
  body: changeTitle,
  answer: project,
})

export const listProjectMembers = endpoint({
  name: 'members.list',
  method: 'GET',
  path: '/projects/:project/members',
  summary: 'Who works in a project, beside the owners of its organisation.',
  access: 'member:view',
  answer: z.object({ items: z.array(projectMember) }),
})

export const setProjectMember = endpoint({
  name: 'members.set',
  method: 'PUT',
  path: '/projects/:project/members/:person',
  summary: 'Add a person of the organisation (by address or id) to the project, or change their role.',
  access: 'member:edit',
  body: z.strictObject({ role: z.enum(projectRoles) }),
  answer: 'nothing',
})

export const removeProjectMember = endpoint({
  name: 'members.remove',
  method: 'DELETE',
  path: '/projects/:project/members/:person',
  summary: 'Take a person out of the project.',
  access: 'member:delete',
  answer: 'nothing',
})

export const event = z.object({
  id: nounId,
  subject: z.string(),
  at: time,
  kind: z.string(),
  message: z.string(),
  details: z.record(z.string(), z.unknown()),
})

export const listEvents = endpoint({
  name: 'events.list',
  method: 'GET',
  path: '/projects/:project/events',
  summary: 'What happened in a project, or to one thing in it; newest first.',
  access: 'project:view',
  query: pageQuery.extend({ subject: reference.optional(), limit: queryInteger(1, 500).default(50) }),
  answer: pageOf(event),
})
