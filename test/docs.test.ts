import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { generatedFiles } from '../scripts/generated.ts'

const root = join(import.meta.dirname, '..')

test.each([...generatedFiles()])('%s is what the sources make of it (npm run generate)', (path, text) => {
  expect(existsSync(join(root, path))).toBe(true)
  expect(readFileSync(join(root, path), 'utf8')).toBe(text)
})
