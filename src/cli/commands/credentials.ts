import { type Command, Option } from 'commander'
import * as api from '../../api/control/credentials.ts'
import { UserError } from '../../base/errors.ts'
import { all, completeWith, confirm, type NounFlags, onService, type Session } from '../noun.ts'
import { collect } from '../options.ts'
import { timeText } from '../output.ts'
import { askSecret } from '../secrets.ts'
import { note } from '../terminal.ts'

interface CreateFlags extends NounFlags {
  kind: api.CredentialKind
  set?: string[]
  secret?: string
}

export function credentialCommand(program: Command): void {
  const noun = program
    .command('credential')
    .description('secrets that jobs and links use by name: encrypted, never shown again')
  onService(
    noun.command('list', { isDefault: true }).description('list them, without what they hold'),
    runList,
  )
  onService(valued(noun.command('create').description('store one')), runCreate)
  onService(
    completeWith(valued(noun.command('replace').description('put other values into one')), names),
    runReplace,
  )
  const remove = noun
    .command('delete')
    .description('forget one')
    .argument('<name>')
    .option('-y, --yes', 'do not ask')
  onService(completeWith(remove, names), runDelete)
}

const names = async ({ client, project }: Session): Promise<string[]> =>
  (await all(client.items(api.listCredentials, { params: { project } }))).map(({ name }) => name)

/** Secrets come by stdin: arguments can be seen by every user of the machine. */
function valued(command: Command): Command {
  return command
    .argument('<name>')
    .addOption(
      new Option('--kind <kind>', 'what it is for').choices(api.credentialKinds).makeOptionMandatory(),
    )
    .option('--set <field=value>', 'a field that is no secret (repeatable)', collect)
    .option(
      '--secret <field>',
      'the field whose value is read from stdin; without it stdin is a JSON object of fields',
    )
}

async function valuesGiven(flags: CreateFlags): Promise<api.CredentialValues> {
  const values: Record<string, unknown> = { kind: flags.kind }
  for (const pair of flags.set ?? []) {
    const at = pair.indexOf('=')
    if (at < 1) throw new UserError(`--set ${pair} is not FIELD=VALUE.`, { failure: 'usage' })
    values[pair.slice(0, at)] = pair.slice(at + 1)
  }
  const text = await askSecret(flags.secret ?? 'A JSON object of fields')
  if (flags.secret !== undefined) values[flags.secret] = text
  else Object.assign(values, objectOf(text))
  const checked = api.credentialValues.safeParse(values)
  if (checked.success) return checked.data
  const { path, message } = checked.error.issues[0]!
  throw new UserError(
    `The values do not make a credential for ${flags.kind}: ${path.join('.')}: ${message}`,
    {
      failure: 'usage',
      fix: 'docs/service.md lists the fields of each kind.',
    },
  )
}

function objectOf(text: string): object {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
  }
  throw new UserError('What came by stdin is no JSON object.', {
    failure: 'usage',
    fix: 'Give {"FIELD": "VALUE"}, or name one field with --secret FIELD and give its value alone.',
  })
}

async function runList({ client, out, project }: Session): Promise<void> {
  const rows = await all(client.items(api.listCredentials, { params: { project } }))
  const { items } = await client.call(api.listCredentialUses, { params: { project } })
  const usesOf = (name: string) =>
    items.filter(({ credential }) => credential === name).map(({ by, name: user }) => `${by} ${user}`)
  const shown = rows.map((row) => ({ ...row, used_by: usesOf(row.name) }))
  out.list(shown, {
    NAME: ({ name }) => name,
    KIND: ({ kind }) => kind,
    FIELDS: ({ fields }) => fields.join(' '),
    'USED BY': ({ used_by }) => used_by.join(', '),
    CHANGED: ({ updated_at }) => timeText(updated_at),
  })
}

async function runCreate({ client, project }: Session, flags: CreateFlags, name: string): Promise<void> {
  const body = { name, values: await valuesGiven(flags) }
  await client.call(api.createCredential, { params: { project }, body })
  note(`Stored ${name}; it will not be shown again.`)
}

async function runReplace(
  { client, project }: Session,
  flags: CreateFlags,
  credential: string,
): Promise<void> {
  const body = { values: await valuesGiven(flags) }
  await client.call(api.replaceCredential, { params: { project, credential }, body })
  note(`${credential} holds the new values.`)
}

async function runDelete({ client, project }: Session, flags: NounFlags, credential: string): Promise<void> {
  await confirm(`Forget the credential ${credential}?`, flags)
  await client.call(api.deleteCredential, { params: { project, credential } })
  note(`Forgot ${credential}.`)
}
