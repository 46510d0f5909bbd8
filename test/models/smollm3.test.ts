import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { openModel } from '../../src/models/open.ts'
import { defineModel } from '../../src/models/registry.ts'
import { readWithModel } from '../../src/train/export/compare.ts'
import { writeGgufFile } from '../../src/train/export/gguf.ts'
import { openExportSource } from '../../src/train/export/source.ts'
import { refusalOf } from '../formats/folders.ts'
import { countedModel, device } from '../train/golden.ts'
import { temporaryFolder } from '../train/temporary-folder.ts'

const root = temporaryFolder('smollm3', afterAll)
const small = {
  model_type: 'smollm3',
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 5,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
  rope_theta: 50_000,
}
const tokens = Int32Array.from({ length: 24 }, (_, i) => (i * 29 + 3) % 64)
const turned = (config: Record<string, unknown>) =>
  defineModel(config).config.attention.map(({ rope }) => rope !== undefined)

test('every fourth layer turns nothing, or those that are listed', () => {
  expect(turned(small)).toEqual([true, true, true, false, true])
  expect(turned({ ...small, no_rope_layer_interval: 2 })).toEqual([true, false, true, false, true])
  expect(turned({ ...small, no_rope_layers: [1, 0, 0, 1, 1, 0] })).toEqual([true, false, false, true, true])
  expect(refusalOf(() => turned({ ...small, no_rope_layers: [1, 0] }))).toContain('no_rope_layers')
})

test('a GGUF file gives the same logits bit for bit; other layers without positions have no form there', () => {
  const folder = countedModel(join(root, 'small'), small)
  const path = join(root, 'small.gguf')
  using source = openExportSource(folder)
  writeGgufFile(path, source, 'F32', 'small', new Map())
  using read = openModel(path)
  expect(read.definition.config.attention).toEqual(source.model.definition.config.attention)
  expect(readWithModel(path, tokens, device).logits).toEqual(readWithModel(folder, tokens, device).logits)
  using other = openExportSource(countedModel(join(root, 'other'), { ...small, no_rope_layer_interval: 2 }))
  expect(refusalOf(() => writeGgufFile(path, other, 'F32', 'other', new Map()))).toContain('SmolLM3')
})
