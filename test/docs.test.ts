import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { generatedFiles } from '../scripts/generated.ts'

const root = join(import.meta.dirname, '..')
const files = await generatedFiles()

test.each([...files])('%s is what the sources make of it (npm run generate)', (path, text) => {
  expect(existsSync(join(root, path))).toBe(true)
  expect(readFileSync(join(root, path), 'utf8')).toBe(text)
})

test('the references name what there is, and hold nothing of the machine that made them', () => {
  const [cli, api] = [files.get('docs/reference/cli.md')!, files.get('docs/reference/api.md')!]
  for (const heading of ['### ropeway job logs', '### ropeway cluster create', '## ropeway apply'])
    expect(cli).toContain(`${heading}\n`)
  for (const name of ['jobs.logs', 'deployments.metrics', 'clusters.delete', 'prices.set'])
    expect(api).toContain(`### ${name}\n`)
  expect(api).toContain('`GET /api/v1/projects/{project}/jobs` (job:view)')
  for (const text of [cli, api]) expect(text).not.toMatch(new RegExp(`${root}|/tmp/|/home/`))
})
