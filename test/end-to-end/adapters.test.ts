import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { hashOfFile } from '../../src/base/files.ts'
import { Random } from '../../src/base/random.ts'
import { damageIn } from '../../src/cli/engine-options.ts'
import { type AdapterLayer, adaptableProducts, writeAdapter } from '../../src/models/adapter.ts'
import { openModel } from '../../src/models/open.ts'
import { sealed } from '../../src/train/checkpoint.ts'
import { TemporaryFolder } from '../formats/folders.ts'
import { sharedData } from '../shared.ts'
import { type Served, servedModel, serveReal } from './served.ts'

const model = sharedData('models', 'stories260K', 'hf')

/** The fields that these tests look at, of whichever answer. */
interface Answer {
  model: string
  choices: { text: string }[]
  version: string
  error: { message: string }
}

describe.skipIf(model === undefined)('adapters of a running engine', () => {
  let served: Served
  const folder = new TemporaryFolder()

  beforeAll(async () => {
    for (const seed of [1, 2, 3]) writeRandomAdapter(folder.file(`v${seed}`), seed)
    writeRandomAdapter(folder.file('strange'), 4, 'model.layers.0.self_attn.x_proj')
    const adapterDamage = (path: string) => damageIn([path])
    served = await serveReal(model!, {}, { adapterRoots: [folder.path], adapterDamage })
  })
  afterAll(async () => {
    await served[Symbol.asyncDispose]()
    folder[Symbol.dispose]()
  })

  const post = async (path: string, body: unknown, method = 'POST') => {
    const response = await fetch(`${served.url}${path}`, {
      method,
      headers: { 'content-type': 'application/json' },
      ...(method === 'POST' && { body: JSON.stringify(body) }),
    })
    return { status: response.status, body: (await response.json()) as Answer }
  }
  const ask = (name: string) =>
    post('/v1/completions', { model: name, prompt: 'Once upon a time', max_tokens: 12, temperature: 0 })
  const publish = (version: string) =>
    post('/v1/adapters', { name: 'poet', path: join(folder.path, version) })
  const textOf = async (name: string) => (await ask(name)).body.choices[0]!.text

  test('a published version answers, names itself, and the one before is one call away', async () => {
    expect((await ask('poet')).status).toBe(404)
    expect((await publish('v1')).body).toMatchObject({ version: 'poet@1', previous_version: null })
    const first = await ask('poet')
    expect(first.body.model).toBe('poet@1')
    expect(first.body.choices[0]!.text).not.toBe(await textOf(servedModel))
    await publish('v2')
    const second = await ask(`${servedModel}:poet:latest`)
    expect(second.body.model).toBe('poet@2')
    expect(second.body.choices[0]!.text).not.toBe(first.body.choices[0]!.text)
    expect((await post('/v1/adapters/poet/rollback', {})).body.version).toBe('poet@1')
    expect((await ask('poet')).body).toMatchObject({ model: 'poet@1', choices: first.body.choices })
    const listed = (await (await fetch(`${served.url}/v1/models`)).json()) as { data: { id: string }[] }
    expect(listed.data.map(({ id }) => id)).toEqual([servedModel, 'poet'])
  })

  test('not one request fails while versions change under load, and each ends on one version', async () => {
    await publish('v1')
    const texts = new Map<string, Set<string>>()
    let swapping = true
    const askOnce = async () => {
      const { status, body } = await ask('poet')
      expect(status).toBe(200)
      texts.set(body.model, (texts.get(body.model) ?? new Set()).add(body.choices[0]!.text))
    }
    const client = async () => {
      for (let i = 0; swapping || i < 3; i++) await askOnce()
    }
    const clients = Array.from({ length: 6 }, client)
    for (let turn = 0; turn < 8; turn++) {
      await publish(`v${1 + (turn % 3)}`)
      // However slow the engine is beside the publishing, each version is there for an answer.
      await askOnce()
    }
    swapping = false
    await Promise.all(clients)
    expect(texts.size).toBeGreaterThan(2)
    // Greedy and the same prompt: more texts than one would be more than one version.
    for (const [version, said] of texts) expect([version, said.size]).toEqual([version, 1])
  })

  test('adapters are there again after the engine died, and requests in flight go on with theirs', async () => {
    await publish('v2')
    const before = await textOf('poet')
    const { pid } = served.engine
    const long = { model: 'poet', prompt: 'Once upon a time', max_tokens: 200, temperature: 0 }
    const whole = (await post('/v1/completions', long)).body.choices[0]!.text
    const flying = post('/v1/completions', long)
    // The gauges answer once the request is among those that run.
    while ((await served.engine.gauges()).running === 0);
    process.kill(pid!, 'SIGKILL')
    expect((await flying).body.choices[0]!.text).toBe(whole)
    expect(served.engine.pid).not.toBe(pid)
    expect(await textOf('poet')).toBe(before)
  })

  test('an adapter that is not what was saved is refused, and the version before goes on', async () => {
    await publish('v1')
    const before = await textOf('poet')
    writeRandomAdapter(folder.file('saved'), 5)
    const path = join(folder.path, 'saved', 'adapter_model.safetensors')
    const bytes = readFileSync(path)
    const files = { 'adapter_model.safetensors': { bytes: bytes.length, sha256: hashOfFile(path) } }
    const manifest = sealed({ format: 1, stepsDone: 1, recipe: {}, dataHash: '', best: undefined, files })
    writeFileSync(join(folder.path, 'saved', 'trainer.json'), manifest)
    expect((await publish('saved')).status).toBe(201)
    bytes[bytes.length - 3]! ^= 4
    writeFileSync(path, bytes)
    const refused = await publish('saved')
    expect(refused.status).toBe(409)
    expect(refused.body.error.message).toContain('adapter_model.safetensors does not have the content')
    expect((await post('/v1/adapters/poet/rollback', {})).status).toBe(200)
    expect(await textOf('poet')).toBe(before)
  })

  test('what cannot be served is refused with a reason, and paths lead nowhere else', async () => {
    const strange = await publish('strange')
    expect(strange.status).toBe(400)
    expect(strange.body.error.message).toMatch(/x_proj/)
    expect((await post('/v1/adapters', { name: 'poet', path: model })).status).toBe(403)
    expect((await post('/v1/adapters', { name: 'poet', path: `${folder.path}/../..` })).status).toBe(403)
    expect((await post('/v1/adapters', { name: servedModel, path: folder.file('v1') })).status).toBe(409)
    expect((await post('/v1/adapters/nobody/rollback', {})).status).toBe(404)
    expect((await post('/v1/adapters/poet', undefined, 'DELETE')).body).toMatchObject({ deleted: true })
    expect((await ask('poet')).status).toBe(404)
    expect((await ask(servedModel)).status).toBe(200)
    expect(served.errors).toEqual([])
  })

  test('a server without --adapter-root changes nothing over HTTP', async () => {
    const { serveEngine } = await import('./served.ts')
    await using closed = await serveEngine(served.engine, model!)
    const response = await fetch(`${closed.url}/v1/adapters`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ name: 'poet', path: folder.file('v1') }),
    })
    expect(response.status).toBe(403)
  })
})

function writeRandomAdapter(path: string, seed: number, renamed?: string): void {
  using opened = openModel(model!)
  const random = new Random(seed)
  const values = (count: number) => Float32Array.from({ length: count }, () => 0.2 * random.normal())
  const layers = new Map<string, AdapterLayer>()
  for (const [product, [outputs, inputs]] of adaptableProducts(opened.definition)) {
    const name = renamed ?? product
    const [a, b] = [values(4 * inputs), values(outputs * 4)]
    layers.set(name, { name, inputs, outputs, rank: 4, scale: 1, a, b, magnitude: undefined })
  }
  mkdirSync(path, { recursive: true })
  const settings = {
    rank: 4,
    alpha: 4,
    dropout: 0,
    targets: ['q_proj'],
    rankStabilised: false,
    dora: false,
    alphaPattern: {},
    base: undefined,
  }
  writeAdapter(path, { settings, layers }, opened.definition)
}
