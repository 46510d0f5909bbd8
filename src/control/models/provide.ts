/**
 * Datasets, checkpoints and models that a job's file names: put into its workspace before it starts.
 *
 * `dataset:reviews@3`, `checkpoint:base` or `model:stories:prod` in a field is a path like any other: of the folder of that
 * very name in the workspace, which is made of the version's files. So jobs need to know nothing of the service, and a
 * reference without a version, or by an alias, keeps the one that the job's first attempt found.
 */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { UserError } from '../../base/errors.ts'
import type { FilePlace } from '../blobs/content.ts'
import type { FileRow } from '../blobs/rows.ts'
import { takeFile } from '../blobs/take-file.ts'
import type { Datasets } from '../datasets/datasets.ts'
import type { Store } from '../store/store.ts'
import { type Checkpoints, nodeOf } from './checkpoints.ts'
import { type LineageNode, recordLineage } from './lineage.ts'
import type { Models } from './models.ts'

const reference = /^((?:dataset|checkpoint):[A-Za-z0-9][A-Za-z0-9._-]*(?:@[a-z0-9]+)?)(?:\/|$)/
const modelReference = /^(model:[A-Za-z0-9][A-Za-z0-9._-]*(?:@[0-9]{1,9}|:[a-z0-9._-]{1,63})?)(?:\/|$)/
const depthMax = 20
const referencesMax = 100

/**
 * Every reference in a job's file, each once: `dataset:reviews@3`. Models are looked for below the field `model` alone (`ofModel`),
 * as other people's programs may mean something else by such a text. Throws UserError for too many.
 */
export function referencesIn(value: unknown, depth = 0, ofModel = false): string[] {
  if (typeof value === 'string') {
    const match = reference.exec(value) ?? (ofModel ? modelReference.exec(value) : null)
    return match === null ? [] : [match[1]!]
  }
  if (typeof value !== 'object' || value === null || depth > depthMax) return []
  const found = Object.entries(value).flatMap(([field, inner]) =>
    referencesIn(inner, depth + 1, ofModel || (depth === 0 && field === 'model')),
  )
  const each = [...new Set(found)]
  if (each.length > referencesMax) {
    throw new UserError(
      `The job file names ${each.length} datasets, checkpoints and models; at most ${referencesMax} are allowed.`,
      {
        failure: 'usage',
        fix: 'Put the files of several datasets into one: ropeway dataset upload takes folders.',
      },
    )
  }
  return each
}

export interface Providing {
  readonly store: Store
  readonly datasets: Datasets
  readonly checkpoints: Checkpoints
  readonly models: Models
}

/** Makes the folders that `file` names in `workspace`; done again, it changes nothing. Throws UserError. */
export async function provide(
  { store, datasets, checkpoints, models }: Providing,
  project: string,
  job: LineageNode,
  file: unknown,
  workspace: string,
): Promise<void> {
  for (const name of referencesIn(file)) {
    const target = join(workspace, name)
    if (existsSync(target)) continue
    const typed = name.slice(name.indexOf(':') + 1)
    let from: LineageNode
    if (name.startsWith('dataset:')) {
      const { dataset, version } = await datasets.resolve(project, typed)
      from = { id: version.id, label: `dataset ${dataset.name}@${version.number}` }
      await fillFolder(target, await datasets.files(version), (one) => datasets.placeOf(version, one))
    } else {
      const row = name.startsWith('model:')
        ? (await models.resolve(project, typed)).checkpoint
        : await checkpoints.find(project, typed)
      from = nodeOf(row)
      await fillFolder(target, await checkpoints.files(row), (one) => checkpoints.placeOf(row, one))
    }
    await recordLineage(store, project, { from, to: job })
  }
}

/** Makes the folder `target` of these files. */
export async function fillFolder(
  target: string,
  files: readonly FileRow[],
  placeOf: (file: FileRow) => Promise<FilePlace>,
): Promise<void> {
  // Whole or not at all: what a crash leaves has another name.
  const making = `${target}.${randomBytes(4).toString('hex')}.making`
  try {
    for (const file of files) {
      await takeFile(await placeOf(file), file, join(making, file.path), 'own')
    }
    await rename(making, target)
  } catch (error) {
    await rm(making, { recursive: true, force: true })
    throw error
  }
}
