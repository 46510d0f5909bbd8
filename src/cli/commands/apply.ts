import type { Command } from 'commander'
import * as datasets from '../../api/control/datasets.ts'
import type { AnswerOf, EndpointDefinition } from '../../api/control/endpoint.ts'
import type { Manifest, ManifestOf } from '../../api/control/manifest.ts'
import * as models from '../../api/control/models.ts'
import { Refused } from '../../api/control/problem.ts'
import { retentionSpec } from '../../api/control/retention.ts'
import { UserError } from '../../base/errors.ts'
import { manifestSchema, readManifests } from '../manifests.ts'
import { confirm, type NounFlags, onService, type Session } from '../noun.ts'
import { line } from '../output.ts'
import { bytes, note } from '../terminal.ts'
import { filesOf, upload } from '../uploading.ts'

interface ApplyFlags extends NounFlags {
  file?: string
  schema?: boolean
  dryRun?: boolean
}

/** What is to be done to one thing. */
interface Step {
  /** `create`, `change`, or nothing. */
  readonly does: 'create' | 'change' | 'nothing'
  /** For people: what changes. */
  readonly says: string
  act(): Promise<unknown>
}

type Planner<Kind extends Manifest['kind']> = (session: Session, wanted: ManifestOf<Kind>) => Promise<Step>

export function applyCommand(program: Command): void {
  onService(
    program
      .command('apply')
      .description('make things as a YAML file says: shows the plan, then acts')
      .option('-f, --file <path>', 'the file; it may hold several documents')
      .option('--dry-run', 'show the plan and do nothing')
      .option('--schema', 'print the JSON schema of the file, for editors')
      .option('-y, --yes', 'do not ask'),
    runApply,
  )
}

async function runApply(session: Session, flags: ApplyFlags): Promise<void> {
  if (flags.schema === true) return line(JSON.stringify(manifestSchema(), undefined, 2))
  if (flags.file === undefined) throw new UserError('apply needs a file: -f FILE.', { failure: 'usage' })
  const manifests = readManifests(flags.file)
  const steps: { wanted: Manifest; step: Step }[] = []
  for (const wanted of manifests) steps.push({ wanted, step: await planOf(session, wanted) })
  for (const { wanted, step } of steps)
    note(`${signs[step.does]} ${wanted.kind} ${wanted.name}: ${step.says}`)
  const todo = steps.filter(({ step }) => step.does !== 'nothing')
  if (todo.length === 0 || flags.dryRun === true) return
  await confirm(`Do this (${todo.length} of ${steps.length})?`, flags)
  // In the order of the file: later things may name earlier ones.
  for (const { wanted, step } of todo) {
    const result = await step.act()
    line(session.out.isJson ? JSON.stringify(result) : `${wanted.kind} ${wanted.name}: done`)
  }
}

const signs = { create: '+', change: '~', nothing: '=' } as const

const planners: { readonly [Kind in Manifest['kind']]: Planner<Kind> } = {
  dataset: planDataset,
  checkpoint: planCheckpoint,
  model: planModel,
  retention: planRetention,
}

function planOf(session: Session, wanted: Manifest): Promise<Step> {
  return (planners[wanted.kind] as Planner<typeof wanted.kind>)(session, wanted as never)
}

async function planDataset(session: Session, wanted: ManifestOf<'dataset'>): Promise<Step> {
  const { client, project } = session
  const { name, description, link } = wanted
  const params = { project, dataset: name }
  const known = await exactly(name, session, datasets.viewDataset, { params })
  const about = link === undefined ? await amount(wanted.files!) : `linked from ${link.url}`
  const act = async () => {
    const made =
      link === undefined
        ? await client.call(datasets.addVersion, {
            params,
            body: { files: await upload(client, project, await filesOf(wanted.files!)), keep: false },
          })
        : await client.call(datasets.linkDataset, { params, body: { link } })
    if (description === undefined || description === made.description) return made
    return await client.call(datasets.editDataset, { params, body: { description } })
  }
  if (known === undefined) return { does: 'create', says: about, act }
  return {
    does: 'change',
    says: `${about}: a new version after ${known.latest} if the content is another`,
    act,
  }
}

async function planCheckpoint(session: Session, wanted: ManifestOf<'checkpoint'>): Promise<Step> {
  const { client, project } = session
  const { name, step, layout, description = '', link } = wanted
  const known = await exactly(name, session, models.viewCheckpoint, { params: { project, checkpoint: name } })
  const body = { name, step, layout, description }
  const act = async () =>
    link === undefined
      ? await client.call(models.createCheckpoint, {
          params: { project },
          body: { ...body, files: await upload(client, project, await filesOf(wanted.files!)) },
        })
      : await client.call(models.linkCheckpoint, { params: { project }, body: { ...body, link } })
  if (known !== undefined)
    return { does: 'nothing', says: 'it is there; the files of a checkpoint never change', act }
  const about = link === undefined ? await amount(wanted.files!) : `linked from ${link.url}`
  return { does: 'create', says: about, act }
}

async function planModel(session: Session, wanted: ManifestOf<'model'>): Promise<Step> {
  const { client, project } = session
  const { name, checkpoint, alias } = wanted
  const params = { project, model: name }
  const known = await exactly(name, session, models.viewModel, { params })
  const says = `${checkpoint}${alias === undefined ? '' : ` as ${alias}`}`
  const act = () =>
    client.call(models.promote, { params, body: { checkpoint, ...(alias !== undefined && { alias }) } })
  if (known === undefined) return { does: 'create', says, act }
  const is = known.checkpoint.name === checkpoint || known.checkpoint.id === checkpoint
  const isAliased = alias === undefined || known.aliases[alias] === known.version.number
  return is && isAliased ? { does: 'nothing', says: 'it is so', act } : { does: 'change', says, act }
}

async function planRetention({ client, project }: Session, wanted: ManifestOf<'retention'>): Promise<Step> {
  const { kind: _, name, ...body } = wanted
  const act = () => client.call(models.setRetention, { params: { project, rule: name }, body })
  for await (const item of client.items(models.listRetention, { params: { project } })) {
    if (item.name !== name) continue
    const same = JSON.stringify(retentionSpec.parse(item.rule)) === JSON.stringify(retentionSpec.parse(body))
    return same ? { does: 'nothing', says: 'it is so', act } : { does: 'change', says: 'another rule', act }
  }
  return { does: 'create', says: `keeps the last ${wanted.keep_last} of ${wanted.jobs}`, act }
}

/** The thing of exactly this name, or undefined: a plan is not made by the beginning of a name. */
async function exactly<D extends EndpointDefinition>(
  name: string,
  { client }: Session,
  endpoint: D,
  input: Parameters<typeof client.call<D>>[1],
): Promise<(AnswerOf<D> & { name: string }) | undefined> {
  try {
    const found = (await client.call(endpoint, input)) as AnswerOf<D> & { name: string }
    return found.name === name ? found : undefined
  } catch (error) {
    if (error instanceof Refused && ['not_found', 'invalid_request'].includes(error.code)) return undefined
    throw error
  }
}

async function amount(paths: readonly string[]): Promise<string> {
  const files = await filesOf(paths)
  return `${files.length} files, ${bytes(files.reduce((sum, file) => sum + file.bytes, 0))}`
}
