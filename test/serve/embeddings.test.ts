/** Embeddings by the engine, held to what transformers computes and to what company may do to them. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { loadTextModel } from '../../src/cli/text-model.ts'
import { openModel } from '../../src/models/open.ts'
import { loadWeights } from '../../src/models/weights.ts'
import { Device } from '../../src/runtime/device.ts'
import { loadKernels } from '../../src/runtime/kernels.ts'
import { Engine } from '../../src/serve/engine.ts'
import { ModelExecutor } from '../../src/serve/model-executor.ts'
import type { Pooling, RequestProgress } from '../../src/serve/request.ts'
import { sharedData } from '../shared.ts'
import { FakeDevice } from './fake-device.ts'
import { request } from './requests.ts'

interface Golden {
  tokens: number[]
  mean: number[]
  last: number[]
}
const goldens = JSON.parse(
  readFileSync(join(import.meta.dirname, 'goldens', 'embeddings.json'), 'utf8'),
) as Golden[]
const folder = sharedData('models', 'stories260K', 'hf')
const kernelSets = [undefined, loadKernels()].filter((set, i) => i === 0 || set !== undefined)

test
  .skipIf(folder === undefined)
  .each(kernelSets.map((kernels) => ({ kernels, set: kernels?.instructionSet ?? 'none' })))(
  "a text's embedding is that of transformers, by mean and by last token (kernels: $set)",
  async ({ kernels }) => {
    const device = new Device({ device: 'cpu', threads: 1 })
    using model = openModel(folder!)
    using weights = loadWeights(model, device, { quantize: 'F32', kernels })
    const executor = new ModelExecutor(model.definition, weights, device, {
      ...{ cacheTokens: 256, cacheDtype: 'F32', kernels: kernels ?? 'ggml' },
    })
    const heard = new Map<string, RequestProgress>()
    const hear = (items: readonly RequestProgress[]) => {
      for (const item of items) heard.set(item.id, item)
    }
    const engine = new Engine(executor, { stepTokensMax: 16, runningMax: 4 }, new ManualClock(), hear)
    const poolings: Pooling[] = ['mean', 'last']
    for (const [i, { tokens }] of goldens.entries())
      for (const pooling of poolings)
        expect(
          engine.submit(request({ id: `${pooling} ${i}`, prompt: tokens, maxTokens: 1, pooling })),
        ).toMatchObject({ ok: true })
    // An answer beside them goes on as ever.
    engine.submit(request({ id: 'answer', prompt: goldens[1]!.tokens, maxTokens: 3 }))
    while (await engine.step());
    for (const [i, golden] of goldens.entries())
      for (const pooling of poolings) {
        const { embedding, finish } = heard.get(`${pooling} ${i}`)!
        expect(finish).toMatchObject({ reason: 'stop', generatedTokens: 0 })
        const apart = golden[pooling].map((value, at) => Math.abs(value - embedding![at]!))
        expect(Math.max(...apart)).toBeLessThan(1e-5)
        expect(embedding).toHaveLength(golden[pooling].length)
      }
    expect(heard.get('answer')!.finish).toMatchObject({ reason: 'length', generatedTokens: 3 })
    executor.dispose()
    device.dispose()
  },
)

test('a text as long as the context has an embedding, a longer one is refused', async () => {
  const clock = new ManualClock()
  const shape = { vocabularySize: 32, contextMax: 32, blockTokens: 4, blockCount: 8 }
  const heard: RequestProgress[] = []
  const engine = new Engine(
    new FakeDevice(shape, clock),
    { stepTokensMax: 16, runningMax: 4 },
    clock,
    (items) => heard.push(...items),
  )
  const text = (length: number) => Array.from({ length }, (_, i) => i % 32)
  const ask = (length: number) =>
    engine.submit(request({ id: `of ${length}`, prompt: text(length), maxTokens: 1, pooling: 'mean' }))
  expect(ask(33)).toEqual({ ok: false, code: 'context_too_long' })
  expect(ask(32)).toMatchObject({ ok: true })
  while (await engine.step());
  expect(heard).toMatchObject([{ id: 'of 32', tokens: [], finish: { reason: 'stop', promptTokens: 32 } }])
  expect(heard[0]!.embedding).toHaveLength(32)
})

test.skipIf(folder === undefined)(
  'a checkpoint of a network without its head opens, and says how it is pooled',
  () => {
    const scratch = mkdtempSync(join(tmpdir(), 'ropeway-embeddings-'))
    try {
      cpSync(folder!, scratch, { recursive: true })
      // As Sentence Transformers save it: names without what stands in front of the network.
      const bytes = readFileSync(join(folder!, 'model.safetensors'))
      const length = Number(bytes.readBigUInt64LE())
      const header = bytes
        .subarray(8, 8 + length)
        .toString('utf8')
        .replaceAll('"model.', '"')
      const begin = Buffer.alloc(8)
      begin.writeBigUInt64LE(BigInt(Buffer.byteLength(header)))
      const bare = Buffer.concat([begin, Buffer.from(header), bytes.subarray(8 + length)])
      writeFileSync(join(scratch, 'model.safetensors'), bare)
      mkdirSync(join(scratch, '1_Pooling'))
      writeFileSync(join(scratch, '1_Pooling', 'config.json'), '{"pooling_mode_lasttoken": true}')
      using whole = openModel(folder!)
      using opened = openModel(scratch)
      for (const name of [
        'model.embed_tokens.weight',
        'model.layers.0.mlp.up_proj.weight',
        'model.norm.weight',
      ])
        expect(opened.info(name)).toMatchObject({ shape: whole.info(name)!.shape })
      expect([loadTextModel(folder!).pooling, loadTextModel(scratch).pooling]).toEqual([undefined, 'last'])
    } finally {
      rmSync(scratch, { recursive: true, force: true, maxRetries: 9 })
    }
  },
)
