import type { BigIntStats, Dirent } from 'node:fs'
import { readdir, realpath, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { isBelow, unlessAbsent } from './folder-files.ts'
import { type ObjectInfo, reserved } from './store.ts'

export interface Walk {
  /** A real path: no part of it is a link. */
  root: string
  prefix: string
  after: string | undefined
}

/** The files below a folder in the order in which a bucket would list them: by the UTF-8 bytes of whole keys. */
export async function* walk(search: Walk, folder = ''): AsyncGenerator<ObjectInfo> {
  const entries = (await unlessAbsent(readdir(join(search.root, folder), { withFileTypes: true }))) ?? []
  const keys = entries
    .filter(({ name }) => folder !== '' || name !== reserved)
    .map((entry) => keyOf(entry, folder))
    .sort(({ order: a }, { order: b }) => a.compare(b))
  for (const { key, entry } of keys) {
    if (entry.isDirectory()) {
      if (mayHold(`${key}/`, search)) yield* walk(search, `${key}/`)
    } else if (key.startsWith(search.prefix) && isBehind(key, search.after)) {
      const info = await infoOf(search.root, key)
      if (info !== undefined) yield info
    }
  }
}

/** A folder sorts where its keys do, so with the slash that follows its name in them. */
function keyOf(entry: Dirent, folder: string): { key: string; entry: Dirent; order: Buffer } {
  const key = folder + entry.name
  return { key, entry, order: Buffer.from(entry.isDirectory() ? `${key}/` : key) }
}

function mayHold(folder: string, { prefix, after }: Walk): boolean {
  if (!folder.startsWith(prefix) && !prefix.startsWith(folder)) return false
  return after === undefined || after.startsWith(folder) || isBehind(folder, after)
}

function isBehind(key: string, after: string | undefined): boolean {
  return after === undefined || Buffer.compare(Buffer.from(key), Buffer.from(after)) > 0
}

/** Undefined for what is no file, is not there, or lies elsewhere behind a link. */
export async function infoOf(root: string, key: string): Promise<ObjectInfo | undefined> {
  const path = await unlessAbsent(realpath(join(root, key)))
  if (path === undefined || !isBelow(path, root) || isBelow(path, join(root, reserved))) return undefined
  const found = await unlessAbsent(stat(path, { bigint: true }))
  return found?.isFile() ? { key, ...factsOf(found) } : undefined
}

export function factsOf(found: BigIntStats): Omit<ObjectInfo, 'key'> {
  return {
    bytes: Number(found.size),
    tag: `${found.ino.toString(36)}-${found.size.toString(36)}-${found.mtimeNs.toString(36)}`,
    modifiedUnixMs: Number(found.mtimeNs / 1_000_000n),
  }
}
