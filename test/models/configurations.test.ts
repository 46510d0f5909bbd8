import { expect, test } from 'vitest'
import { defineModel } from '../../src/models/registry.ts'
import { refusalOf } from '../formats/folders.ts'

const gpt2 = { model_type: 'gpt2', vocab_size: 64, n_embd: 32, n_head: 4, n_layer: 2, n_positions: 64 }

test('a GPT-2 that does not scale its scores is refused, for ours does', () => {
  expect(defineModel({ ...gpt2, scale_attn_weights: true }).config.width).toBe(32)
  expect(refusalOf(() => defineModel({ ...gpt2, scale_attn_weights: false }))).toBe(
    'config.json: scale_attn_weights is false; it must be one of true.',
  )
})
