import { randomUUID } from 'node:crypto'
import { mkdirSync, realpathSync } from 'node:fs'
import { copyFile, open, readdir, realpath, stat, unlink } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { UserError } from '../../base/errors.ts'
import {
  explained,
  isBelow,
  makeFolder,
  moveInto,
  removeAll,
  removeEmptyFolders,
  syncFolder,
  unlessAbsent,
  writeNew,
} from './folder-files.ts'
import { FolderUploads } from './folder-uploads.ts'
import { factsOf, infoOf, walk } from './folder-walk.ts'
import { sha256Of } from './hash.ts'
import {
  type ByteRange,
  changedWhileRead,
  checkKey,
  checkPart,
  checkPlan,
  cutRange,
  goneUpload,
  type Listing,
  type ListOptions,
  listMax,
  type ObjectBody,
  type ObjectInfo,
  type ObjectStore,
  reserved,
  type Upload,
  wrongHash,
} from './store.ts'

const readBytes = 1 << 20

/**
 * Objects as files of a folder. Everything is written under `.ropeway` first, synced and then renamed, so a reader
 * sees a whole object or none, and so does whoever looks after a crash. Links that lead out of the folder are not
 * followed. One process at a time writes to a folder; any number may read.
 */
export class FolderStore implements ObjectStore {
  readonly url: string
  readonly #root: string
  readonly #incoming: string
  readonly #uploads: FolderUploads

  private constructor(root: string) {
    this.#root = root
    this.url = pathToFileURL(root).href
    this.#incoming = join(root, reserved, 'incoming')
    this.#uploads = new FolderUploads(join(root, reserved, 'uploads'))
  }

  /** Makes the folder when it is not there. */
  static create(folder: string): FolderStore {
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    return new FolderStore(realpathSync(folder))
  }

  /** Reads a folder that is somebody else's; throws a UserError when there is none. */
  static async open(folder: string): Promise<FolderStore> {
    const root = await explained(folder, () => unlessAbsent(realpath(resolve(folder))))
    if (root === undefined || !(await stat(root)).isDirectory()) {
      throw new UserError(`There is no folder ${folder} on the machine of the service.`, {
        failure: 'not_found',
        fix: 'Name a folder that this machine can read, or upload the files.',
      })
    }
    return new FolderStore(root)
  }

  put(key: string, bytes: Uint8Array, sha256: string): Promise<void> {
    checkKey(key)
    return explained(key, async () => {
      if ((await sha256Of(bytes)) !== sha256) throw wrongHash(key)
      await this.#replace(key, (path) => writeNew(path, bytes))
    })
  }

  begin(key: string, bytes: number, partBytes: number): Promise<Upload> {
    checkKey(key)
    checkPlan(bytes, partBytes)
    return explained(key, () => this.#uploads.begin(key, bytes, partBytes))
  }

  putPart(upload: Upload, number: number, bytes: Uint8Array, sha256: string): Promise<void> {
    checkPart(upload, number, bytes.length)
    return explained(upload.key, async () => {
      if ((await sha256Of(bytes)) !== sha256) throw wrongHash(`Part ${number} of ${upload.key}`)
      await this.#uploads.putPart(upload, number, bytes, sha256)
    })
  }

  parts(upload: Upload): Promise<number[] | undefined> {
    return this.#uploads.parts(upload)
  }

  complete(upload: Upload): Promise<void> {
    checkKey(upload.key)
    return explained(upload.key, async () => {
      const path = await this.#uploads.finished(upload)
      if (path !== undefined) await this.#move(path, upload.key)
      else if ((await this.head(upload.key)) === undefined) throw goneUpload(upload)
      await this.#uploads.forget(upload)
    })
  }

  abort(upload: Upload): Promise<void> {
    return this.#uploads.forget(upload)
  }

  async abortOlder(unixMs: number): Promise<number> {
    for (const name of (await unlessAbsent(readdir(this.#incoming))) ?? []) {
      const path = join(this.#incoming, name)
      const found = await unlessAbsent(stat(path))
      if (found !== undefined && found.mtimeMs < unixMs) await removeAll(path)
    }
    return this.#uploads.forgetOlder(unixMs)
  }

  head(key: string): Promise<ObjectInfo | undefined> {
    checkKey(key)
    return explained(key, () => infoOf(this.#root, key))
  }

  async get(key: string, range?: ByteRange): Promise<ObjectBody | undefined> {
    const info = await this.head(key)
    return info && { info, bytes: this.#read(info, cutRange(range, info.bytes)) }
  }

  async *#read(info: ObjectInfo, { start, end }: { start: number; end: number }): AsyncGenerator<Uint8Array> {
    const file = await unlessAbsent(open(join(this.#root, info.key), 'r'))
    if (file === undefined) throw changedWhileRead(info.key)
    try {
      for (let at = start; at < end; ) {
        const piece = Buffer.allocUnsafe(Math.min(readBytes, end - at))
        const { bytesRead } = await file.read(piece, 0, piece.length, at)
        const { tag } = factsOf(await file.stat({ bigint: true }))
        // A file of the store is never written to again; one that is linked may be, under the reader's eyes.
        if (bytesRead === 0 || tag !== info.tag) throw changedWhileRead(info.key)
        at += bytesRead
        yield piece.subarray(0, bytesRead)
      }
    } finally {
      await file.close()
    }
  }

  async list({ prefix = '', after, limit = listMax }: ListOptions = {}): Promise<Listing> {
    const count = Math.min(limit, listMax)
    const objects: ObjectInfo[] = []
    for await (const info of walk({ root: this.#root, prefix, after })) {
      if (objects.length === count) return { objects, more: true }
      objects.push(info)
    }
    return { objects, more: false }
  }

  delete(key: string): Promise<void> {
    checkKey(key)
    return explained(key, async () => {
      if ((await infoOf(this.#root, key)) === undefined) return
      const path = join(this.#root, key)
      if ((await unlessAbsent(unlink(path).then(() => true))) === undefined) return
      await unlessAbsent(syncFolder(dirname(path)))
      await removeEmptyFolders(dirname(path), this.#root)
    })
  }

  copy(from: string, to: string): Promise<boolean> {
    checkKey(to)
    return explained(from, async () => {
      if ((await this.head(from)) === undefined) return false
      await this.#replace(to, (path) => this.#copyNew(from, path))
      return true
    })
  }

  async #copyNew(from: string, path: string): Promise<void> {
    await copyFile(join(this.#root, from), path)
    const file = await open(path, 'r+')
    try {
      await file.sync()
    } finally {
      await file.close()
    }
  }

  pathOf(key: string): string {
    checkKey(key)
    return join(this.#root, key)
  }

  async presign(): Promise<undefined> {
    return undefined
  }

  /** Writes a file beside, by `write`, and gives it the name of `key`. */
  async #replace(key: string, write: (path: string) => Promise<void>): Promise<void> {
    await makeFolder(this.#incoming)
    const path = join(this.#incoming, randomUUID())
    try {
      await write(path)
      await this.#move(path, key)
    } catch (error) {
      await removeAll(path)
      throw error
    }
  }

  #move(path: string, key: string): Promise<void> {
    return moveInto(path, join(this.#root, key), async (folder) => {
      const real = await realpath(folder)
      if (real === this.#root || isBelow(real, this.#root)) return
      throw new UserError(`${key} would leave ${this.url} by a link.`, { failure: 'usage' })
    })
  }
}
