/** A mixture of experts by our kernels is the one by ggml's operations, in every format that is packed. */
import { describe, expect, test } from 'vitest'
import type { DType } from '../../src/base/dtype.ts'
import type { OpenModel } from '../../src/models/open.ts'
import { loadWeights } from '../../src/models/weights.ts'
import { Device } from '../../src/runtime/device.ts'
import { type Kernels, loadKernels } from '../../src/runtime/kernels.ts'
import type { SequenceWork } from '../../src/serve/executor.ts'
import { ModelExecutor } from '../../src/serve/model-executor.ts'
import { relativeError } from '../native/tensors.ts'
import { memoryModel } from './memory-model.ts'

const device = new Device({ device: 'cpu', threads: 1 })
const kernels = loadKernels()

interface Experts {
  experts: number
  used: number
  normalised?: boolean
  feedForward?: number
}

function mixture(
  formatOf: (name: string) => DType,
  { experts, used, normalised = true, feedForward = 256 }: Experts,
): OpenModel {
  const own = {
    model_type: 'qwen3_moe',
    num_experts: experts,
    num_experts_per_tok: used,
    norm_topk_prob: normalised,
    moe_intermediate_size: feedForward,
  }
  return memoryModel({ layers: 2, formatOf, own })
}

interface Computed {
  /** Logits behind each of the prompt's tokens, and behind one more. */
  logits: Float32Array
  packed: boolean
}

async function computed(model: OpenModel, by: Kernels | undefined, quantize?: DType): Promise<Computed> {
  using weights = loadWeights(model, device, { kernels: by, quantize })
  const options = { cacheTokens: 128, cacheDtype: 'F16' as const, kernels: by ?? ('ggml' as const) }
  const executor = new ModelExecutor(model.definition, weights, device, options)
  try {
    const rows: number[] = []
    for (const [start, count] of [
      [0, 17],
      [17, 1],
    ] as const) {
      const tokens = Array.from({ length: count }, (_, i) => ((start + i) * 37) % 301)
      const work: SequenceWork = { blocks: [3, 1], start, tokens, outputs: count }
      const output = await executor.execute({ sequences: [work] })
      for (let i = 0; i < count; i++) rows.push(...output.logits(i))
    }
    const inPlain = weights.names().some((name) => name.includes('.experts.'))
    return { logits: Float32Array.from(rows), packed: !inPlain }
  } finally {
    executor.dispose()
  }
}

describe.skipIf(kernels === undefined)('by our kernels', () => {
  test.each([
    { experts: 5, used: 2 },
    { experts: 5, used: 2, normalised: false },
    { experts: 3, used: 3 },
    { experts: 4, used: 1 },
  ])(
    'logits of $used of $experts experts (shares to one: $normalised) are those of plain ggml',
    async (sizes) => {
      const model = mixture(() => 'F32', sizes)
      const [ours, plain] = [await computed(model, kernels), await computed(model, undefined)]
      expect([ours.packed, plain.packed]).toEqual([true, false])
      expect(relativeError(ours.logits, plain.logits)).toBeLessThan(1e-4)
    },
  )

  // Both round keys and values to halves, and activations to codes of their own. All experts are used, so that rounding chooses no others.
  test.each([
    ['F16', 'F16', 2e-3],
    ['BF16', 'BF16', 2e-2],
    ['Q8_0', 'Q8_0', 8e-2],
    ['Q4_0', 'Q4_0', 8e-2],
    ['Q4_K', 'Q6_K', 8e-2],
    ['Q5_K', 'Q8_0', 8e-2],
    ['MXFP4', 'MXFP4', 8e-2],
  ] as const)('gate and up in %s, down in %s', async (inside, outside, tolerance) => {
    const model = mixture((name) => (name.includes('down_proj') ? outside : inside), { experts: 3, used: 3 })
    const [ours, plain] = [await computed(model, kernels), await computed(model, undefined)]
    expect([ours.packed, plain.packed]).toEqual([true, false])
    expect(relativeError(ours.logits, plain.logits)).toBeLessThan(tolerance)
  })

  test('--quantize leaves the router as it is', async () => {
    const model = mixture(() => 'F32', { experts: 3, used: 3 })
    const [ours, plain] = [await computed(model, kernels, 'Q8_0'), await computed(model, undefined, 'Q8_0')]
    expect(ours.packed).toBe(true)
    expect(relativeError(ours.logits, plain.logits)).toBeLessThan(8e-2)
    using weights = loadWeights(model, device, { quantize: 'Q8_0' })
    expect(weights.get('model.layers.0.mlp.gate.weight').dtype).toBe('F32')
    expect(weights.get('model.layers.0.mlp.experts.gate_proj.weight').dtype).toBe('Q8_0')
  })

  test.each([
    { what: 'experts that end within a panel', gates: 'F32', feedForward: 40 },
    { what: 'gate in another format than up', gates: 'F16', feedForward: 256 },
  ] as const)('$what are left to plain ggml, router and all', async ({ gates, feedForward }) => {
    const formatOf = (name: string) => (name.includes('gate_proj') ? gates : 'F32')
    const model = mixture(formatOf, { experts: 5, used: 2, feedForward })
    const [ours, plain] = [await computed(model, kernels), await computed(model, undefined)]
    expect(ours.packed).toBe(false)
    expect(relativeError(ours.logits, plain.logits)).toBeLessThan(2e-3)
  })
})
