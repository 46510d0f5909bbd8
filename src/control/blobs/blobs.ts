/**
 * Content that people bring: uploaded by parts, checked part by part, kept once a project however often it is used.
 *
 * An upload has no session. It is named by its content: whoever says what he has (the hashes of its parts) is told
 * which parts are missing, so after a crash of anybody the same words go on where it stopped. What is acknowledged is
 * in the object store before its row says so. A blob that no file names goes after a day (sweep.ts).
 */
import { type Announcement, fileDigestText, partBytesOf } from '../../api/control/digest.ts'
import { UserError } from '../../base/errors.ts'
import { sha256Of } from '../objects/hash.ts'
import { bytesOfPart, type ObjectStore } from '../objects/store.ts'
import type { Store } from '../store/store.ts'
import { type BlobRow, type BlobTables, hashOfPart, partsOf } from './rows.ts'

export interface Opened {
  blob: BlobRow
  /** Numbers of the parts that are to be sent, from 1. */
  missing: number[]
}

/** A touch is written down this often at most: a part more need not be a write more. */
const touchMs = 3_600_000

const emptyHash = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'

export class Blobs {
  readonly store: Store
  readonly objects: ObjectStore

  constructor(store: Store, objects: ObjectStore) {
    this.store = store
    this.objects = objects
  }

  /** Begins an upload, or goes on with one of the same content. */
  async open(project: string, { bytes, parts }: Announcement): Promise<Opened> {
    const partBytes = partBytesOf(bytes)
    const count = Math.ceil(bytes / partBytes)
    if (parts.length !== count) {
      throw new UserError(`${bytes} bytes have ${count} parts of ${partBytes} bytes, not ${parts.length}.`, {
        failure: 'usage',
        fix: 'Hash the file again: it changed, or parts of another length were taken.',
      })
    }
    const digest = await sha256Of(Buffer.from(fileDigestText(bytes, parts)))
    const blob = await this.#row(project, digest, bytes, parts)
    if (blob.state === 'ready') return { blob, missing: [] }
    const kept = new Set(await this.#kept(blob))
    const missing = parts.map((_, index) => index + 1).filter((number) => !kept.has(number))
    return { blob, missing }
  }

  async get(project: string, id: string): Promise<BlobRow> {
    const blob = await this.#db().selectFrom('blobs').selectAll().where('id', '=', id).executeTakeFirst()
    if (blob !== undefined && blob.project_id === project && blob.state !== 'dropping') return blob
    throw new UserError(`There is no upload ${id.slice(0, 100)}.`, {
      failure: 'not_found',
      fix: 'Begin it again: uploads that nothing uses are removed after some days.',
    })
  }

  /** The part is kept when this resolves. Sending it again is no failure, nor after the upload is complete. */
  async putPart(project: string, id: string, number: number, bytes: Uint8Array): Promise<void> {
    const blob = await this.get(project, id)
    if (blob.state === 'ready') return
    const sha256 = checkedHash(blob, number)
    if (partsOf(blob) === 1) await this.objects.put(blob.key, bytes, sha256)
    else {
      const { upload_json: upload } = await this.#begun(blob)
      await this.objects.putPart(upload!, number, bytes, sha256)
    }
    await this.#touch(blob)
  }

  /** Bytes that a part must have, so that one that is too long is refused before it is read. */
  async bytesOfPart(project: string, id: string, number: number): Promise<number> {
    const blob = await this.get(project, id)
    checkedHash(blob, number)
    return bytesOfPart({ bytes: blob.bytes, partBytes: blob.part_bytes }, number)
  }

  /** From now on the blob can be used. Refused while parts are missing; may be repeated. */
  async complete(project: string, id: string): Promise<BlobRow> {
    const blob = await this.get(project, id)
    if (blob.state === 'ready') return blob
    if (partsOf(blob) > 1) await this.objects.complete((await this.#begun(blob)).upload_json!)
    else if (blob.bytes === 0) await this.objects.put(blob.key, new Uint8Array(), emptyHash)
    else if ((await this.objects.head(blob.key)) === undefined) {
      throw new UserError('The only part of the upload has not arrived.', {
        failure: 'conflict',
        fix: 'Send it, then complete the upload.',
      })
    }
    const done = { state: 'ready', upload_json: null, touched_at: this.store.clock.unixMs() } as const
    await this.#db()
      .updateTable('blobs')
      .set((is) => ({ ...done, version: is('version', '+', 1) }))
      .where('id', '=', id)
      .where('state', '=', 'receiving')
      .execute()
    // Somebody may have completed it in between; if it was dropped, this says so.
    return await this.get(project, id)
  }

  /**
   * The blobs of these ids, for files that are written in the same transaction: none of them is swept then.
   * Refused when one is not complete.
   */
  async use(project: string, ids: readonly string[]): Promise<Map<string, BlobRow>> {
    const found = new Map<string, BlobRow>()
    for (const some of chunks([...new Set(ids)].sort())) {
      const rows = await this.#db()
        .updateTable('blobs')
        .set((is) => ({ touched_at: this.store.clock.unixMs(), version: is('version', '+', 1) }))
        .where('id', 'in', some)
        .where('project_id', '=', project)
        .where('state', '=', 'ready')
        .returningAll()
        .execute()
      for (const row of rows) found.set(row.id, row)
    }
    const missing = ids.find((id) => !found.has(id))
    if (missing === undefined) return found
    throw new UserError(`The upload ${missing.slice(0, 100)} is not complete.`, {
      failure: 'conflict',
      fix: 'Complete it first; if it is gone, upload the file again.',
    })
  }

  async #row(project: string, digest: string, bytes: number, parts: readonly string[]): Promise<BlobRow> {
    const id = this.store.ids.next('blob')
    const fresh: BlobRow = {
      id,
      project_id: project,
      digest,
      bytes,
      part_bytes: partBytesOf(bytes),
      key: `projects/${project}/blobs/${id}`,
      state: 'receiving',
      live: 1,
      upload_json: null,
      part_hashes: parts.join(''),
      touched_at: this.store.clock.unixMs(),
      version: 1,
    }
    for (;;) {
      const known = await this.#db()
        .selectFrom('blobs')
        .selectAll()
        .where('project_id', '=', project)
        .where('digest', '=', digest)
        .where('live', '=', 1)
        .executeTakeFirst()
      if (known !== undefined && (await this.#touch(known))) return known
      const insert = this.#db().insertInto('blobs').values(fresh)
      const made = await insert
        .onConflict((is) => is.doNothing())
        .returningAll()
        .executeTakeFirst()
      if (made !== undefined) return made
    }
  }

  /** False when the row is on its way out. */
  async #touch(blob: BlobRow): Promise<boolean> {
    const nowMs = this.store.clock.unixMs()
    if (nowMs - blob.touched_at < touchMs) return true
    const touched = await this.#db()
      .updateTable('blobs')
      .set((is) => ({ touched_at: nowMs, version: is('version', '+', 1) }))
      .where('id', '=', blob.id)
      .where('live', '=', 1)
      .executeTakeFirstOrThrow()
    return touched.numUpdatedRows > 0n
  }

  /** The row with an upload of the object store. Two that begin at the same time end up with the same one. */
  async #begun(blob: BlobRow): Promise<BlobRow> {
    if (blob.upload_json !== null) return blob
    const upload = await this.objects.begin(blob.key, blob.bytes, blob.part_bytes)
    const written = await this.#db()
      .updateTable('blobs')
      .set((is) => ({ upload_json: upload, version: is('version', '+', 1) }))
      .where('id', '=', blob.id)
      .where('state', '=', 'receiving')
      .where('upload_json', 'is', null)
      .returningAll()
      .executeTakeFirst()
    if (written !== undefined) return written
    await this.objects.abort(upload)
    const theirs = await this.get(blob.project_id, blob.id)
    if (theirs.upload_json !== null) return theirs
    throw new UserError('The upload was completed meanwhile.', {
      failure: 'conflict',
      fix: 'Begin it again.',
    })
  }

  async #kept(blob: BlobRow): Promise<readonly number[]> {
    if (blob.bytes === 0) return []
    if (partsOf(blob) === 1) return (await this.objects.head(blob.key)) === undefined ? [] : [1]
    if (blob.upload_json === null) return []
    const kept = await this.objects.parts(blob.upload_json)
    if (kept !== undefined) return kept
    // Completed without a chance to write it down: there is nothing to send.
    if ((await this.objects.head(blob.key)) !== undefined)
      return Array.from({ length: partsOf(blob) }, (_, i) => i + 1)
    await this.#forgetUpload(blob)
    return []
  }

  /** The object store has lost the upload (somebody cleaned up there): begin another. */
  async #forgetUpload(blob: BlobRow): Promise<void> {
    await this.#db()
      .updateTable('blobs')
      .set((is) => ({ upload_json: null, version: is('version', '+', 1) }))
      .where('id', '=', blob.id)
      .where('version', '=', blob.version)
      .execute()
  }

  #db() {
    return this.store.db<BlobTables>()
  }
}

function checkedHash(blob: BlobRow, number: number): string {
  const sha256 = Number.isInteger(number) && number > 0 ? hashOfPart(blob, number) : ''
  if (sha256 !== '') return sha256
  throw new UserError(`There is no such part: the upload has ${partsOf(blob)}, from 1.`, { failure: 'usage' })
}

/** Rows of one statement: databases limit how many parameters it has. */
export const chunkRows = 500

export function chunks<T>(values: readonly T[]): T[][] {
  const lists: T[][] = []
  for (let at = 0; at < values.length; at += chunkRows) lists.push(values.slice(at, at + chunkRows))
  return lists
}
