/** The Hugging Face hub as a place: against a small server that speaks its documented API. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { createCredential } from '../../src/api/control/credentials.ts'
import { linkDataset, previewDataset } from '../../src/api/control/datasets.ts'
import { checkpointContent, linkCheckpoint, viewModel } from '../../src/api/control/models.ts'
import { HubStore, hubPlaceOf } from '../../src/control/objects/hub.ts'
import { ropeway, type Workbench, workbench } from '../cli/command-line.ts'
import { bytesOf, hash, read } from './bytes.ts'
import { commit, startHub, type TestHub } from './hub-server.ts'

let hub: TestHub
beforeAll(async () => {
  hub = await startHub()
})
afterAll(() => hub[Symbol.asyncDispose]())
beforeEach(() => void hub.storage.splice(0))

const weights = bytesOf(1, 300_000)
const small = (path: string, text: string) => ({ path, content: Buffer.from(text) })
const large = (path: string, content = weights) => ({ path, content, large: true })

function open(url: string, token?: string): HubStore {
  return new HubStore(hubPlaceOf(url), { endpoint: hub.endpoint, token, sleep: async () => undefined })
}

const keysOf = async (store: HubStore) => (await store.list()).objects.map(({ key }) => key)

test('of a model the safetensors are listed with what loads them, page after page, and nothing else', async () => {
  hub.repositories.set('models/org/many', [
    ...[small('.gitattributes', 'x'), small('README.md', '# it'), small('config.json', '{}')],
    ...[large('model-00001-of-00002.safetensors'), large('model-00002-of-00002.safetensors')],
    ...[
      small('model.safetensors.index.json', '{}'),
      small('merges.txt', 'a b'),
      small('tokenizer.json', '{}'),
    ],
    ...[large('pytorch_model.bin'), large('onnx/model.onnx'), large('original/consolidated.00.pth')],
    ...[large('model.Q8_0.gguf'), large('consolidated.safetensors'), small('chat_template.jinja', 'x')],
  ])
  expect(await keysOf(open('hf://org/many'))).toEqual([
    ...['chat_template.jinja', 'config.json', 'merges.txt', 'model-00001-of-00002.safetensors'],
    ...['model-00002-of-00002.safetensors', 'model.safetensors.index.json', 'tokenizer.json'],
  ])
  expect(await keysOf(open('hf://org/many@main/original'))).toEqual(['original/consolidated.00.pth'])
  const paged = await open('hf://org/many').list({
    prefix: 'model',
    after: 'model-00001-of-00002.safetensors',
    limit: 1,
  })
  expect([paged.objects.map(({ key }) => key), paged.more]).toEqual([
    ['model-00002-of-00002.safetensors'],
    true,
  ])
})

test('of several GGUF files one must be named', async () => {
  hub.repositories.set('models/org/quants', [large('m.Q4_0.gguf'), large('m.Q8_0.gguf')])
  await expect(open('hf://org/quants').list()).rejects.toMatchObject({
    message: expect.stringContaining('2 GGUF files: m.Q4_0.gguf, m.Q8_0.gguf'),
    fix: 'Name one: hf://org/quants@main/m.Q4_0.gguf',
  })
  expect(await keysOf(open('hf://org/quants/m.Q8_0.gguf'))).toEqual(['m.Q8_0.gguf'])
})

test('files are read whole and by ranges, from where the hub sends us, which never sees the token', async () => {
  hub.repositories.set('models/org/private', [small('config.json', '{"a":1}'), large('model.safetensors')])
  const store = open('hf://org/private', hub.token)
  expect(await store.pinnedUrl()).toBe(`hf://org/private@${commit}`)
  expect((await read((await store.get('config.json'))!)).toString()).toBe('{"a":1}')
  expect(hash(await read((await store.get('model.safetensors'))!))).toBe(hash(weights))
  expect(await read((await store.get('model.safetensors', { start: 5, end: 9 }))!)).toEqual(
    weights.subarray(5, 9),
  )
  expect(hub.storage.map(({ range, authorization }) => [range, authorization])).toEqual([
    [undefined, undefined],
    ['bytes=5-8', undefined],
  ])
  expect(await store.head('model.safetensors')).toMatchObject({ bytes: weights.length, tag: hash(weights) })
  expect(await store.get('not-there.json')).toBeUndefined()
  await expect(open('hf://org/private').list()).rejects.toMatchObject({ failure: 'auth', fix: /token/ })
  await expect(open('hf://org/nothing').list()).rejects.toMatchObject({ failure: 'not_found' })
  await expect(open('hf://org/private@v9', hub.token).list()).rejects.toMatchObject({ failure: 'not_found' })
})

test('a connection that breaks is taken up where it broke, and a busy hub is asked again', async () => {
  hub.repositories.set('models/org/one', [large('model.safetensors')])
  hub.refusals.push(429, 503)
  const store = open('hf://org/one')
  await store.list()
  hub.cutAfter = 100_000
  expect(hash(await read((await store.get('model.safetensors'))!))).toBe(hash(weights))
  expect(hub.storage.map(({ range }) => range)).toEqual([undefined, `bytes=100000-${weights.length - 1}`])
})

test('what arrives otherwise than the hub says is refused', async () => {
  const content = Buffer.from('{"a":1}')
  hub.repositories.set('models/org/liar', [{ path: 'config.json', content }])
  const store = open('hf://org/liar')
  const body = await store.get('config.json')
  content[2] = 'b'.charCodeAt(0)
  await expect(read(body!)).rejects.toThrow(/arrived damaged/)
})

test('what is no address of the hub says what one looks like', () => {
  for (const text of ['hf://', 'hf://org', 'hf://../name', 'hf://org/..', 'hf:org/name', 'hf://o r/g'])
    expect(() => hubPlaceOf(text), text).toThrow(/names nothing on the hub/)
  expect(hubPlaceOf('hf://datasets/org/name@refs%2Fpr%2F1/data/x.jsonl')).toEqual({
    ...{ kind: 'datasets', repository: 'org/name', revision: 'refs/pr/1', path: 'data/x.jsonl' },
  })
})

const inDefault = { params: { project: 'default' } }

async function withService(work: (bench: Workbench) => Promise<void>): Promise<void> {
  const before = process.env.HF_ENDPOINT
  process.env.HF_ENDPOINT = hub.endpoint
  try {
    await using bench = await workbench()
    await work(bench)
  } finally {
    if (before === undefined) delete process.env.HF_ENDPOINT
    else process.env.HF_ENDPOINT = before
  }
}

test('the service links models and datasets of the hub, by a credential, at the commit of the moment', async () => {
  hub.repositories.set('models/org/private-model', [small('config.json', '{}'), large('model.safetensors')])
  hub.repositories.set('datasets/org/poems', [
    small('README.md', '#'),
    small('data/train.jsonl', '{"text":"o"}\n'),
  ])
  await withService(async ({ service: { owner } }) => {
    const link = { url: 'hf://org/private-model', credential: 'hub' }
    const body = { name: 'base', link }
    const values = { kind: 'huggingface', token: hub.token } as const
    await owner.call(createCredential, { ...inDefault, body: { name: 'hub', values } })
    const made = await owner.call(linkCheckpoint, { ...inDefault, body })
    expect(made).toMatchObject({ format: 'safetensors', files: 2, bytes: weights.length + 2 })
    expect(made.source).toMatchObject({ link: { url: `hf://org/private-model@${commit}` } })
    const answer = await owner.bytes(checkpointContent, {
      params: { project: 'default', checkpoint: 'base' },
      query: { path: 'model.safetensors' },
    })
    expect(hash(Buffer.from(await answer.arrayBuffer()))).toBe(hash(weights))
    const params = { project: 'default', dataset: 'poems' }
    await owner.call(linkDataset, { params, body: { link: { url: 'hf://datasets/org/poems/data' } } })
    const preview = await owner.call(previewDataset, { params })
    expect(JSON.stringify(preview)).toContain('"text":"o"')
  })
})

test('a model is pulled on the command line, goes on where it stopped, and becomes a version', async () => {
  hub.repositories.set('models/org/Tiny-Model', [small('config.json', '{}'), large('model.safetensors')])
  await withService(async ({ service: { owner } }) => {
    // What an earlier pull left when it was killed.
    const folder = join(process.env.ROPEWAY_HOME!, 'cache', 'hub', 'org', 'Tiny-Model', commit)
    mkdirSync(folder, { recursive: true })
    writeFileSync(join(folder, 'model.safetensors.partial'), weights.subarray(0, 1000))
    const pulled = await ropeway(['model', 'pull', 'hf://org/Tiny-Model', '--as', 'prod', '--json'])
    expect(pulled, pulled.err).toMatchObject({ code: 0 })
    expect(hub.storage.map(({ range }) => range)).toEqual([`bytes=1000-${weights.length - 1}`])
    const params = { project: 'default', model: 'tiny-model:prod' }
    const model = await owner.call(viewModel, { params })
    expect(model.checkpoint).toMatchObject({ format: 'safetensors', files: 2 })
    expect(model.version.message).toBe(`from hf://org/Tiny-Model@${commit}`)
    expect(existsSync(folder)).toBe(false)
    // Damage from before is found when the whole is hashed, and not kept.
    mkdirSync(folder, { recursive: true })
    writeFileSync(join(folder, 'model.safetensors.partial'), bytesOf(9, 1000))
    const damaged = await ropeway(['model', 'pull', 'hf://org/Tiny-Model', 'other'])
    expect(damaged).toMatchObject({ code: 1, err: expect.stringContaining('arrived damaged') })
    expect(existsSync(join(folder, 'model.safetensors.partial'))).toBe(false)
    expect(readFileSync(join(folder, 'config.json'), 'utf8')).toBe('{}')
  })
})
