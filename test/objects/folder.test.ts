import { spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { runnerOf } from '../../src/base/processes.ts'
import { FolderStore } from '../../src/control/objects/folder.ts'
import { partBytesMin, type Upload } from '../../src/control/objects/store.ts'
import { bytesOf, hash, read, textOf } from './bytes.ts'
import { objectStoreSuite } from './suite.ts'

class TemporaryFolder {
  readonly path = mkdtempSync(join(tmpdir(), 'ropeway-objects-'));
  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true, maxRetries: 9 })
  }
}

objectStoreSuite('a folder of objects', async () => {
  const folder = new TemporaryFolder()
  return {
    open: () => FolderStore.create(folder.path),
    presigns: false,
    close: async () => folder[Symbol.dispose](),
  }
})

test('a link that leads out of the folder shows nothing and takes nothing', async () => {
  using folder = new TemporaryFolder()
  using outside = new TemporaryFolder()
  writeFileSync(join(outside.path, 'secret'), 'secret')
  symlinkSync(join(outside.path, 'secret'), join(folder.path, 'file'))
  symlinkSync(outside.path, join(folder.path, 'folder'))
  writeFileSync(join(folder.path, 'own'), 'own')
  symlinkSync(join(folder.path, 'own'), join(folder.path, 'alias'))
  const store = await FolderStore.open(folder.path)
  expect((await store.list()).objects.map(({ key }) => key)).toEqual(['alias', 'own'])
  expect(await store.get('file')).toBeUndefined()
  expect(await store.get('folder/secret')).toBeUndefined()
  expect(await textOf(await store.get('alias'))).toBe('own')
  await expect(store.put('folder/new', Buffer.from('x'), hash(Buffer.from('x')))).rejects.toThrow(/by a link/)
  expect(readdirSync(outside.path)).toEqual(['secret'])
})

test('a file of a linked folder that is written to while it is read breaks the read with a reason', async () => {
  using folder = new TemporaryFolder()
  const path = join(folder.path, 'growing.jsonl')
  writeFileSync(path, Buffer.alloc(3 << 20, 'a'))
  const store = await FolderStore.open(folder.path)
  const body = await store.get('growing.jsonl')
  const reading = (async () => {
    for await (const _piece of body!.bytes) writeFileSync(path, Buffer.alloc(3 << 20, 'b'))
  })()
  await expect(reading).rejects.toThrow(/was replaced or removed/)
})

test('a name that is taken by a folder of objects is refused, and so is an object as a folder', async () => {
  using folder = new TemporaryFolder()
  const store = FolderStore.create(folder.path)
  const x = Buffer.from('x')
  await store.put('a/b', x, hash(x))
  await expect(store.put('a', x, hash(x))).rejects.toThrow(/lie below that name|cannot be written/)
  await expect(store.put('a/b/c', x, hash(x))).rejects.toThrow(/part of that name is an object/)
  expect(await store.head('a')).toBeUndefined()
  expect((await store.list()).objects.map(({ key }) => key)).toEqual(['a/b'])
})

test('no empty folder and no temporary file stays behind', async () => {
  using folder = new TemporaryFolder()
  const store = FolderStore.create(folder.path)
  const x = Buffer.from('x')
  await store.put('deep/er/x', x, hash(x))
  await store.put('deep/y', x, hash(x))
  await store.delete('deep/er/x')
  expect(readdirSync(join(folder.path, 'deep'))).toEqual(['y'])
  const upload = await store.begin('deep/z', 1, partBytesMin)
  await store.putPart(upload, 1, x, hash(x))
  await store.complete(upload)
  expect(readdirSync(join(folder.path, '.ropeway/incoming'))).toEqual([])
  expect(readdirSync(join(folder.path, '.ropeway/uploads'))).toEqual([])
})

test('an upload whose id is a way through the file system is refused', async () => {
  using folder = new TemporaryFolder()
  const store = FolderStore.create(folder.path)
  const upload: Upload = { key: 'x', id: '../../../../tmp', bytes: 1, partBytes: partBytesMin }
  await expect(store.parts(upload)).rejects.toThrow(/no upload of this store/)
  await expect(store.abort(upload)).rejects.toThrow(/no upload of this store/)
})

/** Runs upload-and-die.ts until it has said `lines` lines and kills it in the middle of what comes next. */
async function killedAfter(folder: string, lines: number): Promise<string[]> {
  const script = fileURLToPath(new URL('upload-and-die.ts', import.meta.url))
  const child = spawn(process.execPath, [...runnerOf(script), script, folder], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const said: string[] = []
  for await (const line of createInterface({ input: child.stdout })) {
    said.push(line)
    if (said.length === lines) child.kill('SIGKILL')
  }
  return said
}

test('whatever a process acknowledged before kill -9 is there, and its upload can be finished', async () => {
  const runs = await Promise.all(
    [2, 3, 5, 6].map(async (lines) => {
      using folder = new TemporaryFolder()
      const said = (await killedAfter(folder.path, lines)).map((line) => JSON.parse(line))
      expect(said.length).toBeGreaterThanOrEqual(lines)
      const store = FolderStore.create(folder.path)
      let finished = 0
      // The last thing that was said of each upload.
      for (const { upload, parts, whole } of new Map(said.map((line) => [line.upload.id, line])).values()) {
        if (!whole) {
          const kept = await store.parts(upload)
          // It may have completed without living to say so.
          if (kept !== undefined) expect(kept).toEqual(expect.arrayContaining(parts))
          for (const number of [1, 2].filter((number) => kept !== undefined && !kept.includes(number))) {
            const bytes = bytesOf(number, number === 1 ? partBytesMin : 99)
            await store.putPart(upload, number, bytes, hash(bytes))
          }
          await store.complete(upload)
        }
        const bytes = await read((await store.get(upload.key))!)
        expect(hash(bytes)).toBe(hash(Buffer.concat([bytesOf(1, partBytesMin), bytesOf(2, 99)])))
        finished++
      }
      return finished
    }),
  )
  expect(runs.reduce((sum, count) => sum + count, 0)).toBeGreaterThan(4)
})
