import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { openSafetensors } from '../../src/formats/safetensors.ts'
import { writeSafetensors } from '../../src/formats/safetensors-write.ts'
import type { TensorToWrite } from '../../src/formats/source.ts'
import { openModel } from '../../src/models/open.ts'
import { defineModel } from '../../src/models/registry.ts'
import { loadModel } from '../../src/train/parameters.ts'
import { bytesOfTensor, refusalOf } from '../formats/folders.ts'
import { countedModel, device, ownGoldens, readGolden, sourceOf, sumOf } from '../train/golden.ts'
import { logitsOf } from '../train/logits.ts'
import { temporaryFolder } from '../train/temporary-folder.ts'

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
