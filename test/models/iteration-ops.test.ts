import { expect, test, vi } from 'vitest'
import { loadWeights } from '../../src/models/weights.ts'
import { Device } from '../../src/runtime/device.ts'
import { loadKernels } from '../../src/runtime/kernels.ts'
import { OpMaker } from '../../src/runtime/op-maker.ts'
import type { SequenceWork } from '../../src/serve/executor.ts'
import { ModelExecutor } from '../../src/serve/model-executor.ts'
import { memoryModel } from './memory-model.ts'

const kernels = loadKernels()
if (kernels === undefined) console.warn('skipped: our kernels do not run on this machine')

/** What only says how memory is looked at. */
const views = new Set(['reshape', 'splitRows', 'joinRows', 'slice', 'window', 'permute', 'transposed'])

/** Which ops an iteration computes, how often each. */
async function opsOf(layers: number, sequences: readonly SequenceWork[]): Promise<Record<string, number>> {
  using device = new Device({ device: 'cpu', threads: 1 })
  const model = memoryModel({ layers, formatOf: () => 'Q8_0' })
  using weights = loadWeights(model, device, { kernels })
  const executor = new ModelExecutor(model.definition, weights, device, { cacheTokens: 128 })
  const made = vi.spyOn(OpMaker.prototype as unknown as { make: (...args: unknown[]) => unknown }, 'make')
  try {
    await executor.execute({ sequences })
    const counts: Record<string, number> = {}
    for (const [op, , , , attributes] of made.mock.calls) {
      if (views.has(String(op))) continue
      const name = op === 'custom' ? (attributes as { name: string }).name : `ggml's ${op}`
      // Products that hand codes over are products.
      const product = name.replace(/_(into|of)_codes$/, '')
      counts[product] = (counts[product] ?? 0) + 1
    }
    return counts
  } finally {
    made.mockRestore()
    executor.dispose()
  }
}

test.skipIf(kernels === undefined)(
  'a layer is six ops, whatever is in the batch: norms, positions, the cache, gates and residuals are parts of them',
  async () => {
    const sequences = [
      { blocks: [0, 1], start: 0, tokens: [5, 6, 7, 8, 9], outputs: 1 },
      { blocks: [2, 3], start: 16, tokens: [3], outputs: 1 },
      { blocks: [4], start: 2, tokens: [11], outputs: 1 },
    ]
    const [two, three] = [await opsOf(2, sequences), await opsOf(3, sequences)]
    const layer = { linear_q8: 4, store_keys_values: 1, paged_attention: 1 }
    for (const [name, count] of Object.entries(layer)) expect(three[name]! - two[name]!, name).toBe(count)
    // Before the layers, in the last of them and behind: angles, looked-up rows, the rows that are read, the head, the best.
    const around = { rope_table: 1, embed: 1, "ggml's rows": 2, argmax: 1 }
    expect(three).toEqual({ ...around, linear_q8: 13, store_keys_values: 3, paged_attention: 3 })
  },
)
