/**
 * Checkpoints: the files of a model at some step, whether a job wrote them, somebody uploaded them, or they lie in a
 * bucket. Their files never change. What is a version of a model is not deleted; the rest can be restored for a day.
 */
import { type CheckpointSpec, formatOf } from '../../api/control/checkpoints.ts'
import type { PlaceLink } from '../../api/control/places.ts'
import { UserError } from '../../base/errors.ts'
import type { Blobs } from '../blobs/blobs.ts'
import type { FilePlace } from '../blobs/content.ts'
import { checkFiles, deleteFiles, digestOfFiles, filesOf, insertFiles, type NewFile } from '../blobs/files.ts'
import { listedFiles } from '../blobs/linked-files.ts'
import type { FileRow } from '../blobs/rows.ts'
import { openPlace, type PlaceAccess } from '../objects/places.ts'
import { deleteSoftly, purgeDeleted, restoreDeleted, restoreMs } from '../store/deletion.ts'
import { recordEvent } from '../store/events.ts'
import { Nouns } from '../store/nouns.ts'
import type { Store } from '../store/store.ts'
import { type LineageNode, recordLineage } from './lineage.ts'
import type { CheckpointRow, ModelRow, ReleaseTables } from './rows.ts'
import { refuseUsed, type UsesIn } from './uses.ts'

export interface NewCheckpoint {
  readonly name: string
  readonly step: number
  readonly files: readonly { readonly path: string; readonly blob: string }[]
  readonly layout: CheckpointSpec['layout']
  readonly description: string
}

/** A checkpoint that a job wrote. */
export interface JobCheckpoint {
  readonly job: { readonly id: string; readonly name: string }
  readonly step: number
  readonly files: readonly { readonly path: string; readonly blob: string }[]
  readonly layout: CheckpointSpec['layout']
  readonly metrics: Readonly<Record<string, number>>
}

export class Checkpoints {
  readonly store: Store
  readonly nouns: Nouns<CheckpointRow>
  readonly #blobs: Blobs
  readonly #places: PlaceAccess
  readonly usesIn: UsesIn

  constructor(blobs: Blobs, places: PlaceAccess, usesIn: UsesIn) {
    this.store = blobs.store
    this.nouns = new Nouns<CheckpointRow>(this.store, 'checkpoints', 'checkpoint')
    this.#blobs = blobs
    this.#places = places
    this.usesIn = usesIn
  }

  /** Of files that were uploaded. The same content under the same name again is the same checkpoint. */
  add(project: string, given: NewCheckpoint): Promise<CheckpointRow> {
    return this.store.transaction(async () => {
      const files = await this.#used(project, given.files)
      return await this.#insert(project, given, files, { kind: 'upload' })
    })
  }

  /** Of files in a bucket or folder. Nothing is copied. */
  async link(project: string, given: Omit<NewCheckpoint, 'files'>, link: PlaceLink): Promise<CheckpointRow> {
    const place = await openPlace(link, project, this.#places)
    const files = await listedFiles(place)
    // A checkpoint never changes, and what a branch of the hub holds may.
    const source = { kind: 'link' as const, link: { ...link, url: (await place.pinnedUrl?.()) ?? link.url } }
    return await this.store.transaction(() => this.#insert(project, given, files, source))
  }

  /** What a job wrote, told as often as one likes: a job has one checkpoint of a step, and none once it was deleted. */
  ofJob(
    project: string,
    { job, step, files, layout, metrics }: JobCheckpoint,
  ): Promise<CheckpointRow | undefined> {
    return this.store.transaction(async () => {
      const known = await this.jobStep(job.id, step)
      if (known !== undefined) return known.deleted_at === null ? known : undefined
      const used = await this.#used(project, files)
      // Names of jobs may repeat, those of checkpoints do not.
      const short = `${job.name.slice(0, 40)}-${step}`
      const name =
        (await this.nouns.named(project, short)) === undefined ? short : `${short}-${job.id.slice(-6)}`
      const given = { name, step, layout, description: '' }
      const row = await this.#insert(project, given, used, { kind: 'job', job: job.id }, { job, metrics })
      await recordLineage(this.store, project, {
        from: { id: job.id, label: `job ${job.name}` },
        to: nodeOf(row),
      })
      return row
    })
  }

  /** Steps of which a job's checkpoint is known, deleted or not. */
  async stepsOf(job: string): Promise<Set<number>> {
    const db = this.store.db<{ checkpoints: CheckpointRow }>()
    const rows = await db.selectFrom('checkpoints').select('step').where('job_id', '=', job).execute()
    return new Set(rows.map(({ step }) => step))
  }

  /** A job's checkpoint of a step, deleted or not. */
  async jobStep(job: string, step: number): Promise<CheckpointRow | undefined> {
    const { rows } = await this.#ofJobs((is) => is.and([is('job_id', '=', job), is('step', '=', step)]))
    return (
      rows[0] ??
      (await this.#ofJobs((is) => is.and([is('job_id', '=', job), is('step', '=', step)]), true)).rows[0]
    )
  }

  #ofJobs(where: Parameters<Nouns<CheckpointRow>['list']>[0]['where'] & object, deleted = false) {
    return this.nouns.list({ where, deleted, limit: 1, descending: true })
  }

  /** A name, an id, the beginning of either, or `JOB@STEP`, `JOB@latest` with a job's name or id. */
  async find(project: string, typed: string): Promise<CheckpointRow> {
    const [, job, step] = /^(.+)@(\d{1,15}|latest)$/s.exec(typed) ?? []
    const what = JSON.stringify(typed.slice(0, 150))
    if (job !== undefined) {
      const { rows } = await this.nouns.list({
        project,
        where: (is) =>
          is.and([
            is.or([is('job_id', '=', job), is('job_name', '=', job)]),
            ...(step === 'latest' ? [] : [is('step', '=', Number(step))]),
          ]),
        descending: true,
        limit: 1,
      })
      if (rows[0] !== undefined) return rows[0]
      throw new UserError(`There is no checkpoint ${what}.`, {
        failure: 'not_found',
        fix: '`ropeway checkpoint list` shows which there are.',
      })
    }
    const [found, another] = await this.nouns.find(project, typed, 2)
    if (found !== undefined && another === undefined) return found
    throw new UserError(
      found === undefined ? `There is no checkpoint ${what}.` : `Several checkpoints begin with ${what}.`,
      {
        failure: found === undefined ? 'not_found' : 'usage',
        fix: '`ropeway checkpoint list` shows which there are.',
      },
    )
  }

  files(row: CheckpointRow): Promise<FileRow[]> {
    return filesOf(this.store, row.id)
  }

  /** The store that a file is read from, and its key there. */
  async placeOf(row: CheckpointRow, file: FileRow): Promise<FilePlace> {
    const { source } = row.spec
    if (source.kind === 'link') {
      return { objects: await openPlace(source.link, row.project_id, this.#places), key: file.path }
    }
    const { key } = await this.#blobs.get(row.project_id, file.blob_id!)
    return { objects: this.#blobs.objects, key }
  }

  /** Refused for what is a version of a model, or in use. `why` is shown to whoever asks where it went. */
  delete(row: CheckpointRow, why?: string): Promise<void> {
    return this.store.transaction(async () => {
      // Written to first, so that it does not become a version of a model in between.
      if ((await this.hold(row.id)) === undefined) return
      const release = await this.#releaseOf(row.id)
      if (release !== undefined) throw ofModel(row, release)
      const uses = await this.usesIn(row.project_id)
      refuseUsed(
        row.name,
        uses.filter(({ checkpoint }) => checkpoint === row.id),
      )
      await deleteSoftly(this.nouns, row.id, why)
    })
  }

  /** In a transaction: whether it is there, and stays until the end of it. */
  async hold(id: string): Promise<CheckpointRow | undefined> {
    const row = await this.nouns.change(id, (now) => (now.deleted_at === null ? {} : undefined))
    return row?.deleted_at === null ? row : undefined
  }

  restore(project: string, id: string): Promise<CheckpointRow> {
    return restoreDeleted(this.nouns, project, id)
  }

  purge(): Promise<number> {
    return purgeDeleted(this.nouns, ({ id }) => deleteFiles(this.store, id))
  }

  /** Of a model that is there, if it is a version of several. */
  #releaseOf(checkpoint: string): Promise<ModelRelease | undefined> {
    return this.store
      .db<ReleaseTables & { models: ModelRow }>()
      .selectFrom('model_versions')
      .innerJoin('models', 'models.id', 'model_versions.model_id')
      .select(['model_versions.number', 'models.name', 'models.deleted_at'])
      .where('model_versions.checkpoint_id', '=', checkpoint)
      .orderBy((is) => is.fn.coalesce('models.deleted_at', is.val(0)))
      .limit(1)
      .executeTakeFirst()
  }

  async #used(project: string, files: NewCheckpoint['files']): Promise<NewFile[]> {
    const used = await this.#blobs.use(
      project,
      files.map(({ blob }) => blob),
    )
    return files.map(({ path, blob }) => {
      const { bytes, digest } = used.get(blob)!
      return { path, blob_id: blob, bytes, digest }
    })
  }

  async #insert(
    project: string,
    { name, step, layout, description }: Omit<NewCheckpoint, 'files'>,
    files: NewFile[],
    source: CheckpointSpec['source'],
    { job, metrics = {} }: Partial<Pick<JobCheckpoint, 'job' | 'metrics'>> = {},
  ): Promise<CheckpointRow> {
    checkFiles(files)
    if (files.length === 0) {
      throw new UserError(`The checkpoint ${name} needs a file.`, {
        failure: 'usage',
        fix: 'Name its files or check the prefix.',
      })
    }
    const digest = await digestOfFiles(files)
    const made = await this.nouns.insert({
      project_id: project,
      name,
      spec: { source, format: formatOf(files.map(({ path }) => path)), layout, description },
      status: { metrics },
      job_id: job?.id ?? null,
      job_name: job?.name ?? null,
      step,
      digest,
      bytes: files.reduce((sum, { bytes }) => sum + bytes, 0),
      files: files.length,
    })
    if (made === undefined) return this.#same(project, name, digest)
    await insertFiles(this.store, made.id, files)
    await recordEvent(this.store, {
      subject: made.id,
      project,
      kind: 'checkpoint.created',
      message: `It has ${files.length} files, from ${source.kind === 'job' ? `the job ${job!.name}` : source.kind}.`,
      details: { digest, bytes: made.bytes },
    })
    return made
  }

  async #same(project: string, name: string, digest: string): Promise<CheckpointRow> {
    const known = await this.nouns.named(project, name)
    if (known?.digest === digest) return known
    throw new UserError(`There is a checkpoint ${name} already, with other content.`, {
      failure: 'conflict',
      fix: 'Take another name, or delete that one.',
    })
  }
}

export function nodeOf(row: CheckpointRow): LineageNode {
  return { id: row.id, label: `checkpoint ${row.name}` }
}

interface ModelRelease {
  readonly number: number
  /** Of the model. */
  readonly name: string
  readonly deleted_at: number | null
}

/** A model that was deleted keeps its checkpoints for as long as it can be restored. */
function ofModel(checkpoint: CheckpointRow, { number, name, deleted_at }: ModelRelease): UserError {
  const what = `${checkpoint.name} is version ${number} of the model ${name}`
  if (deleted_at === null)
    return new UserError(`${what}.`, {
      failure: 'conflict',
      fix: `Delete the model first (\`ropeway model delete ${name}\`), or leave the checkpoint.`,
    })
  const until = new Date(deleted_at + restoreMs).toISOString().slice(0, '2026-11-26T15:04'.length)
  return new UserError(`${what}, which was deleted and can be restored for a day.`, {
    failure: 'conflict',
    fix: `Nothing is to be done but wait: the model goes for good at ${until.replace('T', ' ')} (UTC), and then the checkpoint can be deleted.`,
  })
}
