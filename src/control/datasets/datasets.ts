/**
 * Datasets: names for lists of files that never change.
 *
 * Every change makes a version with a number and a digest; what a job has read can be read again. Saying the same
 * twice makes one version, so a request whose answer was lost may be repeated. Files of ours are blobs; a linked
 * version names files of somebody's bucket or folder with the tags that they had, and reading one that has another
 * tag by then is refused.
 */
import type { PlaceLink } from '../../api/control/places.ts'
import { UserError } from '../../base/errors.ts'
import type { Blobs } from '../blobs/blobs.ts'
import type { FilePlace } from '../blobs/content.ts'
import { checkFiles, deleteFiles, digestOfFiles, filesOf, insertFiles, type NewFile } from '../blobs/files.ts'
import { listedFiles } from '../blobs/linked-files.ts'
import type { FileRow } from '../blobs/rows.ts'
import { openPlace, type PlaceAccess } from '../objects/places.ts'
import { deleteSoftly, purgeDeleted, restoreDeleted } from '../store/deletion.ts'
import { recordEvent } from '../store/events.ts'
import { Nouns } from '../store/nouns.ts'
import { type Page, type PageQuery, readPage } from '../store/pages.ts'
import type { Store } from '../store/store.ts'
import type { DatasetRow, VersionRow, VersionTables } from './rows.ts'

/** What a new version holds. */
export interface NewVersion {
  /** Files to add or to replace, by path. */
  readonly files: readonly { readonly path: string; readonly blob: string }[]
  /** Whether the files of the newest version stay, but for those that are replaced or removed. */
  readonly keep: boolean
  readonly remove: readonly string[]
  /** What changed, for people. */
  readonly message: string
}

export interface Resolved {
  readonly dataset: DatasetRow
  readonly version: VersionRow
}

/** Others may write versions of the same dataset in between. */
const triesMax = 20

export class Datasets {
  readonly store: Store
  readonly nouns: Nouns<DatasetRow>
  readonly #blobs: Blobs
  readonly #places: PlaceAccess

  constructor(blobs: Blobs, places: PlaceAccess) {
    this.store = blobs.store
    this.nouns = new Nouns<DatasetRow>(this.store, 'datasets', 'dataset')
    this.#blobs = blobs
    this.#places = places
  }

  /** Makes a version of files that were uploaded; the dataset too, when there is none of that name. */
  async addVersion(project: string, name: string, given: NewVersion): Promise<Resolved> {
    return await this.#retried(async () => {
      const dataset = await this.#named(project, name)
      const kept = given.keep ? await this.#newest(dataset) : []
      const used = await this.#blobs.use(
        project,
        given.files.map(({ blob }) => blob),
      )
      const files = new Map(
        kept.map(({ path, blob_id, bytes, digest }) => [path, { path, blob_id, bytes, digest }]),
      )
      for (const path of given.remove) {
        if (!files.delete(path))
          throw new UserError(`There is no file ${path} to remove.`, { failure: 'not_found' })
      }
      for (const { path, blob } of given.files) {
        const { bytes, digest } = used.get(blob)!
        files.set(path, { path, blob_id: blob, bytes, digest })
      }
      return await this.#append(dataset, [...files.values()], given.message, null)
    })
  }

  /** Makes a version of what lies in a bucket or folder now. Nothing is copied. */
  async link(project: string, name: string, link: PlaceLink, message: string): Promise<Resolved> {
    const files = await listedFiles(await openPlace(link, project, this.#places))
    return await this.#retried(async () => {
      return await this.#append(await this.#named(project, name), files, message, link)
    })
  }

  /** Looks again at what is linked: a new version when it has changed. */
  async refresh(project: string, name: string): Promise<Resolved> {
    const { version } = await this.resolve(project, name)
    if (version.link_json !== null) return this.link(project, name, version.link_json, 'looked again')
    throw new UserError(`${name} is not linked: nothing changes but by an upload.`, { failure: 'usage' })
  }

  /** `name`, `name@3`, an id, or the beginning of a name that only one dataset has. */
  async resolve(project: string, reference: string): Promise<Resolved> {
    const [, typed = '', numbered] = /^(.*?)(?:@(\d{1,9}|latest))?$/s.exec(reference) ?? []
    const dataset = await this.find(project, typed)
    const number = numbered === undefined || numbered === 'latest' ? dataset.latest : Number(numbered)
    const version = await this.#version(dataset, number)
    if (version !== undefined) return { dataset, version }
    throw new UserError(
      `The dataset ${dataset.name} has no version ${number}; the newest is ${dataset.latest}.`,
      {
        failure: 'not_found',
      },
    )
  }

  async find(project: string, typed: string): Promise<DatasetRow> {
    const [found, another] = await this.nouns.find(project, typed, 2)
    if (found !== undefined && another === undefined) return found
    const what = JSON.stringify(typed.slice(0, 100))
    throw new UserError(
      found === undefined ? `There is no dataset ${what}.` : `Several datasets begin with ${what}.`,
      {
        failure: found === undefined ? 'not_found' : 'usage',
        fix: '`ropeway dataset list` shows which there are.',
      },
    )
  }

  versions(dataset: DatasetRow, page: PageQuery): Promise<Page<VersionRow>> {
    const query = this.store.db<VersionTables>().selectFrom('dataset_versions').selectAll()
    return readPage(query.where('dataset_id', '=', dataset.id), { sort: 'number', descending: true, ...page })
  }

  files(version: VersionRow): Promise<FileRow[]> {
    return filesOf(this.store, version.id)
  }

  async edit(
    dataset: DatasetRow,
    changes: { name?: string | undefined; description?: string | undefined },
  ): Promise<DatasetRow> {
    const { name = dataset.name } = changes
    return await this.store.transaction(async () => {
      const other = await this.nouns.named(dataset.project_id, name)
      if (other !== undefined && other.id !== dataset.id) {
        throw new UserError(`There is a dataset ${name} already.`, {
          failure: 'conflict',
          fix: 'Take another name.',
        })
      }
      const description = changes.description ?? dataset.spec.description
      const updated = await this.nouns.update(dataset, { name, spec: { description } })
      if (updated === undefined) throw changedMeanwhile(dataset.name)
      const message =
        name === dataset.name ? 'Its description was changed.' : `It was ${dataset.name} before.`
      await this.#record(updated, 'dataset.edited', message)
      return updated
    })
  }

  /** It can be restored for a day. */
  delete(dataset: DatasetRow): Promise<void> {
    return deleteSoftly(this.nouns, dataset.id)
  }

  restore(project: string, id: string): Promise<DatasetRow> {
    return restoreDeleted(this.nouns, project, id)
  }

  /** Removes for good what was deleted a day ago; returns how many. Their content goes with the next sweep. */
  purge(): Promise<number> {
    return purgeDeleted(this.nouns, async ({ id }) => {
      const versions = this.store.db<VersionTables>().selectFrom('dataset_versions').select('id')
      for (const version of await versions.where('dataset_id', '=', id).execute()) {
        await deleteFiles(this.store, version.id)
      }
      await this.store
        .db<VersionTables>()
        .deleteFrom('dataset_versions')
        .where('dataset_id', '=', id)
        .execute()
    })
  }

  /** What was counted of a version stays with it. */
  async keepStatistics(version: VersionRow, statistics: object): Promise<void> {
    const update = this.store.db<VersionTables>().updateTable('dataset_versions')
    await update.set({ statistics_json: statistics }).where('id', '=', version.id).execute()
  }

  /** The store that a file of a version is read from, and its key there. */
  async placeOf(version: VersionRow, file: FileRow): Promise<FilePlace> {
    if (version.link_json !== null) {
      return { objects: await openPlace(version.link_json, version.project_id, this.#places), key: file.path }
    }
    const { key } = await this.#blobs.get(version.project_id, file.blob_id!)
    return { objects: this.#blobs.objects, key }
  }

  async #named(project: string, name: string): Promise<DatasetRow> {
    const known = await this.nouns.named(project, name)
    if (known !== undefined) return known
    const made = await this.nouns.insert({
      project_id: project,
      name,
      spec: { description: '' },
      status: {},
      latest: 0,
    })
    if (made === undefined) throw changedMeanwhile(name)
    await this.#record(made, 'dataset.created', 'It was created.')
    return made
  }

  async #newest(dataset: DatasetRow): Promise<FileRow[]> {
    if (dataset.latest === 0) return []
    const version = await this.#version(dataset, dataset.latest)
    if (version?.link_json === null) return await this.files(version)
    throw new UserError(`The newest version of ${dataset.name} is linked, so nothing can be added to it.`, {
      failure: 'conflict',
      fix: 'Upload the whole as a new version (without keeping what was there), or change the bucket itself.',
    })
  }

  async #append(
    dataset: DatasetRow,
    files: NewFile[],
    message: string,
    link: PlaceLink | null,
  ): Promise<Resolved> {
    checkFiles(files)
    if (files.length === 0) {
      throw new UserError(`A version of ${dataset.name} needs a file.`, {
        failure: 'usage',
        fix: link === null ? 'Upload one.' : `Nothing lies at ${link.url}: check the prefix.`,
      })
    }
    const digest = await digestOfFiles(files)
    const before = await this.#version(dataset, dataset.latest)
    if (before?.digest === digest && JSON.stringify(before.link_json) === JSON.stringify(link)) {
      return { dataset, version: before }
    }
    const version: VersionRow = {
      id: this.store.ids.next('version'),
      project_id: dataset.project_id,
      dataset_id: dataset.id,
      number: dataset.latest + 1,
      digest,
      bytes: files.reduce((sum, { bytes }) => sum + bytes, 0),
      files: files.length,
      message,
      link_json: link,
      statistics_json: null,
      created_at: this.store.clock.unixMs(),
    }
    const updated = await this.nouns.update(dataset, { latest: version.number })
    if (updated === undefined) throw changedMeanwhile(dataset.name)
    await this.store.db<VersionTables>().insertInto('dataset_versions').values(version).execute()
    await insertFiles(this.store, version.id, files)
    await this.#record(updated, 'dataset.version', `Version ${version.number} has ${files.length} files.`, {
      number: version.number,
      digest,
      bytes: version.bytes,
    })
    return { dataset: updated, version }
  }

  async #version(dataset: DatasetRow, number: number): Promise<VersionRow | undefined> {
    const query = this.store.db<VersionTables>().selectFrom('dataset_versions').selectAll()
    return query.where('dataset_id', '=', dataset.id).where('number', '=', number).executeTakeFirst()
  }

  /** One transaction, begun again when somebody else has written the dataset meanwhile. */
  async #retried<T>(work: () => Promise<T>): Promise<T> {
    for (let tries = 1; ; tries++) {
      try {
        return await this.store.transaction(work)
      } catch (error) {
        if (!(error instanceof ChangedMeanwhile) || tries === triesMax) throw error
      }
    }
  }

  async #record(row: DatasetRow, kind: string, message: string, details: Record<string, unknown> = {}) {
    await recordEvent(this.store, { subject: row.id, project: row.project_id, kind, message, details })
  }
}

class ChangedMeanwhile extends UserError {}

function changedMeanwhile(name: string): UserError {
  return new ChangedMeanwhile(`The dataset ${name} was changed by somebody else at the same time.`, {
    failure: 'conflict',
    fix: 'Look at it and try again.',
  })
}
