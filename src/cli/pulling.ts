/** Fetches a repository of the hub into a folder: taken up where it stopped, and checked file by file. */
import { createReadStream } from 'node:fs'
import { mkdir, open, rename, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { UserError } from '../base/errors.ts'
import { unlessAbsent } from '../control/objects/folder-files.ts'
import { ContentCheck, type HubStore } from '../control/objects/hub.ts'
import { listMax, type ObjectInfo } from '../control/objects/store.ts'
import { bytes as bytesText, ProgressLine } from './terminal.ts'
import type { LocalFile } from './uploading.ts'

/** Its files, all of which are in `folder` when this resolves. */
export async function pullFiles(store: HubStore, folder: string): Promise<LocalFile[]> {
  const files = await filesOf(store)
  const total = files.reduce((sum, { bytes }) => sum + bytes, 0)
  const line = new ProgressLine()
  let done = 0
  const onBytes = (count: number) => {
    done += count
    line.update(total === 0 ? 1 : done / total, `${bytesText(done)} of ${bytesText(total)}`)
  }
  const pulled: LocalFile[] = []
  for (const file of files) {
    const path = join(folder, file.key)
    await mkdir(dirname(path), { recursive: true })
    await pullOne(store, file, path, onBytes)
    pulled.push({ path: file.key, source: path, bytes: file.bytes })
  }
  line.end()
  return pulled
}

async function filesOf(store: HubStore): Promise<ObjectInfo[]> {
  const files: ObjectInfo[] = []
  for (let more = true; more; ) {
    const after = files.at(-1)?.key
    const page = await store.list({ limit: listMax, ...(after !== undefined && { after }) })
    files.push(...page.objects)
    more = page.more
  }
  if (files.length > 0) return files
  throw new UserError(`There is no file in ${store.url}.`, { failure: 'not_found' })
}

async function pullOne(
  store: HubStore,
  file: ObjectInfo,
  path: string,
  onBytes: (count: number) => void,
): Promise<void> {
  // A file has its name only once it was checked.
  if ((await unlessAbsent(stat(path)))?.size === file.bytes) return onBytes(file.bytes)
  const partial = `${path}.partial`
  const there = (await unlessAbsent(stat(partial)))?.size ?? 0
  let at = there <= file.bytes ? there : 0
  const check = new ContentCheck(file)
  if (at > 0) for await (const piece of createReadStream(partial, { end: at - 1 })) check.update(piece)
  onBytes(at)
  const handle = await open(partial, at > 0 ? 'r+' : 'w')
  try {
    const body = await store.get(file.key, { start: at })
    if (body === undefined || body.info.tag !== file.tag)
      throw new UserError(`${file.key} was replaced on the hub while it was read.`, { fix: 'Pull again.' })
    for await (const piece of body.bytes) {
      await handle.write(piece, 0, piece.length, at)
      at += piece.length
      check.update(piece)
      onBytes(piece.length)
    }
    await handle.sync()
  } finally {
    await handle.close()
  }
  try {
    check.end()
  } catch (error) {
    // Whatever is wrong in it would be taken up again.
    await rm(partial)
    throw error
  }
  await rename(partial, path)
}
