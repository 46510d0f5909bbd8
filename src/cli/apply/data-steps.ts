/** Steps about datasets, checkpoints, models and what is kept. */
import * as datasets from '../../api/control/datasets.ts'
import * as models from '../../api/control/models.ts'
import { retentionSpec } from '../../api/control/retention.ts'
import { all } from '../noun.ts'
import { bytes } from '../terminal.ts'
import { digestOf, filesOf, type LocalFile, upload } from '../uploading.ts'
import {
  type Change,
  changing,
  creating,
  differences,
  exactly,
  type Planner,
  type Target,
  unchanged,
  unlessMissing,
} from './plan.ts'

export const planDataset: Planner<'dataset'> = async (target, wanted) => {
  const { client, project } = target
  const { name, description, link } = wanted
  const params = { project, dataset: name }
  const files = wanted.files === undefined ? undefined : await filesOf(wanted.files)
  const known = await exactly(name, client.call(datasets.viewDataset, { params }))
  const about =
    description === undefined || description === known?.description
      ? []
      : [{ field: 'description', from: known?.description, to: description }]
  const content =
    known === undefined
      ? []
      : files === undefined
        ? differences(known.version.link ?? undefined, link, 'link')
        : await fileChanges(target, known, files)
  const act = async () => {
    if (known === undefined || content.length > 0)
      if (files === undefined) await client.call(datasets.linkDataset, { params, body: { link: link! } })
      else await sendVersion(target, name, files)
    if (about.length > 0)
      await client.call(datasets.editDataset, { params, body: { description: description! } })
    return await client.call(datasets.viewDataset, { params })
  }
  if (known === undefined)
    return creating(files === undefined ? `linked from ${link!.url}` : amount(files), act)
  return changing(
    [...content, ...about],
    act,
    content.length > 0 ? `a new version after ${known.latest}` : '',
  )
}

async function sendVersion({ client, project }: Target, dataset: string, files: readonly LocalFile[]) {
  const sent = await upload(client, project, files)
  for (let at = 0; at < sent.length; at += datasets.requestFilesMax)
    await client.call(datasets.addVersion, {
      params: { project, dataset },
      body: { files: sent.slice(at, at + datasets.requestFilesMax), keep: at > 0 },
    })
}

/** What is not as in the newest version. Only files of the same length are read. */
async function fileChanges(
  { client, project }: Target,
  { name, version }: { name: string; version: { number: number; link: unknown } },
  files: readonly LocalFile[],
): Promise<Change[]> {
  if (version.link !== null) return [{ field: 'link', from: version.link, to: undefined }]
  const params = { project, dataset: `${name}@${version.number}` }
  const there = new Map(
    (await all(client.items(datasets.listFiles, { params }), Number.POSITIVE_INFINITY)).map((file) => [
      file.path,
      file,
    ]),
  )
  const changes: Change[] = []
  for (const file of files) {
    const before = there.get(file.path)
    there.delete(file.path)
    if (before !== undefined && before.bytes === file.bytes && before.digest === (await digestOf(file)))
      continue
    changes.push({ field: file.path, from: before && bytes(before.bytes), to: bytes(file.bytes) })
  }
  for (const file of there.values())
    changes.push({ field: file.path, from: bytes(file.bytes), to: undefined })
  return changes
}

export const planCheckpoint: Planner<'checkpoint'> = async ({ client, project }, wanted) => {
  const { name, step, layout, description = '', link } = wanted
  const params = { project, checkpoint: name }
  const known = await exactly(name, client.call(models.viewCheckpoint, { params }))
  if (known !== undefined) return unchanged('it is there; the files of a checkpoint never change')
  const body = { name, step, layout, description }
  if (link !== undefined)
    return creating(`linked from ${link.url}`, () =>
      client.call(models.linkCheckpoint, { params: { project }, body: { ...body, link } }),
    )
  const files = await filesOf(wanted.files!)
  return creating(amount(files), async () =>
    client.call(models.createCheckpoint, {
      params: { project },
      body: { ...body, files: await upload(client, project, files) },
    }),
  )
}

export const planModel: Planner<'model'> = async ({ client, project }, wanted) => {
  const { name, checkpoint, alias } = wanted
  const params = { project, model: name }
  const known = await exactly(name, client.call(models.viewModel, { params }))
  const act = () =>
    client.call(models.promote, { params, body: { checkpoint, ...(alias !== undefined && { alias }) } })
  if (known === undefined)
    return creating(`${checkpoint}${alias === undefined ? '' : `, called ${alias}`}`, act)
  // `JOB@STEP` names a checkpoint too.
  const meant = await unlessMissing(client.call(models.viewCheckpoint, { params: { project, checkpoint } }))
  const isSame = meant !== undefined && meant.id === known.checkpoint.id
  const aliased = alias === undefined ? undefined : known.aliases[alias]
  const { number } = known.version
  return changing(
    [
      ...(isSame ? [] : [{ field: 'checkpoint', from: known.checkpoint.name, to: checkpoint }]),
      ...(alias === undefined || (isSame && aliased === number)
        ? []
        : [{ field: `aliases.${alias}`, from: aliased, to: isSame ? number : number + 1 }]),
    ],
    // The checkpoint is the newest version already: only the alias moves.
    isSame
      ? () =>
          client.call(models.setAlias, { params: { ...params, alias: alias! }, body: { version: number } })
      : act,
  )
}

export const planRetention: Planner<'retention'> = async ({ client, project }, wanted) => {
  const { kind: _, name, project: __, ...body } = wanted
  const act = () => client.call(models.setRetention, { params: { project, rule: name }, body })
  const rules = await unlessMissing(all(client.items(models.listRetention, { params: { project } })))
  const known = rules?.find((rule) => rule.name === name)
  if (known === undefined) return creating(`keeps the last ${wanted.keep_last} of ${wanted.jobs}`, act)
  return changing(differences(retentionSpec.parse(known.rule), retentionSpec.parse(body)), act)
}

function amount(files: readonly LocalFile[]): string {
  return `${files.length} files, ${bytes(files.reduce((sum, file) => sum + file.bytes, 0))}`
}
