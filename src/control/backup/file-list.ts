/** The files and links of a backup, a JSON line each, with size and SHA-256 or target: what a restore is held to. */
import { type Dirent, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { join, relative, sep } from 'node:path'
import { z } from 'zod'
import { UserError } from '../../base/errors.ts'
import { hashOfFile, writeFileAtomic } from '../../base/files.ts'

const file = z.strictObject({ path: z.string(), bytes: z.int(), sha256: z.string() })
const link = z.strictObject({ path: z.string(), link: z.string() })
const line = z.union([file, link])
type Line = z.output<typeof line>

/** Lists what is below `root` in the file `list`; returns the SHA-256 of that. Links are not followed. */
export function writeFileList(root: string, list: string): string {
  const lines = [...below(root)].map(([path, entry]): Line => {
    const place = join(root, path)
    const named = { path: path.split(sep).join('/') }
    if (entry.isSymbolicLink()) return { ...named, link: readlinkSync(place) }
    return { ...named, bytes: statSync(place).size, sha256: hashOfFile(place) }
  })
  writeFileAtomic(list, lines.map((one) => `${JSON.stringify(one)}\n`).join(''))
  return hashOfFile(list)
}

/** Throws UserError unless all of the list is below `root` as it was; returns how much there is. */
export function checkFileList(root: string, list: string): number {
  const there = below(root)
  const lines = readFileSync(list, 'utf8').split('\n').filter(Boolean)
  for (const text of lines) {
    const expected = line.parse(JSON.parse(text))
    const entry = there.get(expected.path)
    if (entry !== undefined && isSame(join(root, expected.path), entry, expected)) continue
    throw new UserError(
      `${expected.path} is not what the backup says: it is missing, cut off, or was changed.`,
      { fix: 'Restore again from another copy of the backup.' },
    )
  }
  return lines.length
}

function isSame(place: string, entry: Dirent, expected: Line): boolean {
  if ('link' in expected) return entry.isSymbolicLink() && readlinkSync(place) === expected.link
  const { bytes, sha256 } = expected
  return entry.isFile() && statSync(place).size === bytes && hashOfFile(place) === sha256
}

/** Files and links by their paths, in the order of these. */
function below(root: string): Map<string, Dirent> {
  const found = readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() || entry.isSymbolicLink())
    .map((entry) => [relative(root, join(entry.parentPath, entry.name)), entry] as const)
  return new Map(found.sort(([a], [b]) => (a < b ? -1 : 1)))
}
