/** A network that keeps q, k and v in one product, and gate and up in another, is the one that keeps them apart. */
import { describe, expect, test } from 'vitest'
import type { DType } from '../../src/base/dtype.ts'
import { Random } from '../../src/base/random.ts'
import { adaptableProducts } from '../../src/models/adapter.ts'
import type { OpenModel } from '../../src/models/open.ts'
import type { AdapterFactors } from '../../src/models/packed-adapters.ts'
import { loadWeights } from '../../src/models/weights.ts'
import { Device } from '../../src/runtime/device.ts'
import { type Kernels, loadKernels } from '../../src/runtime/kernels.ts'
import type { AdapterLayers } from '../../src/serve/adapters.ts'
import type { SequenceWork } from '../../src/serve/executor.ts'
import { ModelExecutor } from '../../src/serve/model-executor.ts'
import { relativeError, sameBits } from '../native/tensors.ts'
import { memoryModel } from './memory-model.ts'

const device = new Device({ device: 'cpu', threads: 1 })
const sides = [
  { set: 'our kernels', kernels: loadKernels() },
  { set: 'plain ggml', kernels: undefined },
].filter(({ set, kernels }) => kernels !== undefined || set === 'plain ggml')

/** Whether ggml keeps weights in codes where only its own products of AMX read them, and no factor of DoRA is found. */
const beside = device.extraBufferTypes().some(({ name }) => name.includes('AMX'))

const made = new Map<string, OpenModel>()
function memory(modelType: string, format: DType): OpenModel {
  const key = `${modelType} ${format}`
  const own = { model_type: modelType, rms_norm_eps: 1e-5, original_max_position_embeddings: 256 }
  const model = made.get(key) ?? memoryModel({ layers: 1, formatOf: () => format, own })
  made.set(key, model)
  return model
}

type Layer = AdapterFactors & { magnitude?: Float32Array | undefined }

/** An adapter of every product of the fused network, the same factors in every call. */
function fusedAdapter(model: OpenModel, dora: boolean): Map<string, Layer> {
  const random = new Random(7)
  const values = (count: number, spread: number) =>
    Float32Array.from({ length: count }, () => spread * random.normal())
  const rank = 5
  return new Map(
    [...adaptableProducts(model.definition)].map(([name, [outputs, inputs]]) => {
      const [a, b] = [values(rank * inputs, inputs ** -0.5), values(outputs * rank, 0.3 * rank ** -0.5)]
      const magnitude = dora ? values(outputs, 0.5).map((x) => 2 + x) : undefined
      return [name, { inputs, outputs, rank, scale: 0.5, a, b, magnitude }]
    }),
  )
}

const partsOf: Record<string, readonly string[]> = {
  qkv_proj: ['q_proj', 'k_proj', 'v_proj'],
  gate_up_proj: ['gate_proj', 'up_proj'],
}

/** The same adapter for the network that keeps them apart: one A for all parts, and each its rows of B. */
function cutAdapter(layers: AdapterLayers, model: OpenModel): Map<string, Layer> {
  const products = adaptableProducts(model.definition)
  const cut = new Map<string, Layer>()
  for (const [name, layer] of layers) {
    const end = name.lastIndexOf('.') + 1
    let first = 0
    for (const part of partsOf[name.slice(end)] ?? [name.slice(end)]) {
      const own = `${name.slice(0, end)}${part}`
      const [outputs] = products.get(own)!
      const rows = (from: Float32Array, width: number) => from.slice(first * width, (first + outputs) * width)
      const magnitude = layer.magnitude && rows(layer.magnitude, 1)
      cut.set(own, { ...layer, outputs, b: rows(layer.b, layer.rank), magnitude })
      first += outputs
    }
  }
  return cut
}

/** Logits behind a prompt that is computed in two parts beside another request; only the first has an adapter. */
async function logitsOf(model: OpenModel, kernels: Kernels | undefined, adapter?: AdapterLayers) {
  using weights = loadWeights(model, device, { kernels })
  const options = { cacheTokens: 128, kernels: kernels ?? ('ggml' as const) }
  const executor = new ModelExecutor(model.definition, weights, device, options)
  const rows: Float32Array[] = []
  try {
    if (adapter !== undefined) await executor.addAdapter('it', adapter)
    for (const [start, count] of [
      [0, 17],
      [17, 1],
    ] as const) {
      const tokens = Array.from({ length: count }, (_, i) => ((start + i) * 37) % 301)
      const work = (blocks: number[]): SequenceWork => ({ blocks, start, tokens, outputs: 1 })
      const own = { ...work([3, 1]), ...(adapter !== undefined && { adapter: 'it' }) }
      const output = await executor.execute({ sequences: [own, work([0, 2])] })
      rows.push(output.logits(0).slice(), output.logits(1).slice())
    }
    return { rows, plain: weights.names().filter((name) => !name.endsWith('norm.weight')) }
  } finally {
    executor.dispose()
  }
}

describe.each(sides)('by $set', ({ kernels }) => {
  test.each(['F32', 'BF16', 'Q8_0', 'Q4_0', 'Q4_K', 'Q6_K'] as const)(
    'in %s the logits are the same bits',
    async (format) => {
      const fused = await logitsOf(memory('phi3', format), kernels)
      const apart = await logitsOf(memory('llama', format), kernels)
      if (kernels !== undefined) expect(fused.plain).toEqual([])
      for (const [i, row] of fused.rows.entries()) expect(sameBits(row, apart.rows[i]!)).toBe(true)
    },
  )

  test.each([
    { format: 'F32', dora: false },
    { format: 'F32', dora: true },
    { format: 'BF16', dora: false },
    { format: 'Q8_0', dora: false },
    { format: 'Q8_0', dora: true },
  ] as const)(
    'an adapter changes a fused product in $format as its parts (DoRA: $dora)',
    async ({ format, dora }) => {
      const [whole, parts] = [memory('phi3', format), memory('llama', format)]
      const adapter = fusedAdapter(whole, dora)
      if (dora && format === 'Q8_0' && kernels === undefined && beside) {
        await expect(logitsOf(whole, kernels, adapter)).rejects.toThrow(/our kernels or plain memory/)
        return
      }
      const plain = await logitsOf(whole, kernels)
      const fused = await logitsOf(whole, kernels, adapter)
      const apart = await logitsOf(parts, kernels, cutAdapter(adapter, parts))
      for (const [i, row] of fused.rows.entries()) {
        const adapted = i % 2 === 0
        expect(relativeError(row, apart.rows[i]!)).toBeLessThan(1e-6)
        expect(relativeError(row, plain.rows[i]!) > 1e-2).toBe(adapted)
        if (!adapted) expect(sameBits(row, plain.rows[i]!)).toBe(true)
      }
    },
  )
})
