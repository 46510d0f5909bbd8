import { type Command, Option } from 'commander'
import * as api from '../../api/control/deployments.ts'
import { rollbackPublication, viewPublication } from '../../api/control/publications.ts'
import { UserError } from '../../base/errors.ts'
import { untilServing } from '../deployment-wait.ts'
import { readObjectFile } from '../job-file.ts'
import { all, completeWith, confirm, meant, type NounFlags, onService, type Session } from '../noun.ts'
import { collect, milliseconds, wholeNumber } from '../options.ts'
import { line, timeText } from '../output.ts'
import { note } from '../terminal.ts'
import { watchVerbs } from './deployment-watch.ts'

interface ChangeFlags extends NounFlags {
  file?: string
  model?: string
  adapter?: string[]
  engine?: string[]
  min?: number
  max?: number
  idle?: number
  canary?: number
  shadow?: number
  public?: boolean
  requestLog?: boolean
  wait?: number | true
}

interface RollbackFlags extends NounFlags {
  version?: string
}

const percent = wholeNumber(1, 100)

export function deploymentCommand(program: Command): void {
  const noun = program.command('deployment').description('models that answer under a name')
  const on = (verb: string, description: string) =>
    completeWith(noun.command(verb).description(description).argument('<name>'), async (session) =>
      (await deploymentsOf(session)).map(({ name }) => name),
    )
  onService(noun.command('list', { isDefault: true }).description('list them'), runList)
  onService(
    withSettings(noun.command('create').description('serve a model under a name').argument('<name>')),
    runCreate,
  )
  onService(withSettings(on('update', 'change settings, or bring in a new version')), runUpdate)
  onService(on('view', 'show versions and replicas'), runView)
  watchVerbs({ on, paramsOf })
  onService(on('rollback', 'back to the version before').option('--version <id>', 'to this one'), runRollback)
  onService(
    on('latest', 'what a training published, which answers as NAME:latest').option(
      '--rollback',
      'give new requests the version before',
    ),
    runLatest,
  )
  onService(on('promote', 'give the version on its way all of the traffic'), runPromote)
  onService(on('delete', 'remove it').option('-y, --yes', 'do not ask'), runDelete)
}

function withSettings(command: Command): Command {
  return command
    .option('-f, --file <path>', 'a YAML or JSON file with all that the API takes')
    .option('--model <name>', 'the model of a new version')
    .option('--adapter <name=model>', 'an adapter of it (repeatable)', collect)
    .option('--engine <flag=value>', 'a flag of ropeway serve, such as context=4096 (repeatable)', collect)
    .option('--min <n>', 'replicas at least; 0 lets it sleep', wholeNumber(0, 256))
    .option('--max <n>', 'replicas at most', wholeNumber(1, 256))
    .option(
      '--idle <s>',
      'seconds without a request after which the last replica goes',
      wholeNumber(0, 86400),
    )
    .option('--canary <percent>', 'share that a new version gets at first', percent)
    .option('--shadow <percent>', 'share of requests that a new version gets copies of', percent)
    .option('--public', 'everybody may ask without a key')
    .option('--no-public', 'only keys of the project may ask')
    .option('--wait [time]', 'until it serves, so long at most (10m); then exit with 7', milliseconds)
    .addOption(new Option('--request-log', 'write requests and answers down'))
    .addOption(new Option('--no-request-log', 'do not write them down'))
}

/** What a file says, and what flags say over it. */
function settingsOf(flags: ChangeFlags): Record<string, unknown> {
  const given = flags.file === undefined ? {} : readObjectFile(flags.file)
  const part = (name: string, fields: Record<string, unknown>) => {
    const set = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined))
    const before = given[name] as Record<string, unknown> | undefined
    return Object.keys(set).length === 0 ? {} : { [name]: { ...before, ...set } }
  }
  return {
    ...given,
    ...part('version', {
      model: flags.model,
      adapters: flags.adapter && pairsOf(flags.adapter, '--adapter'),
      engine: flags.engine && pairsOf(flags.engine, '--engine'),
    }),
    ...part('scaling', { min: flags.min, max: flags.max, idleSeconds: flags.idle }),
    ...part('rollout', { canary: shareOf(flags.canary), shadow: shareOf(flags.shadow) }),
    ...(flags.public !== undefined && { public: flags.public }),
    ...(flags.requestLog !== undefined && { requestLog: flags.requestLog }),
  }
}

function pairsOf(given: readonly string[], option: string): Record<string, string> {
  return Object.fromEntries(
    given.map((pair) => {
      const [, name, value] = /^([^=]+)=(.+)$/.exec(pair) ?? []
      if (name === undefined || value === undefined)
        throw new UserError(`${option} is NAME=VALUE, not '${pair}'.`, { failure: 'usage' })
      return [name, value]
    }),
  )
}

const shareOf = (percent: number | undefined) => (percent === undefined ? undefined : percent / 100)

/** The service checks everything; here only what it cannot be sent without. */
function checked<Output>(schema: { safeParse(value: unknown): unknown }, value: unknown): Output {
  const parsed = schema.safeParse(value) as
    | { success: true; data: Output }
    | { success: false; error: { issues: { path: PropertyKey[]; message: string }[] } }
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]!
  throw new UserError(`${issue.path.join('.') || 'the settings'}: ${issue.message}`, { failure: 'usage' })
}

async function deploymentsOf({ client, project }: Session): Promise<api.DeploymentView[]> {
  return await all(client.items(api.listDeployments, { params: { project } }))
}

async function paramsOf(session: Session, typed: string) {
  const { id } = meant(await deploymentsOf(session), typed, 'deployment')
  return { project: session.project, deployment: id }
}

const columns = {
  NAME: ({ name }: api.DeploymentView) => name,
  STATE: ({ state }: api.DeploymentView) => state,
  SERVES: ({ serving, versions }: api.DeploymentView) =>
    serving === null ? '-' : `${serving} (${versions.find(({ id }) => id === serving)?.model ?? '?'})`,
  REPLICAS: ({ replicas, scaling }: api.DeploymentView) =>
    `${replicas.filter(({ phase }) => phase === 'ready').length} of ${scaling.min}..${scaling.max}`,
  MESSAGE: ({ message }: api.DeploymentView) => message,
}

async function runList(session: Session): Promise<void> {
  session.out.list(await deploymentsOf(session), columns)
}

async function runCreate(session: Session, flags: ChangeFlags, name: string): Promise<void> {
  const { client, out, project } = session
  const body = checked<api.DeploymentInput>(api.deploymentInput, { ...settingsOf(flags), name })
  const made = await client.call(api.createDeployment, { params: { project }, body })
  out.list([await settled(session, made, flags.wait)], columns)
  if (flags.wait === undefined) note(`ropeway deployment view ${name} shows how it gets on.`)
}

async function runUpdate(session: Session, flags: ChangeFlags, typed: string): Promise<void> {
  const body = checked<api.DeploymentUpdate>(api.deploymentUpdate, settingsOf(flags))
  const params = await paramsOf(session, typed)
  const changed = await session.client.call(api.updateDeployment, { params, body })
  session.out.list([await settled(session, changed, flags.wait)], columns)
}

const waitMs = 10 * 60_000

/** As it is, or with `--wait` as it is once its newest version answers. */
async function settled(
  { client, project }: Session,
  made: api.DeploymentView,
  wait: number | true | undefined,
): Promise<api.DeploymentView> {
  if (wait === undefined) return made
  const params = { project, deployment: made.id }
  return await untilServing(client, params, { limitMs: wait === true ? waitMs : wait })
}

async function runView(session: Session, _: NounFlags, typed: string): Promise<void> {
  const shown = await session.client.call(api.showDeployment, { params: await paramsOf(session, typed) })
  if (session.out.isJson) return line(JSON.stringify(shown))
  session.out.list([shown], columns)
  const who = shown.public ? 'to everybody' : 'to keys of its project'
  if (shown.url !== null) note(`\nIt answers ${who} at ${shown.url}, as the model ${shown.name}.`)
  note('')
  session.out.list(shown.replicas, {
    REPLICA: ({ id }) => id,
    VERSION: ({ version }) => version,
    PHASE: ({ phase }) => phase,
    SINCE: ({ since }) => timeText(since),
    RUNNING: ({ running }) => String(running ?? '-'),
    WAITING: ({ waiting }) => String(waiting ?? '-'),
  })
}

async function runRollback(session: Session, { version }: RollbackFlags, typed: string): Promise<void> {
  const params = await paramsOf(session, typed)
  const body = { ...(version !== undefined && { version }) }
  session.out.list([await session.client.call(api.rollbackDeployment, { params, body })], columns)
}

async function runLatest(session: Session, flags: NounFlags & { rollback?: boolean }, typed: string) {
  const params = await paramsOf(session, typed)
  const endpoint = flags.rollback === true ? rollbackPublication : viewPublication
  const { current, previous } = await session.client.call(endpoint, { params })
  const rows = previous === null ? [current] : [current, previous]
  const shown = rows.map((one) => ({ id: one.checkpoint, ...one }))
  session.out.list(shown, {
    NAME: ({ name }) => name,
    STEP: ({ step }) => String(step),
    JOB: ({ job }) => job,
    'NEW REQUESTS': ({ name }) => (name === current.name ? 'yes' : ''),
    AT: ({ at }) => timeText(at),
  })
}

async function runPromote(session: Session, _: NounFlags, typed: string): Promise<void> {
  const params = await paramsOf(session, typed)
  session.out.list([await session.client.call(api.promoteDeployment, { params })], columns)
}

async function runDelete(session: Session, flags: NounFlags, typed: string): Promise<void> {
  const params = await paramsOf(session, typed)
  await confirm(`Delete the deployment ${typed}?`, flags)
  await session.client.call(api.deleteDeployment, { params })
}
