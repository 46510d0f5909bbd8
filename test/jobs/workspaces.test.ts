import { createHash } from 'node:crypto'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { expect, test } from 'vitest'
import { workspaceFiles } from '../../src/api/control/workspaces.ts'
import { Workspaces } from '../../src/control/jobs/workspaces.ts'
import { FolderStore } from '../../src/control/objects/folder.ts'

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')
const file = (path: string, text: string, executable = false) => ({
  path,
  sha256: sha256(text),
  bytes: text.length,
  executable,
})

function room() {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-workspaces-'))
  const workspaces = new Workspaces(FolderStore.create(join(folder, 'objects')))
  return {
    folder,
    workspaces,
    [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }),
  }
}

test('a folder is kept once its contents are there, and comes out as it went in', async () => {
  using place = room()
  const { workspaces } = place
  const files = [
    file('run.sh', 'echo', true),
    file('data/a.txt', 'same'),
    file('data/b.txt', 'same'),
    file('empty', ''),
  ]
  const first = await workspaces.put('p', files)
  expect(first.id).toBe(null)
  expect(first.missing).toHaveLength(3)
  for (const text of ['echo', 'same', ''])
    await workspaces.send('p', sha256(text), Readable.from([Buffer.from(text)]))
  const { id, missing } = await workspaces.put('p', files)
  expect(missing).toEqual([])
  expect((await workspaces.put('p', [...files].reverse())).id).toBe(id)
  expect([await workspaces.has('p', id!), await workspaces.has('q', id!)]).toEqual([true, false])
  const target = join(place.folder, 'job', 'workspace')
  await workspaces.unpack('p', id!, target)
  expect(readFileSync(join(target, 'data', 'b.txt'), 'utf8')).toBe('same')
  expect(statSync(join(target, 'run.sh')).mode & 0o100).toBe(0o100)
  // What the program made of it stays for the next attempt.
  writeFileSync(join(target, 'data', 'b.txt'), 'mine')
  await workspaces.unpack('p', id!, target)
  expect(readFileSync(join(target, 'data', 'b.txt'), 'utf8')).toBe('mine')
})

test('content of another hash is refused and kept nowhere', async () => {
  using place = room()
  const send = (hash: string, text: string) =>
    place.workspaces.send('p', hash, Readable.from([Buffer.from(text)]))
  await expect(send(sha256('a'), 'b')).rejects.toThrow('another SHA-256')
  await expect(send('../../../etc/passwd', 'b')).rejects.toThrow('no SHA-256')
  const objects = join(place.folder, 'objects')
  expect(readdirSync(objects).filter((name) => name !== '.ropeway')).toEqual([])
  expect(existsSync(join(place.folder, 'etc'))).toBe(false)
})

test('paths that lead out of the folder are no part of a workspace', () => {
  for (const path of ['/etc/passwd', '../x', 'a/../../x', 'a//b', './a', 'a/', 'a\\b', 'a\u0000b', ''])
    expect(workspaceFiles.safeParse([file(path, 'x')]).success, path).toBe(false)
  expect(workspaceFiles.safeParse([file('a/b.c', 'x')]).success).toBe(true)
  expect(workspaceFiles.safeParse([file('a', 'x'), file('a', 'y')]).success).toBe(false)
})
