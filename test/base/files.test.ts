import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { writeFileAtomic } from '../../src/base/files.ts'

const root = mkdtempSync(join(tmpdir(), 'ropeway-files-'))
afterAll(() => rmSync(root, { recursive: true, force: true, maxRetries: 9 }))

test('a file is replaced whole, and its folder is made', () => {
  const path = join(root, 'new', 'file')
  writeFileAtomic(path, 'first')
  writeFileAtomic(path, 'second')
  expect(readFileSync(path, 'utf8')).toBe('second')
  expect(readdirSync(join(root, 'new'))).toEqual(['file'])
})

test('what cannot be put into its place leaves nothing beside it', () => {
  const taken = join(root, 'taken')
  mkdirSync(join(taken, 'file'), { recursive: true })
  expect(() => writeFileAtomic(join(taken, 'file'), 'content')).toThrow(/EISDIR|ENOTEMPTY|EEXIST|EPERM/)
  expect(readdirSync(taken)).toEqual(['file'])
})
