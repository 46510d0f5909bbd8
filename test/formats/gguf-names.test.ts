import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { dtypes } from '../../src/base/dtype.ts'
import { dequantize } from '../../src/formats/convert.ts'
import { type GgufSource, openGguf } from '../../src/formats/gguf.ts'
import { configFromGguf } from '../../src/formats/gguf-config.ts'
import {
  ggufAdded,
  ggufArchitectures,
  ggufRowPermutation,
  ggufToHuggingFace,
  ggufTransposed,
  huggingFaceToGguf,
} from '../../src/formats/gguf-names.ts'
import type { GgufEntry, GgufScalarValue } from '../../src/formats/gguf-values.ts'
import { writeGguf } from '../../src/formats/gguf-write.ts'
import { openModelFolder } from '../../src/formats/model-folder.ts'
import type { TensorToWrite } from '../../src/formats/source.ts'
import { sharedData } from '../shared.ts'
import { bytesOfTensor, refusalOf, TemporaryFolder } from './folders.ts'

/** The encoded rows of a GGUF tensor in Hugging Face order. */
function inHuggingFaceOrder(gguf: GgufSource, name: string, config: Record<string, unknown>): Uint8Array {
  const stored = huggingFaceToGguf('llama', name)!
  const bytes = bytesOfTensor(gguf, stored)
  const rows = ggufRowPermutation('llama', name, config)
  if (rows === undefined) return bytes
  const rowBytes = bytes.length / rows.length
  const ordered = new Uint8Array(bytes.length)
  for (const [row, from] of rows.entries())
    ordered.set(bytes.subarray(from * rowBytes, (from + 1) * rowBytes), row * rowBytes)
  return ordered
}

test('the F32 GGUF file, through names and row order, equals the safetensors file bit for bit', () => {
  const folder = sharedData('models', 'stories260K', 'hf')
  const file = sharedData('models', 'stories260K', 'stories260K-f32.gguf')
  if (folder === undefined || file === undefined) return
  using original = openModelFolder(folder)
  using gguf = openGguf(file)
  const config = configFromGguf(gguf)
  expect(gguf.names().length).toBe(original.names().length)
  let permuted = 0
  for (const name of original.names()) {
    expect(gguf.info(huggingFaceToGguf('llama', name)!)?.shape).toEqual(original.info(name)!.shape)
    const ours = Buffer.from(inHuggingFaceOrder(gguf, name, config))
    expect(ours.equals(bytesOfTensor(original, name)), name).toBe(true)
    if (!ours.equals(bytesOfTensor(gguf, huggingFaceToGguf('llama', name)!))) permuted++
  }
  // Without the row order, queries and keys of every layer would differ.
  expect(permuted).toBe(2 * 5)
})

test.each([
  ['q8_0', 1 / 127],
  ['q4_0', 1 / 7],
])('the %s GGUF file, dequantised, is within its step of the safetensors file', (suffix, step) => {
  const folder = sharedData('models', 'babyllama-char-1M', 'hf')
  const file = sharedData('models', 'babyllama-char-1M', `babyllama-${suffix}.gguf`)
  if (folder === undefined || file === undefined) return
  using original = openModelFolder(folder)
  using gguf = openGguf(file)
  const config = configFromGguf(gguf)
  for (const name of original.names()) {
    const { dtype } = gguf.info(huggingFaceToGguf('llama', name)!)!
    const ours = dequantize(dtype, inHuggingFaceOrder(gguf, name, config))
    const theirs = dequantize('F32', bytesOfTensor(original, name))
    const { block } = dtypes[dtype]
    let worst = 0
    for (let start = 0; start < theirs.length; start += block) {
      let largest = 0
      let error = 0
      for (let i = start; i < start + block; i++) {
        largest = Math.max(largest, Math.abs(theirs[i]!))
        error = Math.max(error, Math.abs(theirs[i]! - ours[i]!))
      }
      if (error > 0) worst = Math.max(worst, error / largest)
    }
    expect(worst, name).toBeLessThanOrEqual(step * 1.01)
  }
})

test.each([
  ['stories260K', 'stories260K-f32'],
  ['babyllama-char-1M', 'babyllama-q8_0'],
])('the config of %s made from GGUF agrees with its config.json', (model, file) => {
  const config = sharedData('models', model, 'hf', 'config.json')
  const path = sharedData('models', model, `${file}.gguf`)
  if (config === undefined || path === undefined) return
  using gguf = openGguf(path)
  const theirs = JSON.parse(readFileSync(config, 'utf8'))
  const { torch_dtype: _type, transformers_version: _version, ...shared } = theirs
  expect(configFromGguf(gguf)).toEqual(shared)
})

test('names go to Hugging Face and back for every architecture', () => {
  const names = ['token_embd.weight', 'output_norm.weight', 'output.weight']
  // OLMo 2 has no norm in front of its products.
  const normOf = (architecture: string) =>
    architecture === 'olmo2' ? 'blk.0.post_attention_norm.weight' : 'blk.0.attn_norm.weight'
  for (const architecture of ggufArchitectures)
    for (const name of [...names, normOf(architecture), 'blk.17.ffn_up.weight', 'blk.3.attn_output.bias']) {
      const there = ggufToHuggingFace(architecture, name)
      expect(there).toBeDefined()
      expect(huggingFaceToGguf(architecture, there!)).toBe(name)
    }
})

test.each([
  ['llama', 'blk.12.attn_q.weight', 'model.layers.12.self_attn.q_proj.weight'],
  ['qwen2', 'blk.0.attn_k.bias', 'model.layers.0.self_attn.k_proj.bias'],
  ['qwen3', 'blk.0.attn_k_norm.weight', 'model.layers.0.self_attn.k_norm.weight'],
  ['llama', 'blk.0.ffn_norm.weight', 'model.layers.0.post_attention_layernorm.weight'],
  ['gemma3', 'blk.0.ffn_norm.weight', 'model.layers.0.pre_feedforward_layernorm.weight'],
  ['gemma3', 'blk.0.post_attention_norm.weight', 'model.layers.0.post_attention_layernorm.weight'],
  ['phi3', 'blk.0.attn_qkv.weight', 'model.layers.0.self_attn.qkv_proj.weight'],
  ['olmo2', 'blk.0.post_ffw_norm.weight', 'model.layers.0.post_feedforward_layernorm.weight'],
  ['olmo2', 'blk.0.attn_q_norm.weight', 'model.layers.0.self_attn.q_norm.weight'],
  ['phi3', 'blk.0.ffn_up.weight', 'model.layers.0.mlp.gate_up_proj.weight'],
  ['gpt2', 'blk.0.attn_qkv.bias', 'transformer.h.0.attn.c_attn.bias'],
  ['gpt2', 'position_embd.weight', 'transformer.wpe.weight'],
])('in %s, %s is %s', (architecture, gguf, huggingFace) => {
  expect(ggufToHuggingFace(architecture, gguf)).toBe(huggingFace)
  expect(huggingFaceToGguf(architecture, huggingFace)).toBe(gguf)
})

test('a name that is nobody in the other format has no translation', () => {
  for (const name of [
    'rope_freqs.weight',
    'blk.00.attn_q.weight',
    'blk.0.constructor.weight',
    'constructor.weight',
    'x',
  ])
    expect(ggufToHuggingFace('llama', name)).toBeUndefined()
  for (const name of [
    'model.layers.x.mlp.up_proj.weight',
    'model.layers.0.self_attn.q_norm.weight',
    'lm_head',
  ])
    expect(huggingFaceToGguf('llama', name)).toBeUndefined()
  expect(ggufToHuggingFace('mamba', 'token_embd.weight')).toBeUndefined()
})

test('only queries and keys of the llama architecture and of Granite have another row order', () => {
  const config = { hidden_size: 16, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8 }
  const order = (architecture: string, name: string) =>
    ggufRowPermutation(architecture, `model.layers.0.self_attn.${name}`, config)
  expect([...order('llama', 'k_proj.weight')!]).toEqual([0, 2, 4, 6, 1, 3, 5, 7])
  expect([...order('llama', 'q_proj.bias')!]).toEqual([0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15])
  expect(order('llama', 'v_proj.weight')).toBeUndefined()
  expect([...order('granite', 'k_proj.weight')!]).toEqual([0, 2, 4, 6, 1, 3, 5, 7])
  expect([...order('granitemoe', 'k_proj.weight')!]).toEqual([0, 2, 4, 6, 1, 3, 5, 7])
  expect(order('qwen2', 'q_proj.weight')).toBeUndefined()
  expect(order('qwen3moe', 'q_proj.weight')).toBeUndefined()
  expect(order('olmoe', 'q_proj.weight')).toBeUndefined()
  expect(order('phi3', 'qkv_proj.weight')).toBeUndefined()
  expect(ggufTransposed('gpt2', 'transformer.h.0.mlp.c_fc.weight')).toBe(true)
  expect(ggufTransposed('gpt2', 'transformer.wte.weight')).toBe(false)
  expect(ggufAdded('gemma3', 'model.norm.weight')).toBe(1)
  expect(ggufAdded('llama', 'model.norm.weight')).toBe(0)
})

describe('the config of a made-up model', () => {
  const keys: Record<string, GgufScalarValue | GgufScalarValue[]> = {
    'general.architecture': 'llama',
    'llama.embedding_length': 256,
    'llama.block_count': 2,
    'llama.feed_forward_length': 512,
    'llama.attention.head_count': 2,
    'llama.attention.head_count_kv': [1, 1],
    'llama.attention.layer_norm_rms_epsilon': 1e-6,
    'llama.context_length': 131072,
    'llama.rope.freq_base': 500000,
    'tokenizer.ggml.tokens': ['a', 'b', 'c'],
    'tokenizer.ggml.eos_token_id': 1,
  }

  function entryOf(value: GgufScalarValue | GgufScalarValue[]): GgufEntry {
    const typeOf = (one: GgufScalarValue) =>
      typeof one === 'string' ? 'string' : Number.isInteger(one) ? 'uint32' : 'float32'
    if (Array.isArray(value)) return { type: 'array', items: typeOf(value[0]!), value }
    return { type: typeOf(value), value }
  }

  function configOf(extra: typeof keys, tensors: TensorToWrite[] = []): Record<string, unknown> {
    using folder = new TemporaryFolder()
    const entries = Object.entries({ ...keys, ...extra }).map(
      ([key, value]) => [key, entryOf(value)] as const,
    )
    writeGguf(folder.file('m.gguf'), new Map(entries), tensors)
    using source = openGguf(folder.file('m.gguf'))
    return configFromGguf(source)
  }

  const floats = (name: string, values: number[]): TensorToWrite => {
    const data = new Uint8Array(Float32Array.from(values).buffer)
    return { name, dtype: 'F32', shape: [values.length], data }
  }

  test('knows heads per layer, the vocabulary of the tokenizer, a short epsilon and biases', () => {
    const config = configOf({}, [floats('blk.0.attn_q.bias', [0]), floats('output.weight', [0])])
    expect(config).toMatchObject({
      num_key_value_heads: 1,
      head_dim: 128,
      vocab_size: 3,
      rms_norm_eps: 1e-6,
      attention_bias: true,
      mlp_bias: false,
      tie_word_embeddings: false,
    })
    expect(config).not.toHaveProperty('rope_scaling')
  })

  test('counts the rows of the embedding where they are more than the tokens, and both ends of a turn', () => {
    const embedding: TensorToWrite = {
      name: 'token_embd.weight',
      dtype: 'I8',
      shape: [5, 1],
      data: new Uint8Array(5),
    }
    const config = configOf({ 'tokenizer.ggml.eot_token_id': 2 }, [embedding])
    expect(config).toMatchObject({ vocab_size: 5, eos_token_id: [1, 2], tie_word_embeddings: true })
  })

  test('carries linear and yarn scaling and refuses one that it does not know', () => {
    const scaling = { 'llama.rope.scaling.type': 'linear', 'llama.rope.scaling.factor': 4 }
    expect(configOf(scaling).rope_scaling).toEqual({ rope_type: 'linear', factor: 4 })
    const yarn = { 'llama.rope.scaling.type': 'yarn', 'llama.rope.scaling.original_context_length': 32768 }
    expect(configOf({ ...scaling, ...yarn }).rope_scaling).toEqual({
      rope_type: 'yarn',
      factor: 4,
      original_max_position_embeddings: 32768,
    })
    expect(refusalOf(() => configOf({ ...scaling, 'llama.rope.scaling.type': 'odd' }))).toContain('"odd"')
  })

  test('recognises the divisors of Llama 3 and hands on others as they are', () => {
    // Llama 3.1's rule, as transformers states it (modeling_rope_utils.py).
    const factors = Array.from({ length: 64 }, (_, i) => {
      const wavelength = 2 * Math.PI * 500000 ** (i / 64)
      if (wavelength < 8192 / 4) return 1
      if (wavelength > 8192) return 8
      const smooth = (8192 / wavelength - 1) / 3
      return 1 / ((1 - smooth) / 8 + smooth)
    })
    expect(configOf({}, [floats('rope_freqs.weight', factors)]).rope_scaling).toEqual({
      rope_type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 8192,
    })
    const twos = factors.map(() => 2)
    expect(configOf({}, [floats('rope_freqs.weight', twos)]).rope_scaling).toMatchObject({
      rope_type: 'longrope',
      short_factor: twos,
      long_factor: twos,
    })
    expect(refusalOf(() => configOf({}, [floats('rope_freqs.weight', [1])]))).toContain('rope_freqs.weight')
  })

  test('of Granite knows what multiplies embedding, residual, scores and logits', () => {
    const own = (key: string) => key.replace(/^llama\./, 'granite.')
    const granite = {
      ...Object.fromEntries(Object.entries(keys).map(([key, value]) => [own(key), value])),
      'general.architecture': 'granite',
      'granite.embedding_scale': 12,
      'granite.residual_scale': Math.fround(0.22),
      'granite.attention.scale': 0.015625,
    }
    expect(configOf({ ...granite, 'granite.logit_scale': 16 })).toMatchObject({
      model_type: 'granite',
      embedding_multiplier: 12,
      residual_multiplier: 0.22,
      attention_multiplier: 0.015625,
      logits_scaling: 16,
    })
    expect(configOf(granite)).toMatchObject({ logits_scaling: 1 })
  })

  test('of a Llama with experts is that of Mixtral, and Qwen3 says how wide its experts are', () => {
    expect(configOf({ ...keys, 'llama.expert_count': 0 })).toMatchObject({ model_type: 'llama' })
    const experts = { ...keys, 'llama.expert_count': 8, 'llama.expert_used_count': 2 }
    expect(configOf(experts)).toMatchObject({
      model_type: 'mixtral',
      ...{ num_local_experts: 8, num_experts_per_tok: 2, intermediate_size: 512 },
    })
    const own = (key: string) => key.replace(/^llama\./, 'qwen3moe.')
    const qwen = {
      ...Object.fromEntries(Object.entries(experts).map(([key, value]) => [own(key), value])),
      'general.architecture': 'qwen3moe',
    }
    expect(configOf(qwen)).toMatchObject({ model_type: 'qwen3_moe', moe_intermediate_size: 256 })
    const said = configOf({ ...qwen, 'qwen3moe.expert_feed_forward_length': 96 })
    expect(said).toMatchObject({ num_experts: 8, norm_topk_prob: true, moe_intermediate_size: 96 })
    const { 'llama.expert_used_count': _, ...none } = experts
    expect(refusalOf(() => configOf(none))).toContain('llama.expert_used_count')
  })

  test('of OLMo 3, which has the name of OLMo 2 and a window, knows which layers attend to it', () => {
    const own = (key: string) => key.replace(/^llama\./, 'olmo2.')
    const olmo = {
      ...Object.fromEntries(Object.entries(keys).map(([key, value]) => [own(key), value])),
      'general.architecture': 'olmo2',
    }
    expect(configOf(olmo)).toMatchObject({ model_type: 'olmo2' })
    const windowed = { ...olmo, 'olmo2.attention.sliding_window': 4096 }
    expect(configOf(windowed)).toMatchObject({ model_type: 'olmo3', sliding_window: 4096 })
    const listed = configOf({ ...windowed, 'olmo2.attention.sliding_window_pattern': [1, 0] })
    expect(listed.layer_types).toEqual(['sliding_attention', 'full_attention'])
  })

  test('of Phi-3 knows the part of a head that turns, both lists of divisors, and that no window is 0', () => {
    const own = (key: string) => key.replace(/^llama\./, 'phi3.')
    const phi3 = Object.fromEntries(Object.entries(keys).map(([key, value]) => [own(key), value]))
    const entries = {
      ...phi3,
      'general.architecture': 'phi3',
      'phi3.rope.dimension_count': 96,
      'phi3.rope.scaling.original_context_length': 4096,
      'phi3.rope.scaling.attn_factor': Math.fround(1.19),
      'phi3.attention.sliding_window': 0,
    }
    const factors = (value: number) => Array.from({ length: 48 }, (_, i) => value + i / 10)
    const lists = [
      floats('rope_factors_short.weight', factors(1)),
      floats('rope_factors_long.weight', factors(2)),
    ]
    const config = configOf(entries, lists)
    expect(config).toMatchObject({
      model_type: 'phi3',
      partial_rotary_factor: 0.75,
      original_max_position_embeddings: 4096,
      sliding_window: null,
      rope_scaling: { rope_type: 'longrope', attention_factor: 1.19 },
    })
    expect((config.rope_scaling as { long_factor: number[] }).long_factor.slice(0, 3)).toEqual([2, 2.1, 2.2])
    expect(configOf({ ...entries, 'phi3.attention.sliding_window': 2047 })).toMatchObject({
      sliding_window: 2047,
    })
    expect(refusalOf(() => configOf({ ...entries, 'phi3.rope.dimension_count': 64 }, lists))).toMatch(
      /rope_factors_short/,
    )
  })

  test('is refused for an unknown architecture and for a key that is missing, of another kind or uneven', () => {
    expect(refusalOf(() => configOf({ 'general.architecture': 'constructor' }))).toContain('constructor')
    expect(refusalOf(() => configOf({ 'general.architecture': 'qwen2' }))).toContain(
      'qwen2.embedding_length is missing',
    )
    expect(refusalOf(() => configOf({ 'llama.block_count': 'two' }))).toContain('llama.block_count is "two"')
    expect(refusalOf(() => configOf({ 'llama.attention.head_count_kv': [1, 2] }))).toContain('[1,2]')
  })

  test('speaks the names of GPT-2', () => {
    const gpt2 = {
      'general.architecture': 'gpt2',
      'gpt2.embedding_length': 8,
      'gpt2.feed_forward_length': 32,
      'gpt2.block_count': 1,
      'gpt2.attention.head_count': 2,
      'gpt2.context_length': 16,
      'gpt2.attention.layer_norm_epsilon': 1e-5,
    }
    expect(configOf(gpt2)).toMatchObject({
      model_type: 'gpt2',
      n_embd: 8,
      n_positions: 16,
      layer_norm_epsilon: 1e-5,
    })
  })
})
