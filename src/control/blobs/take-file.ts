import { createHash, type Hash } from 'node:crypto'
import { constants, copyFile, link, mkdir, open } from 'node:fs/promises'
import { dirname } from 'node:path'
import { fileDigestText, partBytesOf } from '../../api/control/digest.ts'
import { UserError } from '../../base/errors.ts'
import { type FilePlace, openFile } from './content.ts'
import type { FileRow } from './rows.ts'

/** `own`: may be written to. `shared`: is only read, so that it may be one with the stored file, and is checked. */
export type Taking = 'own' | 'shared'

/** Puts a file of a version or checkpoint at `path`, which must be free. `onBytes` hears how many have come. */
export async function takeFile(
  place: FilePlace,
  file: FileRow,
  path: string,
  taking: Taking,
  onBytes: (count: number) => void = () => undefined,
): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  const local = file.blob_id === null ? undefined : place.objects.pathOf?.(place.key)
  if (local === undefined) return await receive(place, file, path, onBytes)
  // Whoever writes into it needs a copy; file systems that share blocks do not copy.
  if (taking === 'own') return await copyFile(local, path, constants.COPYFILE_FICLONE)
  await linkOrCopy(local, path)
  await checkContent(file, path, onBytes)
}

async function linkOrCopy(from: string, to: string): Promise<void> {
  try {
    await link(from, to)
  } catch (error) {
    // Another file system, or one without links.
    if (!['EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP'].includes((error as NodeJS.ErrnoException).code ?? ''))
      throw error
    await copyFile(from, to, constants.COPYFILE_FICLONE)
  }
}

async function receive(
  place: FilePlace,
  file: FileRow,
  path: string,
  onBytes: (count: number) => void,
): Promise<void> {
  const { bytes } = await openFile(place, file)
  const digest = new FileDigest(file)
  const handle = await open(path, 'wx')
  try {
    for await (const piece of bytes) {
      digest.add(piece)
      await handle.writeFile(piece)
      onBytes(piece.length)
    }
    await handle.sync()
  } finally {
    await handle.close()
  }
  digest.check()
}

async function checkContent(file: FileRow, path: string, onBytes: (count: number) => void): Promise<void> {
  const digest = new FileDigest(file)
  const handle = await open(path, 'r')
  try {
    for await (const piece of handle.createReadStream({ autoClose: false, highWaterMark: 1 << 20 })) {
      digest.add(piece as Uint8Array)
      onBytes((piece as Uint8Array).length)
    }
  } finally {
    await handle.close()
  }
  digest.check()
}

/** Compares what has come with what the row says: its content, or its length where only a tag of a bucket is known. */
class FileDigest {
  readonly #file: FileRow
  readonly #partBytes: number
  readonly #parts: string[] = []
  #part: Hash = createHash('sha256')
  #inPart = 0
  #bytes = 0

  constructor(file: FileRow) {
    this.#file = file
    this.#partBytes = partBytesOf(file.bytes)
  }

  add(piece: Uint8Array): void {
    this.#bytes += piece.length
    for (let at = 0; at < piece.length; ) {
      const some = piece.subarray(at, at + this.#partBytes - this.#inPart)
      this.#part.update(some)
      this.#inPart += some.length
      at += some.length
      if (this.#inPart === this.#partBytes) this.#endPart()
    }
  }

  #endPart(): void {
    this.#parts.push(this.#part.digest('hex'))
    this.#part = createHash('sha256')
    this.#inPart = 0
  }

  check(): void {
    const { path, bytes, digest, blob_id } = this.#file
    if (this.#inPart > 0) this.#endPart()
    const isContent =
      blob_id === null ||
      createHash('sha256').update(fileDigestText(bytes, this.#parts)).digest('hex') === digest
    if (this.#bytes === bytes && isContent) return
    throw new UserError(`${path} has not the content that was stored.`, {
      fix: 'The object store has damaged it: restore it from a backup, or delete it and upload it again.',
    })
  }
}
