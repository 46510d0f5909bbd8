import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { openGguf } from '../../src/formats/gguf.ts'
import { openSafetensors } from '../../src/formats/safetensors.ts'
import { writeSafetensors } from '../../src/formats/safetensors-write.ts'
import type { TensorToWrite } from '../../src/formats/source.ts'
import { readAdapter } from '../../src/models/adapter.ts'
import type { LlamaConfig } from '../../src/models/llama.ts'
import { openModel } from '../../src/models/open.ts'
import { countParameters, defineModel } from '../../src/models/registry.ts'
import { readWithModel } from '../../src/train/export/compare.ts'
import { writeModelFolder } from '../../src/train/export/folder.ts'
import { writeGgufFile } from '../../src/train/export/gguf.ts'
import { openExportSource } from '../../src/train/export/source.ts'
import type { LoraOptions } from '../../src/train/methods/method.ts'
import { loadModel } from '../../src/train/parameters.ts'
import { adapterSettings } from '../../src/train/prepare-model.ts'
import { bytesOfTensor, refusalOf } from '../formats/folders.ts'
import { countedModel, device, ownGoldens, readGolden, sourceOf, sumOf } from '../train/golden.ts'
import { logitsOf } from '../train/logits.ts'
import { temporaryFolder } from '../train/temporary-folder.ts'
import { expectSameTensors, expectSavesWhatItRead } from './saved-tensors.ts'

const root = temporaryFolder('mixtures', afterAll)
const names = ['qwen3_moe', 'mixtral', 'olmoe', 'granitemoe'] as const
const golden = (name: string) => readGolden(join(ownGoldens, `${name}.json`))
const configOf = (name: string) => golden(name).config!

describe.each(names)('%s', (name) => {
  const folder = countedModel(join(root, name), configOf(name))

  test('logits are those of transformers', () => {
    const { float32: trace, opt } = golden(name)
    using parameters = loadModel(folder, device)
    const logits = logitsOf(parameters, device, sourceOf(opt).at(0))
    expect(sumOf(logits)).toBeCloseTo(trace.logits_sum_step0!, 3)
    expect(Math.sqrt(sumOf(logits.map((x) => x * x))) / trace.logits_l2_step0!).toBeCloseTo(1, 5)
  })

  test('what is read of a parameter of experts is the same whole and in pieces, of one file or of several', () => {
    const sharded = join(root, `${name}-sharded`)
    countedModel(sharded, configOf(name))
    cutInTwo(sharded)
    using one = openModel(folder)
    using two = openModel(sharded)
    const specs = one.definition.architecture.parameters(one.definition.config)
    const stacked = specs.filter(({ experts }) => experts !== undefined)
    expect(stacked.length).toBeGreaterThan(0)
    for (const spec of stacked) {
      const info = one.info(spec.name)!
      expect(info.shape).toEqual(spec.shape)
      const whole = new Uint8Array(info.bytes)
      one.read(spec.name, whole)
      const piece = new Uint8Array(1000)
      for (let at = 0; at + piece.length <= whole.length; at += 777) {
        two.read(spec.name, piece, at)
        expect(piece).toEqual(whole.subarray(at, at + piece.length))
      }
    }
  })

  test('a GGUF file holds all experts of a product as one tensor and gives the same logits bit for bit', () => {
    const whole = countedModel(join(root, `${name}-whole`), everywhere(configOf(name)))
    const path = join(root, `${name}.gguf`)
    using source = openExportSource(whole)
    writeGgufFile(path, source, 'F32', name, new Map())
    using file = openGguf(path)
    const { mixture, width } = source.model.definition.config as LlamaConfig
    const { experts, used, feedForward } = mixture!
    const architecture = {
      qwen3_moe: 'qwen3moe',
      mixtral: 'llama',
      olmoe: 'olmoe',
      granitemoe: 'granitemoe',
    }[name]
    expect(file.metadata.get('general.architecture')).toBe(architecture)
    expect(file.metadata.get(`${architecture}.expert_count`)).toBe(experts)
    expect(file.metadata.get(`${architecture}.expert_used_count`)).toBe(used)
    expect(file.info('blk.1.ffn_up_exps.weight')?.shape).toEqual([experts, feedForward, width])
    expect(file.info('blk.1.ffn_down_exps.weight')?.shape).toEqual([experts, width, feedForward])
    expect(file.info('blk.1.ffn_gate_inp.weight')?.shape).toEqual([experts, width])
    const read = readWithModel(path, prompt, device).logits
    expect(read).toEqual(readWithModel(whole, prompt, device).logits)
    const coded = join(root, `${name}-q8_0.gguf`)
    writeGgufFile(coded, source, 'Q8_0', name, new Map())
    using smaller = openGguf(coded)
    expect(smaller.info('blk.1.ffn_up_exps.weight')?.dtype).toBe('Q8_0')
    expect(smaller.info('blk.1.ffn_gate_inp.weight')?.dtype).toBe('F32')
    // And back: a folder with the names of the family.
    using again = openExportSource(path)
    writeModelFolder(join(root, `${name}-again`), again, 'F32')
    expectSameTensors(join(root, `${name}-again`), whole)
  })

  test('what training saves has the names and shapes of the family, and is what a resume reads', () => {
    expectSavesWhatItRead(folder, join(root, `${name}-saved`), device)
  })
})

const prompt = Int32Array.from({ length: 24 }, (_, i) => (i * 29 + 3) % 64)

/** As llama.cpp has them: with experts in every layer, no window, as many heads of OLMoE's keys as of queries. */
function everywhere(config: Record<string, unknown>): Record<string, unknown> {
  const heads = config.model_type === 'olmoe' ? { num_key_value_heads: config.num_attention_heads } : {}
  return { ...config, decoder_sparse_step: 1, sliding_window: null, ...heads }
}

test.each([
  ['qwen3_moe', { decoder_sparse_step: 2 }, 'in some layers only'],
  ['qwen3_moe', { norm_topk_prob: false }, 'norm_topk_prob'],
  ['olmoe', { norm_topk_prob: true }, 'norm_topk_prob'],
  ['olmoe', { num_key_value_heads: 2 }, '2 of keys'],
  ['mixtral', { sliding_window: 8 }, 'window'],
])('%s with %o has no form in GGUF', (name, fields, said) => {
  const folder = join(root, `${name}-${Object.keys(fields)[0]}`)
  countedModel(folder, { ...everywhere(configOf(name)), ...fields })
  using source = openExportSource(folder)
  expect(refusalOf(() => writeGgufFile(join(root, 'none.gguf'), source, 'F32', name, new Map()))).toContain(
    said,
  )
})

/** Leaves of model.safetensors two shards and their index, every other tensor in each. */
function cutInTwo(folder: string): void {
  const path = join(folder, 'model.safetensors')
  const shards: TensorToWrite[][] = [[], []]
  const index: Record<string, string> = {}
  {
    using source = openSafetensors(path)
    for (const [i, name] of source.names().entries()) {
      const { dtype, shape } = source.info(name)!
      shards[i % 2]!.push({ name, dtype, shape, data: bytesOfTensor(source, name) })
      index[name] = `part-${i % 2}.safetensors`
    }
  }
  for (const [i, tensors] of shards.entries())
    writeSafetensors(join(folder, `part-${i}.safetensors`), tensors)
  writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map: index }))
  rmSync(path)
}

test('an expert that is missing, misshapen or in another format is refused by its name', () => {
  const folder = countedModel(join(root, 'broken'), configOf('mixtral'))
  const path = join(folder, 'model.safetensors')
  const name = 'model.layers.1.block_sparse_moe.experts.2.w3.weight'
  const original = readFileSync(path)
  const refusedWith = (change: (tensor: { dtype: 'F32' | 'F16'; shape: readonly number[] }) => unknown) => {
    writeFileSync(path, original)
    const tensors: TensorToWrite[] = []
    {
      using source = openSafetensors(path)
      for (const one of source.names()) {
        const tensor = { dtype: 'F32' as 'F32' | 'F16', shape: source.info(one)!.shape }
        if (one === name && change(tensor) === null) continue
        const bytes = bytesOfTensor(source, one)
        const size = tensor.shape.reduce((a, b) => a * b, tensor.dtype === 'F16' ? 2 : 4)
        tensors.push({ name: one, ...tensor, data: bytes.subarray(0, size) })
      }
    }
    writeSafetensors(path, tensors)
    return refusalOf(() => loadModel(folder, device))
  }
  expect(refusedWith(() => null)).toContain(`has no tensor ${name}`)
  expect(refusedWith((tensor) => Object.assign(tensor, { shape: [24, 32] }))).toContain(
    `${name} has shape [24,32]`,
  )
  expect(refusedWith((tensor) => Object.assign(tensor, { dtype: 'F16' }))).toContain(`${name} is in F16`)
})

test('which layers of Qwen3 have experts is what its fields say', () => {
  const mixed = (fields: Record<string, unknown>) => {
    const { architecture, config } = defineModel({
      ...configOf('qwen3_moe'),
      num_hidden_layers: 4,
      ...fields,
    })
    const specs = architecture.parameters(config).map(({ name }) => name)
    return [0, 1, 2, 3].filter((i) => specs.includes(`model.layers.${i}.mlp.gate.weight`))
  }
  expect(mixed({ decoder_sparse_step: 1 })).toEqual([0, 1, 2, 3])
  expect(mixed({ decoder_sparse_step: 2 })).toEqual([1, 3])
  expect(mixed({ decoder_sparse_step: 1, mlp_only_layers: [0, 3] })).toEqual([1, 2])
})

test.each([
  ['olmoe', { clip_qkv: 8 }, 'clip_qkv'],
  ['olmoe', { num_experts_per_tok: 9 }, 'num_experts_per_tok'],
  ['mixtral', { router_jitter_noise: 0.1 }, 'router_jitter_noise'],
  ['granitemoe', { num_local_experts: 0 }, 'num_local_experts'],
  ['qwen3_moe', { mlp_only_layers: 'all' }, 'mlp_only_layers'],
  ['qwen3_moe', { use_sliding_window: true }, 'use_sliding_window'],
])('%s with %o is refused by that field', (name, fields, field) => {
  expect(refusalOf(() => defineModel({ ...configOf(name), ...fields }))).toContain(field)
})

test('an adapter of experts, or of what chooses them, is refused as that', () => {
  using model = openModel(countedModel(join(root, 'adapted'), configOf('mixtral')))
  for (const part of ['mlp.experts.3.gate_proj', 'block_sparse_moe.gate', 'block_sparse_moe.experts.0.w2']) {
    const folder = join(root, part)
    const name = `base_model.model.model.layers.0.${part}`
    const data = new Uint8Array(4 * 2 * 32)
    mkdirSync(folder)
    writeFileSync(
      join(folder, 'adapter_config.json'),
      JSON.stringify({ peft_type: 'LORA', r: 2, lora_alpha: 2 }),
    )
    writeSafetensors(join(folder, 'adapter_model.safetensors'), [
      { name: `${name}.lora_A.weight`, dtype: 'F32', shape: [2, 32], data },
      { name: `${name}.lora_B.weight`, dtype: 'F32', shape: [32, 2], data },
    ])
    expect(refusalOf(() => readAdapter(folder, model.definition))).toContain('adapters of experts')
  }
  const settings = (targets: 'all' | string[]) => {
    const options = { rank: 2, alpha: 2, targets, dora: false, rank_stabilised: false, quantize: 'f32' }
    return adapterSettings(options as LoraOptions, model.definition, model.path)
  }
  expect(settings('all').targets).toEqual(['q_proj', 'k_proj', 'v_proj', 'o_proj'])
  expect(refusalOf(() => settings(['gate_proj']))).toContain('a product of experts')
  expect(refusalOf(() => settings(['mlp.gate']))).toContain('a product of experts')
  expect(refusalOf(() => settings(['w1']))).toContain('does not have')
})

test('a token meets the parameters of the experts that it uses', () => {
  const counts = countParameters(
    defineModel({ ...configOf('mixtral'), num_local_experts: 4, num_experts_per_tok: 1 }),
  )
  // Two layers of 4 experts of three products of 32 by 48.
  expect(counts.all - counts.active).toBe(2 * 3 * 3 * 32 * 48)
  const dense = countParameters(defineModel(configOf('qwen3_moe')))
  expect(dense.all - dense.active).toBe(3 * 3 * 16 * 32)
})
