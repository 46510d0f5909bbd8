import { expect, test } from 'vitest'
import { defineModel } from '../../src/models/registry.ts'
import { refusalOf } from '../formats/folders.ts'

const gpt2 = { model_type: 'gpt2', vocab_size: 64, n_embd: 32, n_head: 4, n_layer: 2, n_positions: 64 }
const llama = {
  ...{ model_type: 'llama', vocab_size: 64, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 64 },
}
const mixtral = { ...llama, model_type: 'mixtral', num_local_experts: 4, num_experts_per_tok: 2 }
const scaled = (type: string, own: object) => ({
  rope_scaling: { rope_type: type, factor: 4, original_max_position_embeddings: 16, ...own },
})
const longRope = { short_factor: [1, 1, 1, 1], long_factor: [1, 2, 3, 4] }

test.each([
  { field: 'layer_norm_epsilon', model: (value: number) => ({ ...gpt2, layer_norm_epsilon: value }) },
  { field: 'rms_norm_eps', model: (value: number) => ({ ...llama, rms_norm_eps: value }) },
  { field: 'rope_theta', model: (value: number) => ({ ...llama, rope_theta: value }) },
  { field: 'rope_theta', model: (value: number) => ({ ...llama, rope_parameters: { rope_theta: value } }) },
  { field: 'factor', model: (value: number) => ({ ...llama, ...scaled('linear', { factor: value }) }) },
  { field: 'factor', model: (value: number) => ({ ...llama, ...scaled('llama3', { factor: value }) }) },
  { field: 'factor', model: (value: number) => ({ ...llama, ...scaled('yarn', { factor: value }) }) },
  {
    field: 'low_freq_factor',
    model: (value: number) => ({ ...llama, ...scaled('llama3', { low_freq_factor: value }) }),
  },
  {
    field: 'high_freq_factor',
    model: (value: number) => ({ ...llama, ...scaled('llama3', { high_freq_factor: value }) }),
  },
  { field: 'beta_fast', model: (value: number) => ({ ...llama, ...scaled('yarn', { beta_fast: value }) }) },
  { field: 'beta_slow', model: (value: number) => ({ ...llama, ...scaled('yarn', { beta_slow: value }) }) },
  {
    field: 'original_max_position_embeddings',
    model: (value: number) => ({ ...llama, ...scaled('yarn', { original_max_position_embeddings: value }) }),
  },
  {
    field: 'attention_factor',
    model: (value: number) => ({ ...llama, ...scaled('longrope', { ...longRope, attention_factor: value }) }),
  },
  {
    field: 'query_pre_attn_scalar',
    model: (value: number) => ({ ...llama, model_type: 'gemma3_text', query_pre_attn_scalar: value }),
  },
  {
    field: 'swiglu_limit',
    model: (value: number) => ({ ...mixtral, model_type: 'gpt_oss', swiglu_limit: value }),
  },
  {
    field: 'logits_scaling',
    model: (value: number) => ({ ...llama, model_type: 'granite', logits_scaling: value }),
  },
])('$field of nothing, below nothing or beyond floats is refused by its name', ({ field, model }) => {
  for (const value of [0, -1, 1e-60, 1e60])
    expect(refusalOf(() => defineModel(model(value)))).toContain(`config.json: ${field} is `)
})

test('what is written down for each pair of a head and for each expert has a limit', () => {
  const wide = (head_dim: number) => defineModel({ ...llama, head_dim }).config.headWidth
  expect(wide(65536)).toBe(65536)
  expect(refusalOf(() => wide(1_000_000_000))).toBe(
    'config.json: head_dim is 1000000000; it must be at most 65536.',
  )
  expect(refusalOf(() => defineModel({ ...llama, hidden_size: 2 ** 30 }))).toMatch(/head_dim is 268435456/)
  expect(refusalOf(() => defineModel({ ...mixtral, num_local_experts: 2 ** 30 }))).toBe(
    'config.json: num_local_experts is 1073741824; it must be at most 4096.',
  )
})

test('a GPT-2 that does not scale its scores is refused, for ours does', () => {
  expect(defineModel({ ...gpt2, scale_attn_weights: true }).config.width).toBe(32)
  expect(refusalOf(() => defineModel({ ...gpt2, scale_attn_weights: false }))).toBe(
    'config.json: scale_attn_weights is false; it must be one of true.',
  )
})
