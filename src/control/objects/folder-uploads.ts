import { randomUUID } from 'node:crypto'
import { open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { UserError } from '../../base/errors.ts'
import { makeFolder, removeAll, syncFolder, unlessAbsent, writeNew, writeSynced } from './folder-files.ts'
import { goneUpload, missingParts, partCount, type Upload } from './store.ts'

/**
 * Uploads of a folder store. Parts are written where they belong in one file, so that completing an upload moves
 * it and copies nothing; beside it lies a mark for each part whose bytes are on the disk.
 */
export class FolderUploads {
  readonly #folder: string
  /** The last write of each part, so that two senders of one part do not mix their bytes. */
  readonly #writing = new Map<string, Promise<void>>()

  constructor(folder: string) {
    this.#folder = folder
  }

  async begin(key: string, bytes: number, partBytes: number): Promise<Upload> {
    const upload: Upload = { key, id: randomUUID(), bytes, partBytes }
    const folder = this.#of(upload)
    await makeFolder(folder)
    await writeNew(join(folder, begunMark), new Uint8Array())
    await writeNew(join(folder, 'data'), new Uint8Array())
    await syncFolder(folder)
    return upload
  }

  async putPart(upload: Upload, number: number, bytes: Uint8Array, sha256: string): Promise<void> {
    const name = `${upload.id}/${number}`
    const before = this.#writing.get(name) ?? Promise.resolve()
    const write = before.then(() => this.#write(upload, number, bytes, sha256))
    const settled = write.then(
      () => undefined,
      () => undefined,
    )
    this.#writing.set(name, settled)
    try {
      await write
    } finally {
      if (this.#writing.get(name) === settled) this.#writing.delete(name)
    }
  }

  async #write(upload: Upload, number: number, bytes: Uint8Array, sha256: string): Promise<void> {
    const folder = this.#of(upload)
    const mark = join(folder, markOf(number))
    const kept = await unlessAbsent(readFile(mark, 'utf8'))
    if (kept === sha256) return
    if (kept !== undefined) {
      // Bytes that are half old and half new must not be found under the old mark after a crash.
      await rm(mark)
      await syncFolder(folder)
    }
    const file = await unlessAbsent(open(join(folder, 'data'), 'r+'))
    if (file === undefined) throw goneUpload(upload)
    try {
      await writeSynced(file, bytes, (number - 1) * upload.partBytes)
    } finally {
      await file.close()
    }
    // A mark is short enough to be written whole or not at all; an empty one counts as none.
    if ((await unlessAbsent(writeFile(mark, sha256, { flush: true }).then(() => true))) === undefined)
      throw goneUpload(upload)
    await syncFolder(folder)
  }

  async parts(upload: Upload): Promise<number[] | undefined> {
    const folder = this.#of(upload)
    const names = await unlessAbsent(readdir(folder))
    if (!names?.includes('data')) return undefined
    const marks = names.filter((name) => name.endsWith(markEnding))
    const numbers = await Promise.all(
      marks.map(async (name) =>
        (await stat(join(folder, name))).size > 0 ? [Number.parseInt(name, 10)] : [],
      ),
    )
    return numbers.flat().sort((a, b) => a - b)
  }

  /** The path of the whole file, synced; undefined when the upload is gone. Throws while parts are missing. */
  async finished(upload: Upload): Promise<string | undefined> {
    const kept = await this.parts(upload)
    if (kept === undefined) return undefined
    if (kept.length < partCount(upload)) throw missingParts(upload, kept)
    const path = join(this.#of(upload), 'data')
    const { size } = await stat(path)
    if (size !== upload.bytes) {
      throw new UserError(`The upload of ${upload.key} has ${size} bytes instead of ${upload.bytes}.`, {
        fix: 'Abort it and begin again.',
      })
    }
    return path
  }

  async forget(upload: Upload): Promise<void> {
    await removeAll(this.#of(upload))
  }

  async forgetOlder(unixMs: number): Promise<number> {
    let count = 0
    for (const id of (await unlessAbsent(readdir(this.#folder))) ?? []) {
      const folder = join(this.#folder, id)
      const begun = (await unlessAbsent(stat(join(folder, begunMark)))) ?? (await unlessAbsent(stat(folder)))
      if (begun === undefined || begun.mtimeMs >= unixMs) continue
      await removeAll(folder)
      count++
    }
    return count
  }

  #of({ id }: Upload): string {
    // The id comes back from whoever kept the upload: it names a folder only when it is one of ours.
    if (!/^[0-9a-f-]{36}$/.test(id)) {
      throw new UserError(`${JSON.stringify(id).slice(0, 100)} is no upload of this store.`, {
        failure: 'usage',
      })
    }
    return join(this.#folder, id)
  }
}

const markEnding = '.part'
/** Its time is when the upload began. */
const begunMark = 'begun'

function markOf(number: number): string {
  return `${number}${markEnding}`
}
