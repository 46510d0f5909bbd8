import { expect, test } from 'vitest'
import type { DType } from '../../src/base/dtype.ts'
import type { ModelConfig } from '../../src/models/architecture.ts'
import { defineModel } from '../../src/models/registry.ts'
import { Device } from '../../src/runtime/device.ts'
import { BlockCache, type CacheLayout } from '../../src/serve/cache-attention.ts'

const device = new Device({ device: 'cpu', threads: 1 })

/** GPT-2, whose heads may have any width: it turns nothing. */
function configOf(headWidth: number): ModelConfig {
  const sizes = { vocab_size: 32, n_embd: 2 * headWidth, n_layer: 1, n_head: 2 }
  return defineModel({ model_type: 'gpt2', ...sizes }).config
}

function bytesOf(headWidth: number, format: DType, layout: CacheLayout): number {
  using cache = new BlockCache(configOf(headWidth), device, 4, 16, format, layout)
  return cache.bytes
}

test.each(['paged', 'tensors'] as const)('a cache in q8_0 takes 17/32 of one in f16 (%s)', (layout) => {
  const half = bytesOf(64, 'F16', layout)
  expect(bytesOf(64, 'BF16', layout)).toBe(half)
  expect(bytesOf(64, 'Q8_0', layout) / half).toBeCloseTo(17 / 32, 2)
})

test('heads that do not fit a format are refused with what to do', () => {
  expect(() => bytesOf(80, 'Q8_0', 'paged')).toThrow(/multiple of 32; this model's have 80/)
  expect(() => bytesOf(33, 'BF16', 'paged')).toThrow(/even width; this model's have 33/)
  expect(bytesOf(80, 'BF16', 'paged')).toBeGreaterThan(0)
})
