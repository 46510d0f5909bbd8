import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { readJsonFile } from '../../src/base/files.ts'
import { openSafetensors } from '../../src/formats/safetensors.ts'
import { writeSafetensors } from '../../src/formats/safetensors-write.ts'
import { adapterTensorName, isAdapterFolder, readAdapter, writeAdapter } from '../../src/models/adapter.ts'
import { readAdapterSettings, scaleOf } from '../../src/models/adapter-config.ts'
import { defineModel } from '../../src/models/registry.ts'
import { bytesOfTensor, refusalOf, TemporaryFolder } from '../formats/folders.ts'
import { sharedData } from '../shared.ts'

const golden = sharedData('training-goldens', 'llama_lora')

const settings = readAdapterSettings('it', { peft_type: 'LORA', r: 4, lora_alpha: 8 })

describe.skipIf(golden === undefined)('an adapter that PEFT wrote', () => {
  const folder = join(golden ?? '', 'adapter_init')
  const definition = () => defineModel(readJsonFile(join(golden!, 'config.json')))

  test('is read whole: every tensor belongs to a layer, with the scale of its rank', () => {
    expect(isAdapterFolder(folder)).toBe(true)
    expect(isAdapterFolder(golden!)).toBe(false)
    const { layers } = readAdapter(folder, definition())
    using file = openSafetensors(join(folder, 'adapter_model.safetensors'))
    expect(2 * layers.size).toBe(file.names().length)
    const layer = layers.get('model.layers.1.self_attn.v_proj')!
    expect(layer).toMatchObject({ inputs: 32, outputs: 16, rank: 4, scale: 2, magnitude: undefined })
    const stored = bytesOfTensor(file, 'base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight')
    expect(Buffer.from(layer.b.buffer)).toEqual(Buffer.from(stored))
  })

  test('is looked for in a folder above it, and what was expected there is said', () => {
    expect(refusalOf(() => readAdapter(golden!, definition()))).toMatch(
      /holds no adapter: there is no adapter_config\.json in it/,
    )
  })

  test('is written again with the same bytes', () => {
    using temporary = new TemporaryFolder()
    writeAdapter(temporary.path, readAdapter(folder, definition()), definition())
    const name = 'adapter_model.safetensors'
    expect(readFileSync(temporary.file(name)).equals(readFileSync(join(folder, name)))).toBe(true)
    expect(readAdapter(temporary.path, definition())).toEqual(readAdapter(folder, definition()))
  })

  test.each([
    { what: 'another kind', field: 'peft_type', value: 'IA3' },
    { what: 'trained biases', field: 'bias', value: 'all' },
    { what: 'a bias in B', field: 'lora_bias', value: true },
    { what: 'whole modules', field: 'modules_to_save', value: ['lm_head'] },
    { what: 'a rank of none', field: 'r', value: 0 },
    { what: 'a pattern that is an expression', field: 'alpha_pattern', value: { '(a+)+$': 3 } },
  ])('with $what is refused by the name of the field', ({ field, value }) => {
    using temporary = copyOf(folder)
    const config = readJsonFile(temporary.file('adapter_config.json'))
    writeFileSync(temporary.file('adapter_config.json'), JSON.stringify({ ...config, [field]: value }))
    expect(refusalOf(() => readAdapter(temporary.path, definition()))).toMatch(field)
  })

  test('of another model is refused by the name of the product', () => {
    const other = { ...readJsonFile(join(golden!, 'config.json')), num_hidden_layers: 1 }
    expect(refusalOf(() => readAdapter(folder, defineModel(other)))).toMatch(/layers\.1\..*base|layers\.1\./)
    const deep = { ...readJsonFile(join(golden!, 'config.json')), num_hidden_layers: 100_000 }
    expect(refusalOf(() => defineModel(deep))).toMatch(/num_hidden_layers is 100000; it must be at most 1024/)
    const wide = { ...readJsonFile(join(golden!, 'config.json')), intermediate_size: 64 }
    expect(refusalOf(() => readAdapter(folder, defineModel(wide)))).toMatch(/has shape/)
  })

  test('with half of a pair, a stray tensor or a number that is none is refused by its name', () => {
    const a = adapterTensorName('model.layers.0.self_attn.q_proj', 'a')
    const b = adapterTensorName('model.layers.0.self_attn.q_proj', 'b')
    const tensor = (name: string, shape: number[], value = 0) => {
      const data = new Uint8Array(new Float32Array(shape[0]! * shape[1]!).fill(value).buffer)
      return { name, dtype: 'F32' as const, shape, data }
    }
    const refusal = (tensors: Parameters<typeof writeSafetensors>[1]) => {
      using temporary = copyOf(folder)
      writeSafetensors(temporary.file('adapter_model.safetensors'), tensors)
      return refusalOf(() => readAdapter(temporary.path, definition()))
    }
    expect(refusal([tensor(a, [4, 32])])).toMatch(/lora_B/)
    expect(refusal([tensor('base_model.model.model.norm.weight', [4, 32])])).toMatch(/model\.norm/)
    expect(refusal([tensor(a, [4, 32]), tensor(b, [32, 4], NaN)])).toMatch(/lora_B.*not finite/)
    expect(refusal([])).toMatch(/no adapter/)
  })
})

test('scales follow the alpha of the product and the kind of scaling', () => {
  expect(scaleOf(settings, 'model.layers.0.self_attn.q_proj', 4)).toBe(2)
  expect(scaleOf({ ...settings, rankStabilised: true }, 'any', 4)).toBe(4)
  const patterned = { ...settings, alphaPattern: { 'self_attn.q_proj': 2 } }
  expect(scaleOf(patterned, 'model.layers.0.self_attn.q_proj', 4)).toBe(0.5)
  expect(scaleOf(patterned, 'model.layers.0.self_attn.v_proj', 4)).toBe(2)
})

function copyOf(folder: string): TemporaryFolder {
  const temporary = new TemporaryFolder()
  mkdirSync(temporary.path, { recursive: true })
  for (const name of ['adapter_config.json', 'adapter_model.safetensors'])
    copyFileSync(join(folder, name), temporary.file(name))
  return temporary
}
