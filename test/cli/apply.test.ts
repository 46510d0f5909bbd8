import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readManifests } from '../../src/cli/apply/manifests.ts'
import { ropeway, type Workbench, workbench } from './command-line.ts'

const folder = mkdtempSync(join(tmpdir(), 'ropeway-apply-'))
afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }))

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
  ['kind: model\nname: a\ncheckpont: b\n', /document 1: checkpont: Unknown field; did you mean checkpoint\?/],
  ['kind: job\nname: a\n', /either file.* or spec/],
  [
    'kind: quota\nname: cpu\ndevices: 1\n---\nkind: quota\nname: cpu\ndevices: 2\n',
    /1 and 2 are both about the quota cpu/,
  ],
  ['kind: [\n', /is not YAML/],
  ['# nothing\n', /holds no document/],
])('a file that cannot be is refused with its place: %j', (text, why) => {
  expect(() => readManifests(file(text))).toThrow(why)
})

const whole = `# Not in the order in which they must be made.
kind: deployment
name: chat-live
project: shop
version: {model: chat}
scaling: {max: 2}
---
kind: key
name: web
project: shop
scopes: ['deployment:use']
limits: {requestsPerMinute: 60}
---
kind: job
name: tune
project: shop
file: work/job.yml
---
kind: template
name: nightly
project: shop
spec: {run: [echo, hello]}
---
kind: model
name: chat
project: shop
checkpoint: base
alias: prod
---
kind: checkpoint
name: base
project: shop
files: [model]
---
kind: dataset
name: reviews
project: shop
description: What people said.
files: [reviews.jsonl]
---
kind: retention
name: few
project: shop
keep_last: 2
---
kind: quota
name: cpu
project: shop
devices: 4
---
kind: project
name: shop
title: The shop
---
kind: cluster
name: cellar
slots: {cpu: 8}
`
const kinds = [
  'cluster',
  'project',
  'quota',
  'retention',
  'dataset',
  'checkpoint',
  'model',
  'template',
  'job',
]

let bench: Workbench
beforeAll(async () => {
  bench = await workbench()
  mkdirSync(join(folder, 'work'))
  mkdirSync(join(folder, 'model'))
  writeFileSync(join(folder, 'work', 'job.yml'), 'name: elsewhere\nrun: cat words.txt\njob: {retries: 1}\n')
  writeFileSync(join(folder, 'work', 'words.txt'), 'words')
  writeFileSync(join(folder, 'model', 'config.json'), '{}')
  writeFileSync(join(folder, 'model', 'weights.safetensors'), 'weights')
  writeFileSync(join(folder, 'reviews.jsonl'), '{"text": "good"}\n')
})
afterAll(() => bench[Symbol.asyncDispose]())

const apply = (text: string, ...flags: string[]) => ropeway(['apply', '-f', file(text), ...flags])
const outcomes = async (text: string, ...flags: string[]) =>
  Object.fromEntries((await apply(text, '--json', ...flags)).json.map((item) => [item.kind, item.outcome]))

test('a plan does nothing until somebody says yes, and names every thing in the order of their needs', async () => {
  const dry = await apply(whole, '--dry-run')
  expect(dry).toMatchObject({ code: 0, out: '' })
  expect([...dry.err.matchAll(/^\+ (\w+)/gm)].map(([, kind]) => kind)).toEqual([
    ...kinds,
    'deployment',
    'key',
  ])
  expect(await apply(whole)).toMatchObject({ code: 2, err: expect.stringContaining('-y') })
  expect((await ropeway(['project', '-q'])).out.trim().split('\n')).toHaveLength(1)
})

test('a file makes everything that it names, and made again it changes nothing', async () => {
  const made = await apply(whole, '-y')
  expect(made.code).toBe(0)
  expect(made.out).toMatch(/^cluster cellar: created\nproject shop: created\n/)
  expect(made.out).toMatch(/key web: created\nrwk_[\w-]+\n$/)
  const inShop = (...args: string[]) => ropeway([...args, '--project', 'shop', '--json'])
  expect((await inShop('dataset', 'view', 'reviews')).json).toMatchObject([
    { description: 'What people said.', latest: 1 },
  ])
  expect((await inShop('model', 'view', 'chat:prod')).json).toMatchObject([{ checkpoint: { name: 'base' } }])
  expect((await inShop('job', 'view', 'tune')).json).toMatchObject([
    { name: 'tune', state: 'waiting', file: { run: ['cat', 'words.txt'] }, placement: { retries: 1 } },
  ])
  expect((await inShop('quota')).json).toMatchObject([{ device: 'cpu', devices: 4 }])
  expect((await inShop('deployment', 'view', 'chat-live')).json).toMatchObject([{ scaling: { max: 2 } }])
  const again = await apply(whole, '-y')
  expect(again).toMatchObject({ code: 0, out: '', err: expect.stringContaining('Everything is so already.') })
  expect(new Set(Object.values(await outcomes(whole)))).toEqual(new Set(['unchanged']))
  expect((await inShop('job')).json).toHaveLength(1)
})

test('what is to be another is shown field by field, and nothing else is touched', async () => {
  writeFileSync(join(folder, 'reviews.jsonl'), '{"text": "bad!"}\n')
  const changed = whole
    .replace('max: 2', 'max: 3')
    .replace('{model: chat}', '{model: chat, engine: {context: 512}}')
    .replace('devices: 4', 'devices: 5')
    .replace('title: The shop', 'title: Our shop')
    .replace('requestsPerMinute: 60', 'requestsPerMinute: 90')
    .replace('echo, hello', 'echo, bye')
    .replace('cpu: 8', 'cpu: 6')
  const plan = await apply(changed, '--dry-run')
  for (const text of [
    '~ cluster cellar\n    slots.cpu: 8 -> 6\n',
    '    title: The shop -> Our shop\n',
    '    devices: 4 -> 5\n',
    '= retention few: it is so\n',
    '~ dataset reviews: a new version after 1\n    reviews.jsonl: 1 kB -> 1 kB\n',
    '    file.run: ["echo","hello"] -> ["echo","bye"]\n',
    '    version.engine.context: 512\n    scaling.max: 2 -> 3\n',
    '    limits.requestsPerMinute: 60 -> 90\n',
  ])
    expect(plan.err).toContain(text)
  expect((await apply(changed, '-y')).code).toBe(0)
  expect(new Set(Object.values(await outcomes(changed)))).toEqual(new Set(['unchanged']))
  const [shown] = (await ropeway(['deployment', 'view', 'chat-live', '--project', 'shop', '--json'])).json
  expect(shown.versions.map(({ id }: { id: string }) => id)).toEqual(['v1', 'v2'])
})

test('a job that says something else is another job of the same name', async () => {
  writeFileSync(join(folder, 'work', 'words.txt'), 'other words')
  const [plan] = (await apply(whole, '--json', '--dry-run')).json.filter(({ kind }) => kind === 'job')
  expect(plan).toMatchObject({ does: 'create', changes: [{ field: 'workspace' }] })
  await apply(whole, '-y')
  expect((await ropeway(['job', '--project', 'shop', '--json'])).json).toHaveLength(2)
})

test('a job whose folder holds the applied file too is the same job when the file is mended', async () => {
  mkdirSync(join(folder, 'together'))
  writeFileSync(join(folder, 'together', 'job.yml'), 'run: cat words.txt\n')
  writeFileSync(join(folder, 'together', 'words.txt'), 'words')
  const all = join(folder, 'together', 'all.yml')
  const job = 'kind: job\nname: once\nfile: job.yml\n'
  const applied = async (text: string) => {
    writeFileSync(all, text)
    return (await ropeway(['apply', '-f', all, '--json', '-y'])).json.map(({ kind, outcome }) => [
      kind,
      outcome,
    ])
  }
  expect(await applied(job)).toEqual([['job', 'done']])
  expect(await applied(`# mended\n${job}---\nkind: retention\nname: some\nkeep_last: 2\n`)).toEqual([
    ['retention', 'done'],
    ['job', 'unchanged'],
  ])
  const [{ workspace }] = (await ropeway(['job', 'view', 'once', '--json'])).json
  expect(workspace).toMatch(/^ws_/)
  writeFileSync(join(folder, 'together', 'words.txt'), 'other words')
  expect(await applied(job)).toEqual([['job', 'done']])
})

test('when something in the middle is refused, what was done stays, and it is said what was not done', async () => {
  const broken = whole
    .replaceAll('shop', 'mill')
    .replaceAll('chat-live', 'mill-live')
    .replace('checkpoint: base', 'checkpoint: nowhere')
  const failed = await apply(broken, '-y')
  expect(failed.code).toBe(3)
  expect(failed.err).toMatch(/error:.* model chat: /)
  expect(failed.err).toMatch(
    /Done: project mill, quota cpu, .*checkpoint base\. Not done: template nightly, job tune/,
  )
  const mended = broken.replace('checkpoint: nowhere', 'checkpoint: base')
  const rest = await outcomes(mended, '-y')
  expect(rest).toMatchObject({ project: 'unchanged', checkpoint: 'unchanged', model: 'done', key: 'done' })
})

test.each([
  ['kind: quota\nname: cpu\ndevices: 1\nproject: nowhere\n', 3, /nowhere/],
  ["kind: key\nname: web\nproject: shop\nscopes: ['*']\n", 6, /never gets other scopes/],
  ['kind: job\nname: x\nfile: missing.yml\n', 3, /missing\.yml/],
])('a plan that cannot be carried out is refused before anything is done: %j', async (text, code, why) => {
  const refused = await apply(text, '-y')
  expect(refused).toMatchObject({ code, out: '', err: expect.stringMatching(why) })
})
