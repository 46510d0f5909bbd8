import type { Command } from 'commander'
import { projectRoles } from '../../api/control/permissions.ts'
import * as api from '../../api/control/projects.ts'
import { chosenContext, readContexts, saveContext } from '../contexts.ts'
import { all, completeWith, confirm, meant, type NounFlags, onService, type Session } from '../noun.ts'
import { wholeNumber } from '../options.ts'
import { timeText } from '../output.ts'
import { note } from '../terminal.ts'

interface CreateFlags extends NounFlags {
  org?: string
  title?: string
}

export function projectCommand(program: Command): void {
  const noun = program
    .command('project')
    .description('projects: where data, jobs, models and deployments live')
  onService(noun.command('list', { isDefault: true }).description('list those that you may see'), runList)
  onService(
    noun
      .command('create')
      .description('make one, whose admin you are')
      .argument('<name>')
      .option('--org <name>', 'the organisation; needed when you are in several')
      .option('--title <text>', 'what people call it'),
    runCreate,
  )
  const names = async ({ client }: Session) =>
    (await all(client.items(api.listProjects, {}))).map(({ name }) => name)
  onService(completeWith(noun.command('view').description('show one').argument('[name]'), names), runView)
  onService(
    completeWith(
      noun.command('use').description('make one the project of the context').argument('<name>'),
      names,
    ),
    runUse,
  )
  onService(
    completeWith(
      noun.command('edit').description('change its title').argument('[name]'),
      names,
    ).requiredOption('--title <text>', 'the new one'),
    runEdit,
  )
  onService(
    noun
      .command('events')
      .description('what happened in it, newest first')
      .option('--of <id>', 'to one thing alone, by its id')
      .option('--limit <n>', 'how many', wholeNumber(1, 100_000), 100),
    runEvents,
  )
  onService(noun.command('members').description('list who works in it'), runMembers)
  onService(
    noun
      .command('add-member')
      .description('add a person of the organisation, or change their role')
      .argument('<email>')
      .argument('<role>', projectRoles.join(', ')),
    runAddMember,
  )
  onService(
    noun
      .command('remove-member')
      .description('take a person out')
      .argument('<email>')
      .option('-y, --yes', 'do not ask'),
    runRemoveMember,
  )
}

async function runList({ client, out }: Session): Promise<void> {
  out.list(await all(client.items(api.listProjects, {})), {
    NAME: ({ name }) => name,
    TITLE: ({ title }) => title,
    CREATED: ({ created_at }) => timeText(created_at),
  })
}

async function runCreate({ client, out }: Session, flags: CreateFlags, name: string): Promise<void> {
  const organisations = await all(client.items(api.listOrganisations, {}))
  const only = organisations.length === 1 ? organisations[0]! : undefined
  const organisation =
    flags.org === undefined && only !== undefined ? only : meant(organisations, flags.org ?? '', 'org')
  const body = { name, title: flags.title ?? '' }
  const made = await client.call(api.createProject, { params: { organisation: organisation.id }, body })
  out.one(made, { NAME: ({ name }) => name, ID: ({ id }) => id })
}

async function runEdit(session: Session, flags: CreateFlags, typed?: string): Promise<void> {
  const params = { project: typed ?? session.project }
  const edited = await session.client.call(api.editProject, { params, body: { title: flags.title! } })
  session.out.one(edited, { NAME: ({ name }) => name, TITLE: ({ title }) => title })
}

async function runEvents(session: Session, flags: NounFlags & { of?: string; limit: number }): Promise<void> {
  const { client, out, project } = session
  const query = flags.of === undefined ? {} : { subject: flags.of }
  out.list(await all(client.items(api.listEvents, { params: { project }, query }), flags.limit), {
    AT: ({ at }) => timeText(at),
    KIND: ({ kind }) => kind,
    OF: ({ subject }) => subject,
    MESSAGE: ({ message }) => message,
  })
}

async function runView(session: Session, _: NounFlags, typed?: string): Promise<void> {
  const { client, out } = session
  const project = typed ?? session.project
  out.one(await client.call(api.viewProject, { params: { project } }), {
    NAME: ({ name }) => name,
    ID: ({ id }) => id,
    TITLE: ({ title }) => title,
    'YOU ARE': ({ role }) => role,
    CREATED: ({ created_at }) => timeText(created_at),
  })
}

async function runUse({ client, contextName }: Session, flags: NounFlags, typed: string): Promise<void> {
  const { name } = meant(await all(client.items(api.listProjects, {})), typed, 'project')
  const saved = readContexts().contexts[contextName] ?? { url: chosenContext(flags.context).url }
  saveContext(contextName, { ...saved, project: name })
  note(`The project of context ${contextName} is ${name}.`)
}

async function runMembers({ client, out, project }: Session): Promise<void> {
  const { items } = await client.call(api.listProjectMembers, { params: { project } })
  out.list(
    items.map((item) => ({ id: item.person, ...item })),
    { EMAIL: ({ email }) => email, NAME: ({ name }) => name, ROLE: ({ role }) => role },
  )
}

async function runAddMember({ client, project }: Session, _: NounFlags, person: string, role: string) {
  const body = { role: role as (typeof projectRoles)[number] }
  await client.call(api.setProjectMember, { params: { project, person }, body })
  note(`${person} is ${role} in ${project} now.`)
}

async function runRemoveMember({ client, project }: Session, flags: NounFlags, person: string) {
  await confirm(`Take ${person} out of ${project}?`, flags)
  await client.call(api.removeProjectMember, { params: { project, person } })
  note(`${person} was taken out of ${project}.`)
}
