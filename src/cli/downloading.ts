import { createHash } from 'node:crypto'
import { mkdir, open, rename, stat } from 'node:fs/promises'
import { dirname, join, resolve, sep } from 'node:path'
import { fileDigestText, partBytesOf } from '../api/control/digest.ts'
import { UserError } from '../base/errors.ts'
import { unlessAbsent } from '../control/objects/folder-files.ts'
import { bytes as bytesText, ProgressLine } from './terminal.ts'

export interface RemoteFile {
  readonly path: string
  readonly bytes: number
  readonly digest: string
}

/**
 * Fetches files into a folder: each under another name first, taken up where it stopped, and checked against its
 * digest. `fetchFrom` answers with the bytes from a position on. `isOurs`: whether digests are of content.
 */
export async function download(
  files: readonly RemoteFile[],
  folder: string,
  fetchFrom: (path: string, start: number) => Promise<Response>,
  isOurs: boolean,
): Promise<void> {
  const line = new ProgressLine()
  const total = files.reduce((sum, { bytes }) => sum + bytes, 0)
  let done = 0
  for (const file of files) {
    const path = inside(folder, file.path)
    await mkdir(dirname(path), { recursive: true })
    await fetchOne(file, path, fetchFrom, isOurs, (count) => {
      done += count
      line.update(total === 0 ? 1 : done / total, `${bytesText(done)} of ${bytesText(total)}`)
    })
  }
  line.end()
}

function inside(folder: string, path: string): string {
  const root = resolve(folder)
  const found = resolve(join(root, path))
  if (found.startsWith(`${root}${sep}`)) return found
  throw new UserError(`${path} would lie outside of ${folder}.`)
}

async function fetchOne(
  file: RemoteFile,
  path: string,
  fetchFrom: (path: string, start: number) => Promise<Response>,
  isOurs: boolean,
  onBytes: (count: number) => void,
): Promise<void> {
  const partial = `${path}.partial`
  const there = (await unlessAbsent(stat(partial)))?.size ?? 0
  const handle = await open(partial, there > 0 && there <= file.bytes ? 'r+' : 'w+')
  try {
    let at = there <= file.bytes ? there : 0
    onBytes(at)
    if (at < file.bytes) {
      const response = await fetchFrom(file.path, at)
      for await (const piece of response.body as unknown as AsyncIterable<Uint8Array>) {
        await handle.write(piece, 0, piece.length, at)
        at += piece.length
        onBytes(piece.length)
      }
    }
    await handle.sync()
    if (isOurs) await checkDigest(file, handle)
  } finally {
    await handle.close()
  }
  await rename(partial, path)
}

async function checkDigest(file: RemoteFile, handle: Awaited<ReturnType<typeof open>>): Promise<void> {
  const partBytes = partBytesOf(file.bytes)
  const hashes: string[] = []
  for (let start = 0; start < file.bytes; start += partBytes) {
    const part = Buffer.alloc(Math.min(partBytes, file.bytes - start))
    await handle.read(part, 0, part.length, start)
    hashes.push(sha256(part))
  }
  if (sha256(fileDigestText(file.bytes, hashes)) === file.digest) return
  await handle.truncate(0)
  throw new UserError(`${file.path} arrived damaged.`, { fix: 'Download it again.' })
}

function sha256(content: string | Uint8Array): string {
  return createHash('sha256').update(content).digest('hex')
}
