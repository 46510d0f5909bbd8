/** Datasets, checkpoints, models and rules on the command line, against a service in this process. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ropeway, type Workbench, workbench } from './command-line.ts'

let bench: Workbench
const path = (name: string) => join(bench.folder, name)
beforeAll(async () => {
  bench = await workbench()
  mkdirSync(path('said'))
  writeFileSync(path('said/a.jsonl'), '{"text": "good"}\n{"text": "better"}\n')
  writeFileSync(path('weights.safetensors'), 'weights')
})
afterAll(() => bench[Symbol.asyncDispose]())

test('a dataset grows by versions, each of which stays as it was', async () => {
  expect((await ropeway(['dataset', 'upload', 'said', path('said')])).out).toMatch(/name +said@1/)
  writeFileSync(path('b.jsonl'), '{"text": "best", "rank": 1}\n')
  expect((await ropeway(['dataset', 'upload', 'said', path('b.jsonl'), '-m', 'more'])).code).toBe(0)
  expect((await ropeway(['dataset', 'remove-file', 'said', 'a.jsonl', '--json'])).json).toMatchObject([
    { latest: 3, version: { files: 1 } },
  ])
  expect((await ropeway(['dataset', 'versions', 'said', '--json'])).json.map(({ files }) => files)).toEqual([
    1, 2, 1,
  ])
  expect((await ropeway(['dataset', 'files', 'said@2', '-q'])).out).toBe('a.jsonl\nb.jsonl\n')
  expect((await ropeway(['dataset', 'preview', 'said@1', '-n', '1'])).json).toEqual([{ text: 'good' }])
  expect((await ropeway(['dataset', 'statistics', 'said@2', '--json'])).json).toMatchObject([
    {
      records: 3,
      fields: [
        { name: 'text', records: 3 },
        { name: 'rank', records: 1 },
      ],
    },
  ])
  expect((await ropeway(['dataset', 'download', 'said@1', path('got')])).code).toBe(0)
  expect(readFileSync(path('got/a.jsonl'), 'utf8')).toContain('better')
  expect((await ropeway(['dataset', 'edit', 'said', '--name', 'told', '--description', 'x'])).out).toMatch(
    /told/,
  )
})

test('a checkpoint becomes a model, moves between aliases, and is not deleted while a model names it', async () => {
  const upload = [
    'checkpoint',
    'upload',
    'base',
    path('weights.safetensors'),
    '--step',
    '7',
    '--layout',
    'tensor=2',
  ]
  expect((await ropeway(upload)).out).toMatch(/layout +data=1 tensor=2/)
  for (const name of ['next', 'spare'])
    expect((await ropeway(['checkpoint', 'upload', name, path('b.jsonl')])).code).toBe(0)
  expect((await ropeway(['model', 'promote', 'base', 'chat', '--as', 'prod'])).out).toMatch(/chat@1/)
  expect((await ropeway(['models', 'promote', 'next', 'chat', '--as', 'prod', '-m', 'newer'])).out).toMatch(
    /chat@2/,
  )
  expect((await ropeway(['model', 'alias', 'chat', 'prod', '1'])).out).toMatch(/prod/)
  expect((await ropeway(['model', 'view', 'chat:prod', '--json'])).json).toMatchObject([
    { checkpoint: { name: 'base' } },
  ])
  expect((await ropeway(['model', 'versions', 'chat', '--json'])).json.map(({ number }) => number)).toEqual([
    2, 1,
  ])
  expect((await ropeway(['checkpoint', 'lineage', 'base'])).out).toMatch(/base +.*chat/)
  expect((await ropeway(['checkpoint', 'delete', 'base', '-y'])).code).toBe(6)
  expect((await ropeway(['checkpoint', 'download', 'base', path('fetched')])).code).toBe(0)
  expect(readFileSync(path('fetched/weights.safetensors'), 'utf8')).toBe('weights')
})

test.each([
  ['dataset', 'told', /with all its versions/],
  ['model', 'chat', /Its checkpoints stay/],
  ['checkpoint', 'spare', /Delete the checkpoint spare\?/],
])('a %s is deleted once somebody says so, and taken back by its id', async (noun, name, question) => {
  expect(await ropeway([noun, 'delete', name])).toMatchObject({
    code: 2,
    err: expect.stringMatching(question),
  })
  const deleted = await ropeway([noun, 'delete', name, '-y'])
  const [, id] = new RegExp(`ropeway ${noun} restore (\\S+)`).exec(deleted.err)!
  expect((await ropeway([noun, 'view', name])).code).toBe(3)
  expect((await ropeway([noun, '--deleted', '-q'])).out).toBe(`${id}\n`)
  expect((await ropeway(['complete', '--', noun, 'restore', ''])).out).toBe(`${id}\n`)
  expect((await ropeway([noun, 'restore', id!])).out).toContain(name)
  expect((await ropeway([noun, 'view', name])).code).toBe(0)
})

test('rules about what stays are set, listed and taken away', async () => {
  const set = await ropeway([
    'retention',
    'set',
    'few',
    '--jobs',
    'tune*',
    '--keep-last',
    '3',
    '--keep-best',
    '+accuracy',
    '--keep-best-count',
    '2',
  ])
  expect(set.code).toBe(0)
  const keep_best = { metric: 'accuracy', mode: 'max', count: 2 }
  expect((await ropeway(['retention', '--json'])).json).toMatchObject([
    { name: 'few', rule: { jobs: 'tune*', keep_last: 3, keep_best } },
  ])
  const alone = await ropeway(['retention', 'set', 'few', '--keep-best-count', '2'])
  expect(alone).toMatchObject({ code: 2, err: expect.stringContaining('goes with --keep-best') })
  await ropeway(['retention', 'set', 'few', '--keep-best', 'loss'])
  expect((await ropeway(['retention', '--json'])).json[0].rule.keep_best.count).toBe(1)
  expect((await ropeway(['retention', 'delete', 'few'])).code).toBe(0)
  expect((await ropeway(['retention', '-q'])).out).toBe('')
})
