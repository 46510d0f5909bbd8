import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'

/** A folder of the calling test file, gone when its tests are done. */
export function testFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-data-'))
  afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }))
  return folder
}

export function write(folder: string, name: string, content: string | Uint8Array): string {
  const path = join(folder, name)
  writeFileSync(path, content)
  return path
}

export async function all<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const list: Item[] = []
  for await (const item of items) list.push(item)
  return list
}
