import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { readJsonFile } from '../../../src/base/files.ts'
import { defineModel } from '../../../src/models/registry.ts'
import { Device } from '../../../src/runtime/device.ts'
import { exportModel } from '../../../src/train/export/export.ts'
import { gptOssSizes } from '../../../src/train/export/gguf-gpt-oss.ts'
import { refusalOf } from '../../formats/folders.ts'
import { sharedData } from '../../shared.ts'

const stories = sharedData('models', 'stories260K', 'hf')

describe.skipIf(stories === undefined)('a model that is stretched by YaRN', () => {
  const device = new Device({ device: 'cpu', threads: 1 })
  const root = mkdtempSync(join(tmpdir(), 'ropeway-yarn-'))
  afterAll(() => rmSync(root, { recursive: true, force: true, maxRetries: 9 }))

  for (const truncate of [true, false]) {
    const yarn = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 128 }
    const scaling = { ...yarn, mscale: 1, mscale_all_dim: 0.5, truncate }
    test(`is written with all of it as safetensors, and refused as GGUF (truncate ${truncate})`, () => {
      const from = join(root, `from-${truncate}`)
      cpSync(stories!, from, { recursive: true, dereference: true })
      const config = JSON.parse(readFileSync(join(stories!, 'config.json'), 'utf8'))
      rmSync(join(from, 'config.json'))
      writeFileSync(join(from, 'config.json'), JSON.stringify({ ...config, rope_scaling: scaling }))
      const to = join(root, `to-${truncate}`)
      const { perplexityBefore, perplexityAfter } = exportModel({ from, to, form: 'safetensors' }, device)
      expect(perplexityAfter).toBe(perplexityBefore)
      expect(readJsonFile(join(to, 'config.json'))).toMatchObject({ rope_scaling: scaling })
      expect(refusalOf(() => exportModel({ from, to: `${to}.gguf`, form: 'gguf' }, device))).toMatch(
        /Rope scaling of this kind is not written to GGUF yet/,
      )
    })
  }
})

test('a gpt-oss whose attention factor GGUF has no word for is refused there', () => {
  const scaling = { rope_type: 'yarn', factor: 32, truncate: false, original_max_position_embeddings: 4096 }
  const sizes = { hidden_size: 64, num_attention_heads: 2, num_key_value_heads: 1, num_hidden_layers: 2 }
  const config = (own: object) =>
    defineModel({
      ...{ model_type: 'gpt_oss', vocab_size: 8, intermediate_size: 32, ...sizes },
      ...{ num_local_experts: 4, num_experts_per_tok: 2, rope_scaling: { ...scaling, ...own } },
    }).config
  expect(new Map(gptOssSizes(config({}))).get('gpt-oss.rope.scaling.factor')?.value).toBe(32)
  expect(gptOssSizes(config({ attention_factor: 1 + 0.1 * Math.log(32) }))).toEqual(gptOssSizes(config({})))
  expect(refusalOf(() => gptOssSizes(config({ mscale: 1, mscale_all_dim: 1 })))).toMatch(/attention_factor/)
  expect(refusalOf(() => gptOssSizes(config({ attention_factor: 1 })))).toMatch(/attention_factor/)
})
