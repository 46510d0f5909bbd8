import { createHash, type Hash } from 'node:crypto'
import { open } from 'node:fs/promises'
import { setImmediate as turn } from 'node:timers/promises'
import { partBytesOf } from '../../api/control/digest.ts'
import { UserError } from '../../base/errors.ts'
import { unlessAbsent } from '../objects/folder-files.ts'
import { sha256Of } from '../objects/hash.ts'
import type { Blobs } from './blobs.ts'
import type { BlobRow } from './rows.ts'

/**
 * Brings a file of this machine, such as a checkpoint that a job has written: read once for its hashes, and once
 * more for what is missing. A file that changes in between is refused, and so is one that has not the content of
 * `sha256` (of the whole file, in hex) if that is given.
 */
export async function bringFile(
  blobs: Blobs,
  project: string,
  path: string,
  sha256?: string,
): Promise<BlobRow> {
  const file = await unlessAbsent(open(path, 'r'))
  if (file === undefined) throw new UserError(`There is no file ${path}.`, { failure: 'not_found' })
  try {
    const { size: bytes } = await file.stat()
    const partBytes = partBytesOf(bytes)
    const read = async (number: number): Promise<Uint8Array> => {
      const start = (number - 1) * partBytes
      const part = Buffer.allocUnsafe(Math.min(partBytes, bytes - start))
      let done = 0
      while (done < part.length) {
        const { bytesRead } = await file.read(part, done, part.length - done, start + done)
        if (bytesRead === 0) throw new UserError(`${path} became shorter while it was read.`)
        done += bytesRead
      }
      return part
    }
    const parts: string[] = []
    const whole = createHash('sha256')
    for (let number = 1; number <= Math.ceil(bytes / partBytes); number++) {
      const part = await read(number)
      if (sha256 !== undefined) await addTo(whole, part)
      parts.push(await sha256Of(part))
    }
    if (sha256 !== undefined && whole.digest('hex') !== sha256)
      throw new UserError(`${path} has not the content that was saved.`)
    const { blob, missing } = await blobs.open(project, { bytes, parts })
    for (const number of missing) await blobs.putPart(project, blob.id, number, await read(number))
    return await blobs.complete(project, blob.id)
  } finally {
    await file.close()
  }
}

/** Hashed in a fraction of a millisecond; a part takes fifty. */
const pieceBytes = 1 << 20

/** The loop of a server turns in between. */
async function addTo(hash: Hash, part: Uint8Array): Promise<void> {
  for (let start = 0; start < part.length; start += pieceBytes) {
    hash.update(part.subarray(start, start + pieceBytes))
    await turn()
  }
}
