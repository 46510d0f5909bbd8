/** Sends files to the service: parts side by side, each checked there, again when the service was away. */
import { type FileHandle, open, readdir, stat } from 'node:fs/promises'
import { basename, join, relative, sep } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Client } from '../api/control/client.ts'
import { beginUpload, completeUpload, putPart } from '../api/control/datasets.ts'
import { fileDigestText, partBytesOf } from '../api/control/digest.ts'
import { Refused } from '../api/control/problem.ts'
import { UserError } from '../base/errors.ts'
import { unlessAbsent } from '../control/objects/folder-files.ts'
import { sha256Of } from '../control/objects/hash.ts'
import { bytes as bytesText, ProgressLine } from './terminal.ts'

export interface LocalFile {
  /** In the dataset or checkpoint. */
  readonly path: string
  readonly source: string
  readonly bytes: number
}

export interface UploadedFile {
  readonly path: string
  readonly blob: string
}

/** Files that are sent at the same time, and parts of each. */
const filesAtOnce = 2
const partsAtOnce = 2
/** A service that restarts is waited for so often, with waits that double. */
const attemptsMax = 8
const firstWaitMs = 250

/** The files that paths name: a file by its name, a folder with all that lies in it. */
export async function filesOf(paths: readonly string[]): Promise<LocalFile[]> {
  const files: LocalFile[] = []
  for (const path of paths) {
    const found = await unlessAbsent(stat(path))
    if (found === undefined) throw new UserError(`There is no file ${path}.`, { failure: 'not_found' })
    if (found.isFile()) files.push({ path: basename(path), source: path, bytes: found.size })
    else files.push(...(await filesIn(path)))
  }
  if (files.length === 0) throw new UserError('There is no file to upload there.', { failure: 'usage' })
  return files
}

async function filesIn(folder: string): Promise<LocalFile[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile() && !entry.name.startsWith('.'))
  return Promise.all(
    files.map(async (entry) => {
      const source = join(entry.parentPath, entry.name)
      return { path: relative(folder, source).split(sep).join('/'), source, bytes: (await stat(source)).size }
    }),
  )
}

/** Uploads what the service does not have yet; returns what names the files there. */
export async function upload(
  client: Client,
  project: string,
  files: readonly LocalFile[],
): Promise<UploadedFile[]> {
  const progress = new Progress(files)
  const uploaded: UploadedFile[] = []
  try {
    await sideBySide(files, filesAtOnce, async (file) => {
      uploaded.push({ path: file.path, blob: await uploadOne(client, project, file, progress) })
    })
  } finally {
    progress.end()
  }
  return uploaded.sort((a, b) => (a.path < b.path ? -1 : 1))
}

async function uploadOne(
  client: Client,
  project: string,
  file: LocalFile,
  progress: Progress,
): Promise<string> {
  const handle = await open(file.source, 'r')
  try {
    const parts: string[] = []
    for (let number = 1; number <= countOf(file); number++) {
      parts.push(await sha256Of(await readPart(handle, file, number)))
      progress.hashed(lengthOf(file, number))
    }
    const body = { bytes: file.bytes, parts }
    const begun = await again(() => client.call(beginUpload, { params: { project }, body }))
    const missing = new Set(begun.missing)
    for (const number of parts.keys()) if (!missing.has(number + 1)) progress.sent(lengthOf(file, number + 1))
    await sideBySide(begun.missing, partsAtOnce, async (number) => {
      const part = await readPart(handle, file, number)
      const params = { project, upload: begun.id, part: String(number) }
      await again(() => client.call(putPart, { params, body: part as Uint8Array<ArrayBuffer> }))
      progress.sent(part.length)
    })
    await again(() => client.call(completeUpload, { params: { project, upload: begun.id } }))
    return begun.id
  } finally {
    await handle.close()
  }
}

/** The digest that the file has in the service. */
export async function digestOf(file: LocalFile): Promise<string> {
  const handle = await open(file.source, 'r')
  try {
    const parts: string[] = []
    for (let number = 1; number <= countOf(file); number++)
      parts.push(await sha256Of(await readPart(handle, file, number)))
    return await sha256Of(Buffer.from(fileDigestText(file.bytes, parts)))
  } finally {
    await handle.close()
  }
}

const countOf = ({ bytes }: LocalFile) => Math.ceil(bytes / partBytesOf(bytes))

function lengthOf({ bytes }: LocalFile, number: number): number {
  const partBytes = partBytesOf(bytes)
  return Math.min(partBytes, bytes - (number - 1) * partBytes)
}

async function readPart(handle: FileHandle, file: LocalFile, number: number): Promise<Uint8Array> {
  const part = Buffer.alloc(lengthOf(file, number))
  const start = (number - 1) * partBytesOf(file.bytes)
  for (let done = 0; done < part.length; ) {
    const { bytesRead } = await handle.read(part, done, part.length - done, start + done)
    if (bytesRead === 0) {
      throw new UserError(`${file.source} became shorter while it was uploaded.`, {
        fix: 'Upload it once nothing writes to it.',
      })
    }
    done += bytesRead
  }
  return part
}

/** Asks again while the service is away: what it has acknowledged, it has kept. */
async function again<T>(ask: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await ask()
    } catch (error) {
      const away =
        (error instanceof UserError && error.failure === 'unreachable') ||
        (error instanceof Refused && error.code === 'unavailable')
      if (!away || attempt === attemptsMax) throw error
      await delay(firstWaitMs * 2 ** (attempt - 1))
    }
  }
}

async function sideBySide<T>(
  items: readonly T[],
  count: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0
  let failed = false
  const worker = async () => {
    while (next < items.length && !failed) {
      try {
        await work(items[next++]!)
      } catch (error) {
        failed = true
        throw error
      }
    }
  }
  const ended = await Promise.allSettled(Array.from({ length: Math.min(count, items.length) }, worker))
  for (const result of ended) if (result.status === 'rejected') throw result.reason
}

class Progress {
  readonly #line = new ProgressLine()
  readonly #total: number
  readonly #started = performance.now()
  #hashed = 0
  #sent = 0

  constructor(files: readonly LocalFile[]) {
    this.#total = files.reduce((sum, { bytes }) => sum + bytes, 0)
  }

  hashed(bytes: number): void {
    this.#hashed += bytes
    this.#show()
  }

  sent(bytes: number): void {
    this.#sent += bytes
    this.#show()
  }

  #show(): void {
    const rate = this.#sent / Math.max(0.001, (performance.now() - this.#started) / 1000)
    const text =
      this.#sent === 0
        ? `read ${bytesText(this.#hashed)} of ${bytesText(this.#total)}`
        : `sent ${bytesText(this.#sent)} of ${bytesText(this.#total)}, ${bytesText(rate)}/s`
    this.#line.update(this.#total === 0 ? 1 : this.#sent / this.#total, text)
  }

  end(): void {
    this.#line.end()
  }
}
