/** Sends files of this browser to the service, as `ropeway dataset upload` does: what is there is not sent again. */
import {
  addVersion,
  beginUpload,
  completeUpload,
  putPart,
  requestFilesMax,
} from '../../src/api/control/datasets.ts'
import { partBytesOf } from '../../src/api/control/digest.ts'
import { service } from './service.ts'

export interface PickedFile {
  /** In the dataset. */
  readonly path: string
  readonly file: File
}

export interface UploadOf {
  readonly project: string
  readonly dataset: string
  readonly files: readonly PickedFile[]
  /** Whether files of the newest version stay. */
  readonly keep: boolean
  readonly message: string
}

export interface UploadProgress {
  readonly totalBytes: number
  readonly hashedBytes: number
  /** With what the service had already. */
  readonly sentBytes: number
  readonly filesDone: number
}

const partsAtOnce = 2

/** Browsers hash at https and at localhost only. */
export function mayHash(): boolean {
  return (globalThis.crypto as Partial<Crypto>).subtle !== undefined
}

/** Makes a version of the files. When it failed or was stopped, the same again sends only what is missing. */
export async function uploadVersion(
  { project, dataset, files, keep, message }: UploadOf,
  signal: AbortSignal,
  onProgress: (progress: UploadProgress) => void,
) {
  const sum = new ProgressSum(files, onProgress)
  const named: { path: string; blob: string }[] = []
  for (const { path, file } of files) {
    named.push({ path, blob: await uploadFile(project, file, signal, sum) })
    sum.add({ filesDone: 1 })
  }
  let made = undefined as Awaited<ReturnType<typeof add>> | undefined
  const add = (part: typeof named, keeps: boolean) =>
    service.call(addVersion, {
      params: { project, dataset },
      body: { files: part, keep: keeps, message },
      signal,
    })
  for (let at = 0; at < named.length; at += requestFilesMax)
    made = await add(named.slice(at, at + requestFilesMax), keep || at > 0)
  return made!
}

async function uploadFile(
  project: string,
  file: File,
  signal: AbortSignal,
  sum: ProgressSum,
): Promise<string> {
  const partBytes = partBytesOf(file.size)
  const partOf = (number: number) => file.slice((number - 1) * partBytes, number * partBytes)
  const count = Math.ceil(file.size / partBytes)
  const parts: string[] = []
  for (let number = 1; number <= count; number++) {
    signal.throwIfAborted()
    const part = await partOf(number).arrayBuffer()
    parts.push(await sha256Of(part))
    sum.add({ hashedBytes: part.byteLength })
  }
  const begun = await service.call(beginUpload, {
    params: { project },
    body: { bytes: file.size, parts },
    signal,
  })
  const missing = [...begun.missing]
  sum.add({ sentBytes: file.size - missing.reduce((bytes, number) => bytes + partOf(number).size, 0) })
  const send = async (number: number) => {
    const body = partOf(number)
    const params = { project, upload: begun.id, part: String(number) }
    await service.call(putPart, { params, body, signal })
    sum.add({ sentBytes: body.size })
  }
  const sender = async () => {
    for (let number = missing.shift(); number !== undefined; number = missing.shift()) {
      try {
        await send(number)
      } catch (error) {
        missing.length = 0
        throw error
      }
    }
  }
  // A part that goes beside one that failed still arrives.
  const ended = await Promise.allSettled(Array.from({ length: partsAtOnce }, sender))
  for (const result of ended) if (result.status === 'rejected') throw result.reason
  await service.call(completeUpload, { params: { project, upload: begun.id }, signal })
  return begun.id
}

async function sha256Of(bytes: ArrayBuffer): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

class ProgressSum {
  #now: UploadProgress
  readonly #tell: (progress: UploadProgress) => void

  constructor(files: readonly PickedFile[], tell: (progress: UploadProgress) => void) {
    const totalBytes = files.reduce((sum, { file }) => sum + file.size, 0)
    this.#now = { totalBytes, hashedBytes: 0, sentBytes: 0, filesDone: 0 }
    this.#tell = tell
    tell(this.#now)
  }

  add(more: Partial<UploadProgress>): void {
    const { hashedBytes = 0, sentBytes = 0, filesDone = 0 } = more
    this.#now = {
      totalBytes: this.#now.totalBytes,
      hashedBytes: this.#now.hashedBytes + hashedBytes,
      sentBytes: this.#now.sentBytes + sentBytes,
      filesDone: this.#now.filesDone + filesDone,
    }
    this.#tell(this.#now)
  }
}

/** What a chooser of files or of a folder gave; a folder's own name is no part of its files' paths. */
export function chosenFiles(list: FileList): PickedFile[] {
  return Array.from(list, (file) => ({
    path: file.webkitRelativePath.replace(/^[^/]*\//, '') || file.name,
    file,
  })).filter(isSeen)
}

/** What was dropped: files, and folders with all that lies in them. */
export async function droppedFiles(items: DataTransferItemList): Promise<PickedFile[]> {
  // All are taken before the first wait: they are gone once the event has ended.
  const taken = Array.from(items, (item) => ({ entry: item.webkitGetAsEntry(), file: item.getAsFile() }))
  const found = await Promise.all(
    taken.map(async ({ entry, file }) => {
      if (entry?.isDirectory) return await filesIn(entry as FileSystemDirectoryEntry)
      return file === null ? [] : [{ path: file.name, file }]
    }),
  )
  return found.flat().filter(isSeen)
}

async function filesIn(folder: FileSystemDirectoryEntry, before = ''): Promise<PickedFile[]> {
  const reader = folder.createReader()
  const found: PickedFile[] = []
  // It answers with some at a time, and with none at the end.
  for (;;) {
    const entries = await new Promise<FileSystemEntry[]>((resolve, reject) =>
      reader.readEntries(resolve, reject),
    )
    if (entries.length === 0) return found
    for (const entry of entries) {
      if (entry.isDirectory)
        found.push(...(await filesIn(entry as FileSystemDirectoryEntry, `${before}${entry.name}/`)))
      else found.push(...(await oneOf(entry, before)))
    }
  }
}

async function oneOf(entry: FileSystemEntry, before: string): Promise<PickedFile[]> {
  const file = await new Promise<File>((resolve, reject) =>
    (entry as FileSystemFileEntry).file(resolve, reject),
  )
  return [{ path: `${before}${entry.name}`, file }]
}

const isSeen = ({ file }: PickedFile) => !file.name.startsWith('.')

/** A name of a dataset, made of a file's. */
export function nameFrom(path: string): string {
  return path
    .replace(/\.[a-z0-9]+(\.gz)?$/i, '')
    .toLowerCase()
    .replace(/[^a-z0-9._-]+/g, '-')
    .slice(0, 63)
    .replace(/^[._-]+|[._-]+$/g, '')
}
