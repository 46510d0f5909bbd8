/**
 * Folders that were uploaded for jobs: contents by hash, once for a project, and lists of files over them. Nothing
 * changes once it is there, so an upload goes on where it ended and a job's folder is always what was sent.
 */
import { createHash } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import {
  contentHash,
  type WorkspaceFiles,
  workspaceFileBytesMax,
  workspaceFiles,
  workspaceListText,
} from '../../api/control/workspaces.ts'
import { assert } from '../../base/assert.ts'
import { UserError } from '../../base/errors.ts'
import type { ObjectStore } from '../objects/store.ts'

export class Workspaces {
  readonly #objects: ObjectStore

  constructor(objects: ObjectStore) {
    this.#objects = objects
  }

  /** The id, once every content is there; until then, which are not. */
  async put(project: string, files: WorkspaceFiles): Promise<{ id: string | null; missing: string[] }> {
    const hashes = [...new Set(files.map(({ sha256 }) => sha256))]
    const missing: string[] = []
    for (const hash of hashes)
      if ((await this.#objects.head(contentKey(project, hash))) === undefined) missing.push(hash)
    if (missing.length > 0) return { id: null, missing }
    const list = Buffer.from(workspaceListText(files))
    const hash = hashOf(list)
    await this.#objects.put(listKey(project, `ws_${hash}`), list, hash)
    return { id: `ws_${hash}`, missing }
  }

  /** Keeps one content; refused when it is larger than a file may be or has another hash. */
  async send(project: string, sha256: string, body: Readable): Promise<void> {
    if (!contentHash.safeParse(sha256).success)
      throw new UserError(`${sha256.slice(0, 80)} is no SHA-256 in hex.`, { failure: 'usage' })
    const pieces: Buffer[] = []
    let bytes = 0
    for await (const piece of body as AsyncIterable<Buffer>) {
      bytes += piece.length
      if (bytes > workspaceFileBytesMax)
        throw new UserError(`A file of a workspace has at most ${workspaceFileBytesMax >> 20} MB.`, {
          failure: 'usage',
          fix: 'Upload large files as a dataset.',
        })
      pieces.push(piece)
    }
    const content = Buffer.concat(pieces)
    if (hashOf(content) !== sha256)
      throw new UserError('The content that came has another SHA-256.', {
        failure: 'usage',
        fix: 'Send it again.',
      })
    await this.#objects.put(contentKey(project, sha256), content, sha256)
  }

  async has(project: string, id: string): Promise<boolean> {
    return (await this.#objects.head(listKey(project, id))) !== undefined
  }

  /** Writes the files into `folder`. Once it was done, later attempts keep what the program made of them. */
  async unpack(project: string, id: string, folder: string): Promise<void> {
    const mark = join(dirname(folder), 'unpacked')
    if (existsSync(mark)) return
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    const files = workspaceFiles.parse(JSON.parse((await this.#read(listKey(project, id))).toString('utf8')))
    for (const { path, sha256, executable } of files) {
      const target = join(folder, path)
      mkdirSync(dirname(target), { recursive: true, mode: 0o700 })
      writeFileSync(target, await this.#read(contentKey(project, sha256)))
      if (executable) chmodSync(target, 0o755)
    }
    writeFileSync(mark, id)
  }

  async #read(key: string): Promise<Buffer> {
    const found = await this.#objects.get(key)
    assert(found, `the object ${key} is there as long as jobs name it`)
    const pieces: Uint8Array[] = []
    for await (const piece of found.bytes) pieces.push(piece)
    return Buffer.concat(pieces)
  }
}

function hashOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

function contentKey(project: string, sha256: string): string {
  return `projects/${project}/workspaces/contents/${sha256}`
}

function listKey(project: string, id: string): string {
  return `projects/${project}/workspaces/${id}.json`
}
