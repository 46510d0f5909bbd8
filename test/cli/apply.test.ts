import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { manifestSchema, readManifests } from '../../src/cli/manifests.ts'

const folder = mkdtempSync(join(tmpdir(), 'ropeway-apply-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const file = (text: string): string => {
  const path = join(folder, 'things.yml')
  mkdirSync(folder, { recursive: true })
  writeFileSync(path, text)
  return path
}

test('documents are read with their paths made whole and what they leave out filled in', () => {
  const path = file(
    'kind: dataset\nname: texts\nfiles: [a.jsonl]\n---\nkind: checkpoint\nname: base\nlink: {url: "s3://b/c"}\n' +
      '---\nkind: model\nname: chat\ncheckpoint: base\nalias: prod\n---\nkind: retention\nname: few\nkeep_last: 2\n',
  )
  expect(readManifests(path)).toEqual([
    { kind: 'dataset', name: 'texts', files: [join(folder, 'a.jsonl')] },
    {
      ...{ kind: 'checkpoint', name: 'base', step: 0, link: { url: 's3://b/c' } },
      layout: { data: 1, tensor: 1, pipeline: 1, expert: 1 },
    },
    { kind: 'model', name: 'chat', checkpoint: 'base', alias: 'prod' },
    { kind: 'retention', name: 'few', keep_last: 2, jobs: '*' },
  ])
})

test.each([
  ['kind: boat\nname: a\n', /document 1.*kind/],
  ['kind: model\nname: a\ncheckpoint: b\n---\nkind: model\nname: A!\ncheckpoint: b\n', /document 2.*name/],
  ['kind: dataset\nname: a\n', /either files or link/],
  ['kind: dataset\nname: a\nfiles: [x]\nlink: {url: "s3://b"}\n', /either files or link/],
  ['kind: model\nname: a\ncheckpoint: b\ncolour: red\n', /colour/],
  ['kind: [\n', /is not YAML/],
  ['# nothing\n', /holds no document/],
])('a file that cannot be is refused with its place: %j', (text, why) => {
  expect(() => readManifests(file(text))).toThrow(why)
})

test('the schema for editors names every kind and its fields', () => {
  const schema = JSON.stringify(manifestSchema())
  for (const word of ['dataset', 'checkpoint', 'model', 'retention', 'keep_every', 'alias', '2020-12']) {
    expect(schema).toContain(word)
  }
})
