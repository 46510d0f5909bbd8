/** Files of OpenAI's API: each is a dataset of one file, so jobs read it like any other. */
import { mkdirSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { FileObject, FilePurpose } from '../../api/tuning.ts'
import { Problem } from '../../http/problem.ts'
import type { Blobs } from '../blobs/blobs.ts'
import { bringFile } from '../blobs/bring.ts'
import { contentAnswer } from '../blobs/content.ts'
import { fileOf } from '../blobs/pages.ts'
import type { Datasets } from '../datasets/datasets.ts'
import type { ByteAnswer } from '../service/routes.ts'
import { deleteSoftly } from '../store/deletion.ts'
import type { Nouns } from '../store/nouns.ts'
import type { Page } from '../store/pages.ts'
import { cursorBehind } from './cursors.ts'
import { ownId, shownId, type TuningFileRow, tuningFileNouns } from './rows.ts'

export interface FileList {
  readonly limit: number
  /** Behind this id. */
  readonly after?: string | undefined
  readonly purpose?: string | undefined
  readonly descending: boolean
}

const filenameCharactersMax = 200

export class TuningFiles {
  readonly nouns: Nouns<TuningFileRow>
  readonly #blobs: Blobs
  readonly #datasets: Datasets
  readonly #incoming: string

  /** `incoming`: where uploads lie until they are whole. */
  constructor(blobs: Blobs, datasets: Datasets, incoming: string) {
    this.nouns = tuningFileNouns(blobs.store)
    this.#blobs = blobs
    this.#datasets = datasets
    this.#incoming = incoming
  }

  /** Calls `fill` with a path of this machine that it is to write, and keeps what it has written. */
  async add(
    project: string,
    fill: (path: string) => Promise<{ filename: string; purpose: FilePurpose }>,
  ): Promise<TuningFileRow> {
    const { store } = this.nouns
    const id = store.ids.next(this.nouns.prefix)
    mkdirSync(this.#incoming, { recursive: true, mode: 0o700 })
    const path = join(this.#incoming, id)
    try {
      const { filename, purpose } = await fill(path)
      const { id: blob, bytes } = await bringFile(this.#blobs, project, path)
      return await this.#keep(project, id, { filename: safeName(filename), purpose, blob, bytes })
    } finally {
      await rm(path, { force: true })
    }
  }

  #keep(
    project: string,
    id: string,
    {
      filename,
      purpose,
      blob,
      bytes,
    }: { filename: string; purpose: FilePurpose; blob: string; bytes: number },
  ): Promise<TuningFileRow> {
    return this.nouns.store.transaction(async () => {
      const { dataset } = await this.#datasets.addVersion(project, shownId(id), {
        files: [{ path: filename, blob }],
        keep: false,
        remove: [],
        message: `${filename} (${purpose})`,
      })
      const row = await this.nouns.insert({
        id,
        project_id: project,
        name: shownId(id),
        spec: { dataset: dataset.id },
        status: {},
        filename,
        purpose,
        bytes,
      })
      if (row === undefined) throw new Problem(409, 'conflict', 'A file of this id exists.')
      return row
    })
  }

  /** Throws {@link Problem} when the project has no such file. */
  async get(project: string, shown: string, param = 'id'): Promise<TuningFileRow> {
    const row = await this.nouns.get(ownId(shown))
    const dataset = row === undefined ? undefined : await this.#datasets.nouns.get(row.spec.dataset)
    const isThere = row?.project_id === project && row.deleted_at === null && dataset?.deleted_at === null
    if (row !== undefined && isThere) return row
    throw new Problem(404, 'file_not_found', `No such file: ${shown.slice(0, 100)}.`, { param })
  }

  async list(project: string, { limit, after, purpose, descending }: FileList): Promise<Page<TuningFileRow>> {
    return await this.nouns.list({
      project,
      limit,
      descending,
      ...(after !== undefined && {
        cursor: await cursorBehind(this.nouns, project, ownId(after), descending),
      }),
      ...(purpose !== undefined && { where: (is) => is.and([is('purpose', '=', purpose)]) }),
    })
  }

  async content(project: string, shown: string, range: string | undefined): Promise<ByteAnswer> {
    const row = await this.get(project, shown)
    const { version } = await this.#datasets.resolve(project, row.name)
    const file = await fileOf(this.nouns.store, version.id, row.filename)
    return await contentAnswer(await this.#datasets.placeOf(version, file), file, range)
  }

  /** Its content goes a day later, unless a job's lineage or another upload has the same. */
  async delete(project: string, shown: string): Promise<TuningFileRow> {
    const row = await this.get(project, shown)
    await this.nouns.store.transaction(async () => {
      await deleteSoftly(this.nouns, row.id)
      await deleteSoftly(this.#datasets.nouns, row.spec.dataset)
    })
    return row
  }
}

/** A name without folders, of characters that any file system keeps. */
function safeName(given: string): string {
  const last = given.split(/[\\/]/).at(-1) ?? ''
  const name = last.replace(/[^\p{L}\p{N}._ -]/gu, '_').replace(/^\.+/, '')
  return name.slice(-filenameCharactersMax).trim() || 'file'
}

export function viewOfFile(row: TuningFileRow): FileObject {
  return {
    id: shownId(row.id),
    object: 'file',
    bytes: row.bytes,
    created_at: Math.floor(row.created_at / 1000),
    expires_at: null,
    filename: row.filename,
    purpose: row.purpose,
    status: 'processed',
    status_details: null,
  }
}

/** What a job's file names it by: a path in its workspace. */
export function pathInJob(row: TuningFileRow): string {
  return `dataset:${row.name}/${row.filename}`
}
