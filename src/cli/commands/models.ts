import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Command } from 'commander'
import type { z } from 'zod'
import * as api from '../../api/control/models.ts'
import { retentionSpec } from '../../api/control/retention.ts'
import { UserError } from '../../base/errors.ts'
import { HubStore, hubPlaceOf } from '../../control/objects/hub.ts'
import { hubEndpoint } from '../../control/objects/hub-client.ts'
import { type Deletable, deleteVerbs } from '../deletable.ts'
import { cacheFolder } from '../home.ts'
import { all, completeWith, type NounFlags, onService, type Session } from '../noun.ts'
import { number, wholeNumber } from '../options.ts'
import { timeText } from '../output.ts'
import { pullFiles } from '../pulling.ts'
import { note } from '../terminal.ts'
import { upload } from '../uploading.ts'
import { showLineage } from './checkpoints.ts'

export function modelCommand(program: Command): void {
  const noun = program.command('model').description('names under which checkpoints are put to use')
  const named = (verb: string, description: string) =>
    completeWith(noun.command(verb).description(description).argument('<name>'), names)
  onService(
    noun
      .command('list', { isDefault: true })
      .description('list them')
      .option('--deleted', 'those that were deleted and can be restored'),
    runList,
  )
  onService(named('view', 'show one: NAME, NAME@3, NAME:ALIAS'), runView)
  onService(named('versions', 'list its versions'), runVersions)
  onService(
    noun
      .command('promote')
      .description('make a version of a checkpoint, and move an alias to it')
      .argument('<checkpoint>', 'its name, or JOB@STEP')
      .argument('<name>', 'of the model, which is made when there is none')
      .option('--as <alias>', 'the alias that moves to it, such as prod')
      .option('-m, --message <text>', 'why', ''),
    runPromote,
  )
  onService(
    noun
      .command('pull')
      .description('fetch one from the Hugging Face hub and make a version of it; goes on where it stopped')
      .argument('<url>', 'hf://ORG/NAME, hf://ORG/NAME@REVISION, or with /FILE.gguf behind it')
      .argument('[name]', 'what to call the model (default: its name there)')
      .option('--as <alias>', 'the alias that moves to it, such as prod'),
    runPull,
  )
  onService(
    named('alias', 'move an alias to a version that there is, forth or back')
      .argument('<alias>')
      .argument('<version>', 'a number, or none'),
    runAlias,
  )
  onService(named('lineage', 'what a version was made of, and what uses it'), runLineage)
  deleteVerbs(noun, named, deletableModel)
  retentionCommand(program)
}

function retentionCommand(program: Command): void {
  const noun = program.command('retention').description('rules about which checkpoints of jobs stay')
  onService(noun.command('list', { isDefault: true }).description('list them'), runRules)
  onService(
    noun
      .command('set')
      .description('set a rule: a checkpoint stays when any rule keeps it, or a model names it')
      .argument('<name>')
      .option('--jobs <name>', 'jobs of this name; * at its end stands for any rest', '*')
      .option('--keep-last <n>', 'the newest of each job', wholeNumber(1), 1)
      .option('--keep-every <steps>', 'those whose step is a multiple', wholeNumber(1))
      .option('--keep-days <days>', 'those that are younger', number(0, 36_500))
      .option('--keep-best <metric>', 'the one with the least of a metric (loss), or the most (+accuracy)')
      .option('--keep-best-count <n>', 'so many of the best instead of one', wholeNumber(1)),
    runSetRule,
  )
  onService(noun.command('delete').description('take a rule away').argument('<name>'), runDeleteRule)
}

const names = async (session: Session): Promise<string[]> =>
  (await listed(session, false)).map(({ name }) => name)

function listed({ client, project }: Session, deleted: boolean) {
  const query = { deleted: deleted ? 'true' : 'false' } as const
  return all(client.items(api.listModels, { params: { project }, query }))
}

const aliasesText = (aliases: Readonly<Record<string, number>>) =>
  Object.entries(aliases)
    .map(([alias, version]) => `${alias}@${version}`)
    .join(' ')

async function runList(session: Session, flags: NounFlags & { deleted?: boolean }): Promise<void> {
  session.out.list(await listed(session, flags.deleted === true), {
    NAME: ({ name }) => name,
    VERSION: ({ latest }) => latest,
    ALIASES: ({ aliases }) => aliasesText(aliases),
    CHANGED: ({ updated_at }) => timeText(updated_at),
    ...(flags.deleted === true && { ID: ({ id }: { id: string }) => id }),
  })
}

function show({ out }: Session, model: z.output<typeof api.modelView>): void {
  out.one(model, {
    name: ({ name, version }) => `${name}@${version.number}`,
    aliases: ({ aliases }) => aliasesText(aliases),
    checkpoint: ({ checkpoint }) => checkpoint.name,
    format: ({ checkpoint }) => checkpoint.format,
    message: ({ version }) => version.message,
    made: ({ version }) => timeText(version.created_at),
  })
}

async function runView(session: Session, _flags: NounFlags, model: string): Promise<void> {
  const { client, project } = session
  show(session, await client.call(api.viewModel, { params: { project, model } }))
}

async function runVersions(
  { client, out, project }: Session,
  _flags: NounFlags,
  model: string,
): Promise<void> {
  out.list(await all(client.items(api.listReleases, { params: { project, model } })), {
    VERSION: (release) => release.number,
    CHECKPOINT: ({ checkpoint }) => checkpoint,
    MESSAGE: ({ message }) => message,
    MADE: ({ created_at }) => timeText(created_at),
  })
}

async function runPromote(
  session: Session,
  flags: NounFlags & { as?: string; message: string },
  checkpoint: string,
  model: string,
): Promise<void> {
  const { client, project } = session
  const body = { checkpoint, message: flags.message, ...(flags.as !== undefined && { alias: flags.as }) }
  show(session, await client.call(api.promote, { params: { project, model }, body }))
}

/** The token comes from HF_TOKEN, the address of a mirror from HF_ENDPOINT, as the hub's own programs have them. */
async function runPull(
  session: Session,
  flags: NounFlags & { as?: string },
  url: string,
  given: string | undefined,
): Promise<void> {
  const { client, project } = session
  const place = hubPlaceOf(url)
  if (place.kind === 'datasets')
    throw new UserError(`${url} is a dataset.`, { failure: 'usage', fix: `ropeway dataset link NAME ${url}` })
  const { HF_ENDPOINT, HF_TOKEN } = process.env
  const store = new HubStore(place, { endpoint: HF_ENDPOINT || hubEndpoint, token: HF_TOKEN || undefined })
  const pinned = await store.pinnedUrl()
  const model = given ?? nameOf(place.repository)
  const commit = hubPlaceOf(pinned).revision
  const folder = join(cacheFolder(), 'hub', ...place.repository.split('/'), commit)
  const files = await upload(client, project, await pullFiles(store, folder))
  const body = { name: `${model.slice(0, 50)}-${commit.slice(0, 12)}`, files, description: pinned }
  const checkpoint = await client.call(api.createCheckpoint, { params: { project }, body })
  await runPromote(session, { ...flags, message: `from ${pinned}` }, checkpoint.id, model)
  await rm(folder, { recursive: true, force: true })
}

/** The name there as ours may be. */
function nameOf(repository: string): string {
  const name = repository.split('/')[1]!.toLowerCase()
  const begun = name.replace(/^[^a-z0-9]+/, '').slice(0, 63)
  return begun.replace(/[^a-z0-9]+$/, '') || 'model'
}

async function runAlias(
  { client, out, project }: Session,
  _flags: NounFlags,
  model: string,
  alias: string,
  version: string,
): Promise<void> {
  if (version !== 'none' && !/^\d{1,9}$/.test(version)) {
    throw new UserError(`${version} is no number of a version.`, {
      failure: 'usage',
      fix: 'Give 3, say, or none.',
    })
  }
  const params = { project, model, alias }
  const changed =
    version === 'none'
      ? await client.call(api.removeAlias, { params })
      : await client.call(api.setAlias, { params, body: { version: Number(version) } })
  out.one(changed, { name: ({ name }) => name, aliases: ({ aliases }) => aliasesText(aliases) })
}

async function runLineage(session: Session, _flags: NounFlags, model: string): Promise<void> {
  const { client, project } = session
  showLineage(session, await client.call(api.modelLineage, { params: { project, model } }))
}

const deletableModel: Deletable<z.output<typeof api.modelItem>> = {
  word: 'model',
  says: 'delete one that nothing uses',
  question: '? Its checkpoints stay.',
  find: ({ client, project }, model) => client.call(api.viewModel, { params: { project, model } }),
  delete: ({ client, project }, model) => client.call(api.deleteModel, { params: { project, model } }),
  restore: ({ client, project }, model) => client.call(api.restoreModel, { params: { project, model } }),
  deleted: async (session) => (await listed(session, true)).map(({ id }) => id),
  show: ({ out }, restored) =>
    out.one(restored, { name: ({ name }) => name, version: ({ latest }) => latest }),
}

async function runRules({ client, out, project }: Session): Promise<void> {
  const rules = await all(client.items(api.listRetention, { params: { project } }))
  out.list(
    rules.map((rule) => ({ id: rule.name, ...rule })),
    {
      NAME: ({ name }) => name,
      JOBS: ({ rule }) => rule.jobs,
      'KEEP LAST': ({ rule }) => rule.keep_last,
      EVERY: ({ rule }) => rule.keep_every,
      DAYS: ({ rule }) => rule.keep_days,
      BEST: ({ rule }) => rule.keep_best?.metric,
    },
  )
}

interface RuleFlags extends NounFlags {
  jobs: string
  keepLast: number
  keepEvery?: number
  keepDays?: number
  keepBest?: string
  keepBestCount?: number
}

async function runSetRule({ client, project }: Session, flags: RuleFlags, rule: string): Promise<void> {
  const { keepBest: best, keepBestCount: count } = flags
  if (best === undefined && count !== undefined)
    throw new UserError('--keep-best-count goes with --keep-best METRIC.', { failure: 'usage' })
  const body = retentionSpec.parse({
    jobs: flags.jobs,
    keep_last: flags.keepLast,
    keep_every: flags.keepEvery,
    keep_days: flags.keepDays,
    ...(best !== undefined && {
      keep_best: { metric: best.replace(/^\+/, ''), mode: best.startsWith('+') ? 'max' : 'min', count },
    }),
  })
  await client.call(api.setRetention, { params: { project, rule }, body })
  note(`The rule ${rule} is set.`)
}

async function runDeleteRule({ client, project }: Session, _flags: NounFlags, rule: string): Promise<void> {
  await client.call(api.deleteRetention, { params: { project, rule } })
  note(`The rule ${rule} was taken away.`)
}
