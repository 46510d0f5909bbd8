/**
 * How content is named: by hashes of parts of a fixed length.
 *
 * A file's digest is the SHA-256 of a text that holds the length of its parts and the SHA-256 of each. So parts can
 * be hashed side by side, each is checked when it arrives, no whole file is read again, and a browser, whose crypto
 * hashes nothing in pieces, can do it too. A list of files has a digest of the same kind.
 */

/** Part lengths, smallest first. Which one a file takes follows from its size, so equal files have equal digests. */
const partSizes = [8, 16, 32, 64].map((mebibytes) => mebibytes * 1024 * 1024)
const partsMax = 10_000

export const fileBytesMax = partSizes.at(-1)! * partsMax

export function partBytesOf(bytes: number): number {
  return partSizes.find((partBytes) => bytes <= partBytes * partsMax) ?? partSizes.at(-1)!
}

/** The text whose SHA-256 is the digest of a file. `partHashes`: SHA-256 of its parts in hex, in order. */
export function fileDigestText(bytes: number, partHashes: readonly string[]): string {
  return `ropeway file ${bytes} ${partBytesOf(bytes)}\n${partHashes.join('\n')}`
}

/** What an upload says of the bytes that it brings. */
export interface Announcement {
  readonly bytes: number
  /** SHA-256 of each part in hex, in order. */
  readonly parts: readonly string[]
}

export interface DigestedFile {
  path: string
  bytes: number
  /** Of a file, or the tag that a bucket gave it. */
  digest: string
}

/** The text whose SHA-256 is the digest of a list of files, whatever order they come in. */
export function listDigestText(files: readonly DigestedFile[]): string {
  const sorted = [...files].sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0))
  const lines = sorted.map(({ path, bytes, digest }) => JSON.stringify([path, bytes, digest]))
  return `ropeway files\n${lines.join('\n')}`
}
