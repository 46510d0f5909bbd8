import { type Command, Option } from 'commander'
import * as api from '../../api/control/keys.ts'
import { projectRoles } from '../../api/control/permissions.ts'
import { all, completeWith, confirm, meant, type NounFlags, onService, type Session } from '../noun.ts'
import { collect, wholeNumber } from '../options.ts'
import { line, timeText } from '../output.ts'
import { note } from '../terminal.ts'

interface CreateFlags extends NounFlags {
  scope?: string[]
  days?: number
  role?: (typeof projectRoles)[number]
  requestsPerMinute?: number
  tokensPerMinute?: number
  concurrent?: number
  own?: boolean
}

const many = wholeNumber(1, 1_000_000_000)

export function keyCommand(program: Command): void {
  const noun = program.command('key').description('API keys: what programs ask with')
  const own = (command: Command) =>
    command.option('--own', 'keys that act as you in all projects, instead of a project’s')
  onService(own(noun.command('list', { isDefault: true }).description('list them')), runList)
  onService(
    own(limited(noun.command('create').description('make one; it is shown once')))
      .argument('<name>')
      .option(
        '--scope <scope>',
        'what it may do: NOUN:VERB, either may be * (repeatable; default: all)',
        collect,
      )
      .option('--days <n>', 'how long it works', wholeNumber(1, 3650))
      .addOption(new Option('--role <role>', 'the most that it may be in the project').choices(projectRoles)),
    runCreate,
  )
  onService(
    limited(
      completeWith(noun.command('edit').description('change limits or the name').argument('<name>'), names),
    )
      .option('--name <new-name>', 'the new name')
      .option('--no-limits', 'take those limits away that are not given'),
    runEdit,
  )
  const revoke = own(noun.command('revoke').description('make one stop working at once'))
  onService(completeWith(revoke.argument('<name>').option('-y, --yes', 'do not ask'), names), runRevoke)
}

const names = async (session: Session): Promise<string[]> =>
  (await keysOf(session, {})).map(({ name }) => name)

function limited(command: Command): Command {
  return command
    .option('--requests-per-minute <n>', 'limit at the gateway', many)
    .option('--tokens-per-minute <n>', 'limit at the gateway, prompt and output together', many)
    .option('--concurrent <n>', 'requests at the same time', wholeNumber(1, 100_000))
}

function limitsOf({ requestsPerMinute, tokensPerMinute, concurrent }: CreateFlags) {
  return {
    ...(requestsPerMinute !== undefined && { requestsPerMinute }),
    ...(tokensPerMinute !== undefined && { tokensPerMinute }),
    ...(concurrent !== undefined && { concurrent }),
  }
}

async function keysOf(session: Session, { own }: { own?: boolean }) {
  const { client } = session
  if (own === true) return await all(client.items(api.listOwnKeys, {}))
  return await all(client.items(api.listKeys, { params: { project: session.project } }))
}

async function runList(session: Session, flags: CreateFlags): Promise<void> {
  session.out.list(await keysOf(session, flags), {
    NAME: ({ name }) => name,
    KEY: ({ shown }) => `${shown}...`,
    ROLE: ({ role }) => role,
    SCOPES: ({ scopes }) => scopes.join(' '),
    'LAST USED': ({ last_used_at }) => timeText(last_used_at),
    EXPIRES: ({ expires_at }) => timeText(expires_at),
    ID: ({ id }) => id,
  })
}

async function runEdit(
  session: Session,
  flags: CreateFlags & { name?: string; limits: boolean },
  typed: string,
): Promise<void> {
  const known = meant(await keysOf(session, {}), typed, 'key')
  const body = {
    ...(flags.name !== undefined && { name: flags.name }),
    limits: { ...(flags.limits && known.limits), ...limitsOf(flags) },
  }
  const params = { project: session.project, key: known.id }
  session.out.one(await session.client.call(api.editKey, { params, body }), {
    NAME: ({ name }) => name,
    LIMITS: ({ limits }) =>
      Object.entries(limits)
        .map((pair) => pair.join('='))
        .join(' ') || null,
  })
}

async function runCreate(session: Session, flags: CreateFlags, name: string): Promise<void> {
  const body = {
    name,
    ...(flags.scope !== undefined && { scopes: flags.scope }),
    ...(flags.days !== undefined && { days: flags.days }),
    limits: limitsOf(flags),
  }
  const made =
    flags.own === true
      ? await session.client.call(api.createOwnKey, { body })
      : await session.client.call(api.createKey, {
          params: { project: session.project },
          body: { ...body, ...(flags.role !== undefined && { role: flags.role }) },
        })
  if (session.out.isJson) return line(JSON.stringify(made))
  line(made.key)
  note('This is the only time that the key is shown.')
}

async function runRevoke(session: Session, flags: CreateFlags, typed: string): Promise<void> {
  const { id, name, shown } = meant(await keysOf(session, flags), typed, 'key')
  await confirm(`Revoke the key ${name} (${shown}...)?`, flags)
  if (flags.own === true) await session.client.call(api.revokeOwnKey, { params: { key: id } })
  else await session.client.call(api.revokeKey, { params: { project: session.project, key: id } })
  note(`${name} works no longer.`)
}
