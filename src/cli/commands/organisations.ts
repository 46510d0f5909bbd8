import { type Command, Option } from 'commander'
import type { z } from 'zod'
import { listOrganisationAudit } from '../../api/control/audit.ts'
import { organisationRoles, projectRoles } from '../../api/control/permissions.ts'
import * as api from '../../api/control/projects.ts'
import { resetSecondFactor } from '../../api/control/second-factor.ts'
import { all, completeWith, confirm, meant, type NounFlags, onService, type Session } from '../noun.ts'
import { wholeNumber } from '../options.ts'
import { line, timeText } from '../output.ts'
import { note } from '../terminal.ts'
import { printAudit } from './audit.ts'

interface InviteFlags extends NounFlags {
  role: 'member' | 'owner'
  toProject?: string
  projectRole?: (typeof projectRoles)[number]
  hours: number
}

interface TitleFlags extends NounFlags {
  title?: string
}

type Organisation = z.output<typeof api.organisation>

export function organisationCommand(program: Command): void {
  const noun = program.command('org').description('organisations: who owns projects, and who belongs')
  onService(noun.command('list', { isDefault: true }).description('list yours'), runList)
  onService(
    noun
      .command('create')
      .description('make one, which you own')
      .argument('<name>')
      .option('--title <text>', 'what people call it'),
    runCreate,
  )
  onService(named(noun, 'view', 'show one'), runView)
  onService(named(noun, 'edit', 'change its title').requiredOption('--title <text>', 'the new one'), runEdit)
  onService(named(noun, 'members', 'list who belongs'), runMembers)
  const role = new Option('--role <role>', 'role in the organisation').choices(organisationRoles)
  onService(
    named(noun, 'invite', 'invite somebody; prints the token that they sign up with')
      .argument('<email>')
      .addOption(role.default('member'))
      .option('--to-project <name>', 'a project to join too')
      .addOption(new Option('--project-role <role>', 'role in that project').choices(projectRoles))
      .option('--hours <n>', 'how long the invitation is open', wholeNumber(1, 720), 168),
    runInvite,
  )
  onService(named(noun, 'invitations', 'list invitations'), runInvitations)
  onService(
    named(noun, 'withdraw', 'take an invitation back').argument('<invitation>', 'its id or its address'),
    runWithdraw,
  )
  onService(
    noun
      .command('accept')
      .description('join by an invitation that was made out to your address')
      .argument('<token>'),
    async ({ client, out }, _: NounFlags, token: string) => {
      out.one(await client.call(api.acceptInvitation, { body: { token } }), columns)
    },
  )
  onService(
    named(noun, 'set-role', 'change the role of a member')
      .argument('<email>')
      .argument('<role>', organisationRoles.join(' or ')),
    runSetRole,
  )
  onService(
    named(noun, 'remove-member', 'take somebody out, of all projects too')
      .argument('<email>')
      .option('-y, --yes', 'do not ask'),
    runRemoveMember,
  )
  onService(
    named(noun, 'reset-second-factor', 'take the second factor off a member who lost it')
      .argument('<email>')
      .option('-y, --yes', 'do not ask'),
    runReset,
  )
  onService(named(noun, 'audit', 'who did what'), runAudit)
}

function named(noun: Command, verb: string, description: string): Command {
  return completeWith(noun.command(verb).description(description).argument('<org>'), async ({ client }) =>
    (await all(client.items(api.listOrganisations, {}))).map(({ name }) => name),
  )
}

async function organisationMeant({ client }: Session, typed: string): Promise<{ organisation: string }> {
  return { organisation: meant(await all(client.items(api.listOrganisations, {})), typed, 'org').id }
}

async function runList({ client, out }: Session): Promise<void> {
  out.list(await all(client.items(api.listOrganisations, {})), {
    NAME: ({ name }) => name,
    TITLE: ({ title }) => title,
    CREATED: ({ created_at }) => timeText(created_at),
  })
}

async function runCreate({ client, out }: Session, flags: TitleFlags, name: string): Promise<void> {
  const made = await client.call(api.createOrganisation, { body: { name, title: flags.title ?? '' } })
  out.one(made, { NAME: ({ name }) => name, ID: ({ id }) => id })
}

const columns = {
  NAME: ({ name }: Organisation) => name,
  ID: ({ id }: Organisation) => id,
  TITLE: ({ title }: Organisation) => title,
  CREATED: ({ created_at }: Organisation) => timeText(created_at),
}

async function runView(session: Session, _: NounFlags, typed: string): Promise<void> {
  const params = await organisationMeant(session, typed)
  session.out.one(await session.client.call(api.viewOrganisation, { params }), columns)
}

async function runEdit(session: Session, flags: TitleFlags, typed: string): Promise<void> {
  const params = await organisationMeant(session, typed)
  const body = { title: flags.title! }
  session.out.one(await session.client.call(api.editOrganisation, { params, body }), columns)
}

async function runMembers(session: Session, _: NounFlags, organisation: string): Promise<void> {
  const params = await organisationMeant(session, organisation)
  const { items } = await session.client.call(api.listOrganisationMembers, { params })
  session.out.list(
    items.map((item) => ({ id: item.person, ...item })),
    { EMAIL: ({ email }) => email, NAME: ({ name }) => name, ROLE: ({ role }) => role },
  )
}

async function runInvite(
  session: Session,
  flags: InviteFlags,
  organisation: string,
  email: string,
): Promise<void> {
  const params = await organisationMeant(session, organisation)
  const body = {
    ...{ email, role: flags.role, hours: flags.hours },
    ...(flags.toProject !== undefined && { project: flags.toProject }),
    ...(flags.projectRole !== undefined && { project_role: flags.projectRole }),
  }
  const made = await session.client.call(api.createInvitation, { params, body })
  if (session.out.isJson) return line(JSON.stringify(made))
  line(made.token)
  note(`They sign up with: ropeway signup ${session.client.url} --email ${email} --invitation TOKEN`)
}

async function runInvitations(session: Session, _: NounFlags, organisation: string): Promise<void> {
  const params = await organisationMeant(session, organisation)
  session.out.list(await all(session.client.items(api.listInvitations, { params })), {
    ID: ({ id }) => id,
    EMAIL: ({ email }) => email,
    ROLE: ({ role }) => role,
    EXPIRES: ({ expires_at }) => timeText(expires_at),
    ACCEPTED: ({ accepted_at }) => timeText(accepted_at),
  })
}

async function runWithdraw(
  session: Session,
  _: NounFlags,
  organisation: string,
  typed: string,
): Promise<void> {
  const params = await organisationMeant(session, organisation)
  const open = await all(session.client.items(api.listInvitations, { params }))
  const named = open.map(({ id, email }) => ({ id, email, name: email }))
  const { id, email } = meant(named, typed, 'org invitations')
  await session.client.call(api.deleteInvitation, { params: { ...params, invitation: id } })
  note(`The invitation of ${email} works no longer.`)
}

async function runSetRole(
  session: Session,
  _: NounFlags,
  organisation: string,
  person: string,
  role: string,
) {
  const params = { ...(await organisationMeant(session, organisation)), person }
  const body = { role: role as (typeof organisationRoles)[number] }
  await session.client.call(api.setOrganisationMember, { params, body })
  note(`${person} is ${role} now.`)
}

async function runReset(
  session: Session,
  flags: NounFlags,
  organisation: string,
  email: string,
): Promise<void> {
  const params = { ...(await organisationMeant(session, organisation)), person: email }
  await confirm(`Take the second factor off ${email}, and end their sessions?`, flags)
  await session.client.call(resetSecondFactor, { params })
  note(`${email} logs in with the password alone until they set up a new one.`)
}

async function runRemoveMember(session: Session, flags: NounFlags, organisation: string, person: string) {
  const params = { ...(await organisationMeant(session, organisation)), person }
  await confirm(`Take ${person} out of ${organisation} and all of its projects?`, flags)
  await session.client.call(api.removeOrganisationMember, { params })
  note(`${person} was taken out.`)
}

async function runAudit(session: Session, _: NounFlags, organisation: string): Promise<void> {
  const params = await organisationMeant(session, organisation)
  printAudit(session.out, await all(session.client.items(listOrganisationAudit, { params }), 1000))
}
