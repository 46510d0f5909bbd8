import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import type { DType } from '../../src/base/dtype.ts'
import { Random } from '../../src/base/random.ts'
import { type AdapterLayer, adaptableProducts } from '../../src/models/adapter.ts'
import { type OpenModel, openModel } from '../../src/models/open.ts'
import type { Definition } from '../../src/models/registry.ts'
import { loadWeights } from '../../src/models/weights.ts'
import { Device } from '../../src/runtime/device.ts'
import { type Kernels, loadKernels } from '../../src/runtime/kernels.ts'
import { adapterSlots } from '../../src/serve/adapters.ts'
import type { SequenceWork } from '../../src/serve/executor.ts'
import { ModelExecutor } from '../../src/serve/model-executor.ts'
import { relativeError } from '../native/tensors.ts'
import { sharedData } from '../shared.ts'
import { countedModel, ownGoldens, readGolden } from '../train/golden.ts'
import { temporaryFolder } from '../train/temporary-folder.ts'
import { companyOf, difference, requestsFor, serveAlone, serveCompany } from './company.ts'

const ours = loadKernels()
if (ours === undefined) console.warn('skipped: our kernels do not run on this machine')

type Layers = ReadonlyMap<string, AdapterLayer>

/** An adapter of some of the products, strong enough to change what the model says. */
function randomAdapter(definition: Definition, rank: number, seed: number, only = /./, dora = false): Layers {
  const random = new Random(seed)
  const values = (count: number, spread: number) =>
    Float32Array.from({ length: count }, () => spread * random.normal())
  const layers = new Map<string, AdapterLayer>()
  for (const [name, [outputs, inputs]] of adaptableProducts(definition)) {
    if (!only.test(name)) continue
    const [a, b] = [values(rank * inputs, inputs ** -0.5), values(outputs * rank, 0.3 * rank ** -0.5)]
    const magnitude = dora ? values(outputs, 0.5).map((x) => 2 + x) : undefined
    layers.set(name, { name, inputs, outputs, rank, scale: 0.5, a, b, magnitude })
  }
  return layers
}

/** The model with the adapter added to its weights, which are F32. */
function merged(model: OpenModel, layers: Layers): OpenModel {
  return {
    ...model,
    read: (name, into, offset = 0) => {
      const info = model.info(name)!
      const values = new Float32Array(info.bytes / 4)
      model.read(name, new Uint8Array(values.buffer))
      const layer = layers.get(name.replace(/\.weight$/, ''))
      if (layer !== undefined) {
        const { inputs, outputs, rank, scale, a, b, magnitude } = layer
        for (let o = 0; o < outputs; o++) {
          const row = values.subarray(o * inputs, (o + 1) * inputs)
          for (let k = 0; k < inputs; k++) {
            let sum = 0
            for (let r = 0; r < rank; r++) sum += b[o * rank + r]! * a[r * inputs + k]!
            row[k]! += scale * sum
          }
          if (magnitude === undefined) continue
          const length = Math.sqrt(row.reduce((sum, x) => sum + x * x, 0))
          for (let k = 0; k < inputs; k++) row[k]! *= magnitude[o]! / length
        }
      }
      into.set(new Uint8Array(values.buffer, offset, into.length))
    },
  }
}

function open(model: OpenModel, quantize: DType, kernels: Kernels | undefined, threads = 1) {
  const device = new Device({ device: 'cpu', threads })
  const weights = loadWeights(model, device, { quantize, kernels })
  const options = { cacheTokens: 1024, kernels: kernels ?? ('ggml' as const) }
  const executor = new ModelExecutor(model.definition, weights, device, options)
  return {
    executor,
    [Symbol.dispose]: () => {
      executor.dispose()
      weights[Symbol.dispose]()
      device.dispose()
    },
  }
}

async function logitsOf(executor: ModelExecutor, sequences: SequenceWork[]): Promise<Float32Array[]> {
  const output = await executor.execute({ sequences })
  return sequences.map((_, i) => output.logits(i).slice())
}

const folder = sharedData('models', 'stories260K', 'hf')
const sides = [
  { set: 'our kernels', kernels: ours },
  { set: 'plain ggml', kernels: undefined },
].filter(({ set, kernels }) => kernels !== undefined || set === 'plain ggml')

/** Experts in its second layer, one feed-forward in its first. */
const mixture = countedModel(
  join(temporaryFolder('adapters', afterAll), 'mixture'),
  readGolden(join(ownGoldens, 'qwen3_moe.json')).config!,
)

test.each(sides)(
  'beside experts, attention gets the logits of the adapter merged in: $set',
  async ({ kernels }) => {
    using model = openModel(mixture)
    const adapter = randomAdapter(model.definition, 4, 7)
    expect([...adapter.keys()].filter((name) => name.includes('layers.1'))).toEqual(
      ['q', 'k', 'v', 'o'].map((part) => `model.layers.1.self_attn.${part}_proj`),
    )
    using base = open(model, 'F32', kernels)
    await base.executor.addAdapter('own', adapter)
    using whole = open(merged(model, adapter), 'F32', kernels)
    const sequences = [
      [1, 40, 7, 21],
      [9, 10, 3],
      [11, 4],
    ].map((tokens, i): SequenceWork => ({ blocks: [i], start: 0, tokens, outputs: 1 }))
    const [first, second, third] = sequences as [SequenceWork, SequenceWork, SequenceWork]
    const own = (work: SequenceWork): SequenceWork => ({ ...work, adapter: 'own' })
    const together = await logitsOf(base.executor, [own(first), second, own(third)])
    const plain = await logitsOf(base.executor, sequences)
    const expected = await logitsOf(whole.executor, sequences)
    for (const i of [0, 2]) {
      expect(relativeError(together[i]!, expected[i]!)).toBeLessThan(2e-5)
      expect(relativeError(plain[i]!, expected[i]!)).toBeGreaterThan(1e-2)
    }
    expect(together[1]).toEqual(plain[1])
  },
)

describe.skipIf(folder === undefined).each(sides)('on $set', ({ kernels }) => {
  test('each request gets the logits of the model with its own adapter merged in', async () => {
    using model = openModel(folder!)
    const { definition } = model
    const adapters = {
      all: randomAdapter(definition, 5, 1),
      some: randomAdapter(definition, 16, 2, /q_proj|down_proj/),
      dora: randomAdapter(definition, 4, 3, /./, true),
    }
    using base = open(model, 'F32', kernels)
    for (const [id, layers] of Object.entries(adapters)) await base.executor.addAdapter(id, layers)
    // Chosen: the cache rounds to halves, and where one falls to the other side by one of the two ways, it shows. So it does in a
    // third of any prompts of three tokens.
    const prompts = [
      [1, 403, 407, 261],
      [1, 410, 300],
      [1, 403],
      [1, 421, 333, 290],
      [1, 403],
    ]
    const asked = ['all', undefined, 'some', 'all', 'dora']
    const sequences = prompts.map(
      (tokens, i): SequenceWork => ({
        blocks: [i],
        start: 0,
        tokens,
        outputs: 1,
        ...(asked[i] !== undefined && { adapter: asked[i] }),
      }),
    )
    const together = await logitsOf(base.executor, sequences)
    const plain = await logitsOf(
      base.executor,
      sequences.map(({ adapter: _, ...rest }) => rest),
    )
    for (const [id, layers] of Object.entries(adapters)) {
      using whole = open(merged(model, layers), 'F32', kernels)
      const expected = await logitsOf(
        whole.executor,
        sequences.map(({ adapter: _, ...rest }) => rest),
      )
      for (const [i, name] of asked.entries()) {
        if (name !== id) continue
        expect(relativeError(together[i]!, expected[i]!)).toBeLessThan(2e-5)
        expect(relativeError(plain[i]!, expected[i]!)).toBeGreaterThan(1e-2)
      }
    }
    expect(together[1]).toEqual(plain[1])
  })

  test.each(['F32', 'Q8_0'] as const)(
    'a request gets the same bits in a company of several adapters as alone, in %s',
    async (format) => {
      using model = openModel(folder!)
      using one = open(model, format, kernels)
      const { executor } = one
      await executor.addAdapter('a@1', randomAdapter(model.definition, 8, 3))
      await executor.addAdapter('b@1', randomAdapter(model.definition, 20, 4, /v_proj|up_proj|o_proj/))
      const ids = ['a@1', undefined, 'b@1']
      const requests = requestsFor(executor.shape, 5, 8).map((request, i) => {
        const adapter = ids[i % 3]
        return adapter === undefined ? request : { ...request, adapter }
      })
      const { heard, totals } = await serveCompany(executor, companyOf(11, executor.shape, requests))
      expect(totals.generatedTokens).toBeGreaterThan(50)
      for (const wish of requests) {
        const alone = await serveAlone(executor, wish)
        expect(difference(alone, heard.get(wish.id)!), wish.id).toBeUndefined()
      }
    },
  )

  test.skipIf(kernels === undefined)(
    'factors are kept as exactly as what they change: a byte beside codes, two beside halves, four beside F32',
    async () => {
      using model = openModel(folder!)
      const layers = randomAdapter(model.definition, 64, 1)
      const bytes: number[] = []
      for (const format of ['F32', 'BF16', 'F16', 'Q8_0'] as const) {
        using one = open(model, format, kernels)
        await one.executor.addAdapter('a@1', layers)
        bytes.push(one.executor.adapters.bytes)
      }
      const [whole, ...others] = bytes as [number, number, number, number]
      const [bf16, f16, codes] = others.map((count) => whole - count) as [number, number, number]
      // One product of this model stays F32 in all. Halves save two bytes a factor, codes three but what scales take,
      // which with 64 inputs is more than in a real model.
      expect(bf16).toBeGreaterThan(0.25 * whole)
      expect(f16).toBe(bf16)
      expect(codes / bf16).toBeGreaterThan(1.25)
      expect(codes / bf16).toBeLessThan(1.5)
    },
  )

  test('a slot that an adapter left serves the next one, and slots are not more than there are', async () => {
    using model = openModel(folder!)
    using one = open(model, 'F32', kernels)
    const { executor } = one
    const layers = [1, 2].map((seed) => randomAdapter(model.definition, 4, seed, /layers\.0\.mlp/))
    const work = (adapter: string) => [
      { blocks: [0], start: 0, tokens: [1, 403, 407], outputs: 1, adapter },
      { blocks: [1], start: 0, tokens: [1, 403, 407], outputs: 1 },
    ]
    await executor.addAdapter('kept', layers[1]!)
    await executor.addAdapter('first', layers[0]!)
    const [before] = await logitsOf(executor, work('first'))
    executor.removeAdapter('first')
    expect(executor.hasAdapter('first')).toBe(false)
    await executor.addAdapter('second', layers[1]!)
    const [after] = await logitsOf(executor, work('second'))
    expect(after).not.toEqual(before)
    expect(after).toEqual((await logitsOf(executor, work('kept')))[0])
    const more = Array.from({ length: adapterSlots - 2 }, (_, i) =>
      executor.addAdapter(`more ${i}`, layers[0]!),
    )
    await Promise.all(more)
    await expect(executor.addAdapter('one too many', layers[0]!)).rejects.toThrow(/slots/)
  })
})
