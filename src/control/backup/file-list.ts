/** The files of a backup, each with its size and SHA-256, a JSON line each: what a restore is held to. */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join, relative, sep } from 'node:path'
import { z } from 'zod'
import { UserError } from '../../base/errors.ts'
import { hashOfFile, writeFileAtomic } from '../../base/files.ts'

const line = z.object({ path: z.string(), bytes: z.int(), sha256: z.string() })

/** Lists the files below `root` in the file `list`; returns the SHA-256 of that. Links are not followed. */
export function writeFileList(root: string, list: string): string {
  const lines = filesBelow(root).map((path) => {
    const file = join(root, path)
    return JSON.stringify({
      path: path.split(sep).join('/'),
      bytes: statSync(file).size,
      sha256: hashOfFile(file),
    })
  })
  writeFileAtomic(list, lines.map((text) => `${text}\n`).join(''))
  return hashOfFile(list)
}

/** Throws UserError unless every file of the list is below `root` as it was; returns how many there are. */
export function checkFileList(root: string, list: string): number {
  const there = new Set(filesBelow(root))
  const lines = readFileSync(list, 'utf8').split('\n').filter(Boolean)
  for (const text of lines) {
    const { path, bytes, sha256 } = line.parse(JSON.parse(text))
    const file = join(root, path)
    const isSame = there.has(path) && statSync(file).size === bytes && hashOfFile(file) === sha256
    if (isSame) continue
    throw new UserError(`${path} is not what the backup says: it is missing, cut off, or was changed.`, {
      fix: 'Restore again from another copy of the backup.',
    })
  }
  return lines.length
}

function filesBelow(root: string): string[] {
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .sort()
}
