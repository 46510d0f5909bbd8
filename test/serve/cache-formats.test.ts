import { expect, test } from 'vitest'
import type { DType } from '../../src/base/dtype.ts'
import type { ModelConfig } from '../../src/models/architecture.ts'
import { defineModel } from '../../src/models/registry.ts'
import { Device } from '../../src/runtime/device.ts'
import { quickestCacheFormat } from '../../src/runtime/kernels.ts'
import { BlockCache, type CacheLayout, staggeredBytes } from '../../src/serve/cache-attention.ts'

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

test('where nobody says, keys and values are kept in what the kernels multiply as it lies', () => {
  for (const instructionSet of ['amx', 'avx512'] as const) {
    expect(quickestCacheFormat({ instructionSet, multipliesPairs: true }, 64)).toBe('BF16')
    expect(quickestCacheFormat({ instructionSet, multipliesPairs: true }, 80)).toBe('F16')
    expect(quickestCacheFormat({ instructionSet, multipliesPairs: false }, 64)).toBe('F16')
  }
  expect(quickestCacheFormat({ instructionSet: 'avx2', multipliesPairs: true }, 64)).toBe('F16')
  expect(quickestCacheFormat(undefined, 64)).toBe('F16')
})

test('heads that do not fit a format are refused with what to do', () => {
  expect(() => bytesOf(80, 'Q8_0', 'paged')).toThrow(/multiple of 32; this model's have 80/)
  expect(() => bytesOf(33, 'BF16', 'paged')).toThrow(/even width; this model's have 33/)
  expect(bytesOf(80, 'BF16', 'paged')).toBeGreaterThan(0)
})

test.each([
  [48, 64 * 2 ** 20 + 4096],
  [48, 3 * 2 ** 20],
  [64, 2 ** 24],
  [2, 2 ** 21 + 640],
])('%i tensors of %i bytes come to new pages at different blocks', (tensors, wanted) => {
  const [page, bytes] = [2 ** 21, staggeredBytes(tensors, wanted)]
  expect(bytes).toBeGreaterThanOrEqual(wanted)
  expect(bytes - wanted).toBeLessThan((page * 8) / tensors)
  const begins = Array.from({ length: tensors }, (_, i) => (i * bytes) % page).sort((a, b) => a - b)
  const apart = begins.map((at, i) => (begins[i + 1] ?? page) - at)
  expect(Math.min(...apart)).toBeGreaterThan((page / tensors) * 0.8)
})

test('tensors that fit into a page are as long as they must be', () => {
  expect(staggeredBytes(48, 2 ** 20 + 64)).toBe(2 ** 20 + 64)
})
