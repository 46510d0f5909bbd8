import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { openGguf } from '../../src/formats/gguf.ts'
import { openSafetensors } from '../../src/formats/safetensors.ts'
import { writeSafetensors } from '../../src/formats/safetensors-write.ts'
import { openModel } from '../../src/models/open.ts'
import { defineModel } from '../../src/models/registry.ts'
import { readWithModel } from '../../src/train/export/compare.ts'
import { bothSpellings } from '../../src/train/export/folder.ts'
import { writeGgufFile } from '../../src/train/export/gguf.ts'
import { openExportSource } from '../../src/train/export/source.ts'
import { refusalOf } from '../formats/folders.ts'
import { countedModel, device } from '../train/golden.ts'
import { temporaryFolder } from '../train/temporary-folder.ts'

const root = temporaryFolder('gemma3', afterAll)

/** As the published ones in everything but size: six layers with a window, of which this has 8, then one without. */
const small = {
  model_type: 'gemma3_text',
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 7,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 12,
  query_pre_attn_scalar: 12,
  sliding_window: 8,
  rope_theta: 1_000_000,
  rope_local_base_freq: 10_000,
  rope_scaling: { factor: 8, rope_type: 'linear' },
}
const folder = countedModel(join(root, 'small'), small)
const tokens = Int32Array.from({ length: 24 }, (_, i) => (i * 29 + 3) % 64)
const logitsOf = (path: string) => readWithModel(path, tokens, device).logits

function changed(changes: Record<string, unknown>): string {
  return refusalOf(() => defineModel({ ...small, ...changes }))
}

test('a GGUF file holds the norms plus one, and gives the same logits bit for bit', () => {
  const path = join(root, 'small.gguf')
  using source = openExportSource(folder)
  writeGgufFile(path, source, 'F32', 'small', new Map())
  using file = openGguf(path)
  expect(file.metadata.get('gemma3.attention.sliding_window')).toBe(8)
  expect(file.metadata.get('gemma3.rope.freq_base')).toBe(1_000_000)
  const bytes = new Uint8Array(file.info('blk.3.post_ffw_norm.weight')!.bytes)
  file.read('blk.3.post_ffw_norm.weight', bytes)
  for (const value of new Float32Array(bytes.buffer)) expect(Math.abs(value - 1)).toBeLessThan(0.11)
  using read = openModel(path)
  expect(read.definition.config.attention).toEqual(source.model.definition.config.attention)
  expect(logitsOf(path)).toEqual(logitsOf(folder))
})

test('layers that attend otherwise than the published ones have no form in GGUF', () => {
  for (const changes of [
    { sliding_window_pattern: 3 },
    { rope_local_base_freq: 500 },
    { query_pre_attn_scalar: 20 },
  ]) {
    const other = countedModel(join(root, Object.keys(changes)[0]!), { ...small, ...changes })
    using source = openExportSource(other)
    const path = join(root, 'other.gguf')
    expect(refusalOf(() => writeGgufFile(path, source, 'F32', 'other', new Map()))).toContain('Gemma 3')
  }
})

test.each([['language_model.model.'], ['model.language_model.']])(
  'the text part of a model that sees, its tensors under %s, is the text model',
  (front) => {
    const seeing = join(root, front)
    const { model_type: _, ...text } = small
    const config = { model_type: 'gemma3', text_config: text, vision_config: {}, eos_token_id: [1, 106] }
    mkdirSync(seeing)
    writeFileSync(join(seeing, 'config.json'), JSON.stringify(config))
    using file = openSafetensors(join(folder, 'model.safetensors'))
    const tensors = file.names().map((name) => {
      const { dtype, shape, bytes } = file.info(name)!
      const data = new Uint8Array(bytes)
      file.read(name, data)
      return { name: name.replace(/^model\./, front), dtype, shape, data }
    })
    writeSafetensors(join(seeing, 'model.safetensors'), tensors)
    expect(logitsOf(seeing)).toEqual(logitsOf(folder))
    using model = openModel(seeing)
    expect(model.definition.config.source).toMatchObject({
      model_type: 'gemma3_text',
      eos_token_id: [1, 106],
    })
  },
)

test('what published files leave out is what transformers takes', () => {
  const sizes = { hidden_size: 2560, intermediate_size: 10240, num_hidden_layers: 34, sliding_window: 1024 }
  const rope_scaling = { factor: 8.0, rope_type: 'linear' }
  const text = { model_type: 'gemma3_text', ...sizes, rope_scaling }
  const { config } = defineModel({ model_type: 'gemma3', text_config: text })
  expect(config).toMatchObject({ vocabularySize: 262208, heads: 8, keyValueHeads: 4, headWidth: 256 })
  expect(config.attention.map(({ window }) => window).slice(3, 7)).toEqual([1024, 1024, undefined, 1024])
  expect(config.attention[5]).toMatchObject({
    scale: 1 / 16,
    rope: { attributes: { base: 1e6, scale: 1 / 8 } },
  })
  expect(config.attention[0]).toMatchObject({ rope: { attributes: { base: 1e4, scale: 1 } } })
})

test('both spellings of rotary positions mean the same', () => {
  const both = bothSpellings(small, 'float32')
  const { rope_parameters, ...older } = both
  const { rope_theta: _, rope_scaling: __, rope_local_base_freq: ___, ...newer } = both
  const attention = defineModel(small).config.attention
  for (const config of [both, older, newer]) expect(defineModel(config).config.attention).toEqual(attention)
  expect(rope_parameters).toHaveProperty('full_attention.factor', 8)
})

test('what this network does not compute is refused, and the field is named', () => {
  expect(changed({ final_logit_softcapping: 30 })).toContain('final_logit_softcapping')
  expect(changed({ attn_logit_softcapping: 50 })).toContain('attn_logit_softcapping')
  expect(changed({ use_bidirectional_attention: true })).toContain('use_bidirectional_attention')
  expect(changed({ hidden_activation: 'silu' })).toContain('hidden_activation')
  expect(changed({ layer_types: ['full_attention'] })).toContain('layer_types')
})
