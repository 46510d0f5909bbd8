/** gpt-oss as its files have it, held to transformers' numbers, and by our kernels to plain ggml's. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import type { DType } from '../../src/base/dtype.ts'
import { Random } from '../../src/base/random.ts'
import { openGguf } from '../../src/formats/gguf.ts'
import { openSafetensors } from '../../src/formats/safetensors.ts'
import { writeSafetensors } from '../../src/formats/safetensors-write.ts'
import type { TensorToWrite } from '../../src/formats/source.ts'
import { openModel } from '../../src/models/open.ts'
import { defineModel } from '../../src/models/registry.ts'
import { parseRope, rotaryAngles } from '../../src/models/rope.ts'
import { loadWeights } from '../../src/models/weights.ts'
import { loadKernels } from '../../src/runtime/kernels.ts'
import type { SequenceWork } from '../../src/serve/executor.ts'
import { ModelExecutor } from '../../src/serve/model-executor.ts'
import { readWithModel } from '../../src/train/export/compare.ts'
import { writeModelFolder } from '../../src/train/export/folder.ts'
import { writeGgufFile } from '../../src/train/export/gguf.ts'
import { openExportSource } from '../../src/train/export/source.ts'
import { loadModel } from '../../src/train/parameters.ts'
import { bytesOfTensor, refusalOf } from '../formats/folders.ts'
import { relativeError } from '../native/tensors.ts'
import { countedModel, device, ownGoldens, readGolden, sourceOf, sumOf } from '../train/golden.ts'
import { logitsOf } from '../train/logits.ts'
import { temporaryFolder } from '../train/temporary-folder.ts'
import { memoryModel } from './memory-model.ts'
import { expectSameTensors, expectSavesWhatItRead } from './saved-tensors.ts'

const root = temporaryFolder('gpt-oss', afterAll)
const golden = readGolden(join(ownGoldens, 'gpt_oss.json'))
const config = golden.config!
const kernels = loadKernels()
const prompt = Int32Array.from({ length: 24 }, (_, i) => (i * 29 + 3) % 64)

test('logits are those of transformers', () => {
  using parameters = loadModel(countedModel(join(root, 'counted'), config), device)
  const { float32: trace, opt } = golden
  const logits = logitsOf(parameters, device, sourceOf(opt).at(0))
  expect(sumOf(logits)).toBeCloseTo(trace.logits_sum_step0!, 3)
  expect(Math.sqrt(sumOf(logits.map((x) => x * x))) / trace.logits_l2_step0!).toBeCloseTo(1, 5)
})

test('between whole pairs YaRN turns by the angles of transformers', () => {
  const published = {
    rope_theta: 150_000,
    rope_scaling: {
      ...{ rope_type: 'yarn', factor: 32, beta_fast: 32, beta_slow: 1 },
      ...{ original_max_position_embeddings: 4096, truncate: false },
    },
  }
  const { angles, factor } = rotaryAngles(parseRope(published, 64, 131_072))
  // ROPE_INIT_FUNCTIONS['yarn'] of transformers 5.18: the first, those between which it goes over, and the last.
  const theirs = {
    0: 1,
    8: 0.050813274815461475,
    9: 0.03170569618466377,
    13: 0.0038603593171920685,
    17: 0.00012931870124506317,
    18: 3.8308812373753384e-5,
    31: 3.0235114281192144e-7,
  }
  for (const [pair, angle] of Object.entries(theirs)) expect(angles[Number(pair)]! / angle).toBeCloseTo(1, 6)
  expect(factor).toBeCloseTo(1.3465735902799727, 12)
})

describe('a folder', () => {
  const folder = countedModel(join(root, 'folder'), config)

  test('holds experts turned round, gate and up in turns, and saving writes what was read', () => {
    {
      using file = openSafetensors(join(folder, 'model.safetensors'))
      expect(file.info('model.layers.1.mlp.experts.gate_up_proj')?.shape).toEqual([5, 32, 96])
      expect(file.info('model.layers.1.mlp.experts.gate_up_proj_bias')?.shape).toEqual([5, 96])
      expect(file.info('model.layers.1.mlp.experts.down_proj')?.shape).toEqual([5, 48, 32])
      expect(file.info('model.layers.1.mlp.router.bias')?.shape).toEqual([5])
      expect(file.info('model.layers.1.self_attn.sinks')?.shape).toEqual([4])
    }
    expectSavesWhatItRead(folder, join(root, 'saved'), device)
  })

  test('in half the bytes is read and written the same', () => {
    using source = openExportSource(folder)
    const halved = join(root, 'halved')
    writeModelFolder(halved, source, 'BF16')
    using again = openExportSource(halved)
    writeModelFolder(join(root, 'halved-again'), again, 'BF16')
    expectSameTensors(join(root, 'halved-again'), halved)
    const name = 'model.layers.0.mlp.experts.up_proj.weight'
    const spec = source.specs.find((one) => one.name === name)!
    expect(relativeError(again.floats(spec), source.floats(spec))).toBeLessThan(4e-3)
  })

  test('what is read of experts is the same whole and in pieces', () => {
    const coded = microscaledFolder(join(root, 'pieces')).folder
    for (const path of [folder, coded]) {
      using model = openModel(path)
      for (const product of ['gate', 'up', 'down'])
        for (const kind of ['weight', 'bias']) {
          const name = `model.layers.1.mlp.experts.${product}_proj.${kind}`
          const whole = new Uint8Array(model.info(name)!.bytes)
          model.read(name, whole)
          const piece = new Uint8Array(Math.min(100, whole.length))
          for (let at = 0; at + piece.length <= whole.length; at += 777) {
            model.read(name, piece, at)
            expect(piece).toEqual(whole.subarray(at, at + piece.length))
          }
        }
    }
  })

  test('that lacks experts, or has others, is refused by the name', () => {
    const original = tensorsOf(folder)
    const broken = join(root, 'broken')
    const refused = (change: (tensor: TensorToWrite) => TensorToWrite | undefined) => {
      writeFolder(
        broken,
        original.flatMap((tensor) => change(tensor) ?? []),
      )
      return refusalOf(() => loadModel(broken, device))
    }
    const of = (name: string, change: (tensor: TensorToWrite) => TensorToWrite | undefined) =>
      refused((tensor) => (tensor.name === name ? change(tensor) : tensor))
    const stored = 'model.layers.1.mlp.experts.gate_up_proj'
    expect(of(stored, () => undefined)).toContain(`no tensor ${stored}`)
    expect(of(`${stored}_bias`, () => undefined)).toContain(`no tensor ${stored}_bias`)
    expect(of(stored, (tensor) => ({ ...tensor, shape: [5, 96, 32] }))).toContain('shape [5,96,32]')
    expect(of('model.layers.0.self_attn.sinks', () => undefined)).toContain('self_attn.sinks')
  })
})

/** Numbers that MXFP4 holds, as a folder has them and as floats, by the names of tensors. */
function microscaledFolder(folder: string): { folder: string; plain: string } {
  const random = new Random(5)
  const plain: TensorToWrite[] = []
  const coded: TensorToWrite[] = []
  const half = { 0: 0, 1: 0.5, 2: 1, 3: 1.5, 4: 2, 5: 3, 6: 4, 7: 6 } as Record<number, number>
  const sized = { ...config, hidden_size: 64, intermediate_size: 32 }
  const from = tensorsOf(countedModel(`${folder}-counted`, sized))
  for (const tensor of from) {
    if (!/experts\.(gate_up|down)_proj$/.test(tensor.name)) {
      plain.push(tensor)
      coded.push(tensor)
      continue
    }
    const [experts, inputs, outputs] = tensor.shape as [number, number, number]
    const blocks = new Uint8Array((experts * outputs * inputs) / 2)
    const scales = new Uint8Array((experts * outputs * inputs) / 32)
    const values = new Float32Array(experts * inputs * outputs)
    for (let e = 0; e < experts; e++)
      for (let o = 0; o < outputs; o++)
        for (let i = 0; i < inputs; i++) {
          const block = ((e * outputs + o) * inputs + i) >> 5
          if (i % 32 === 0) scales[block] = 120 + random.integer(4)
          const code = random.integer(16)
          const at = (e * outputs + o) * inputs + i
          blocks[at >> 1]! |= code << (4 * (i % 2))
          const sign = code & 8 ? -1 : 1
          // ggml has one zero.
          values[(e * inputs + i) * outputs + o] = 0 + sign * half[code & 7]! * 2 ** (scales[block]! - 127)
        }
    plain.push({ ...tensor, data: new Uint8Array(values.buffer) })
    coded.push(
      {
        name: `${tensor.name}_blocks`,
        dtype: 'U8',
        shape: [experts, outputs, inputs / 32, 16],
        data: blocks,
      },
      { name: `${tensor.name}_scales`, dtype: 'U8', shape: [experts, outputs, inputs / 32], data: scales },
    )
  }
  writeFolder(folder, coded, sized)
  writeFolder(`${folder}-plain`, plain, sized)
  return { folder, plain: `${folder}-plain` }
}

describe('MXFP4', () => {
  const { folder, plain } = microscaledFolder(join(root, 'coded'))

  test('in a folder means the numbers of the same model in floats, and is kept as it is', () => {
    using one = openExportSource(folder)
    using other = openExportSource(plain)
    for (const spec of one.specs) expect(one.floats(spec), spec.name).toEqual(other.floats(spec))
    expect(one.model.info('model.layers.0.mlp.experts.gate_proj.weight')?.dtype).toBe('MXFP4')
    using weights = loadWeights(one.model, device)
    expect(weights.get('model.layers.0.mlp.experts.down_proj.weight').dtype).toBe('MXFP4')
  })

  test.skipIf(kernels === undefined)(
    'is packed in what the file takes, and answers as the floats do',
    async () => {
      using model = openModel(folder)
      using weights = loadWeights(model, device, { kernels })
      const product = weights.packed!.find(mixtureOf(0))!
      expect(product.map(({ format }) => format)).toEqual(['f32', 'mx4', 'mx4'])
      using floats = openModel(plain)
      const [coded, exact] = [await computed(model, 'kernels'), await computed(floats, 'kernels')]
      // Beside codes of 4 bits activations are rounded to 8.
      expect(relativeError(coded, exact)).toBeLessThan(2e-2)
      expect(relativeError(coded, await computed(model, 'ggml'))).toBeLessThan(5e-2)
    },
  )

  test('a scale or a block that is missing is refused', () => {
    const tensors = tensorsOf(folder)
    const broken = join(root, 'without')
    const scales = 'model.layers.0.mlp.experts.down_proj_scales'
    writeFolder(
      broken,
      tensors.filter(({ name }) => name !== scales),
      sizedConfig,
    )
    expect(refusalOf(() => loadModel(broken, device))).toContain(`no tensor ${scales}`)
    writeFolder(
      broken,
      tensors.map((tensor) => (tensor.name === scales ? { ...tensor, dtype: 'I8' as DType } : tensor)),
      sizedConfig,
    )
    expect(refusalOf(() => loadModel(broken, device))).toContain(`${scales} is in I8`)
  })
})

const sizedConfig = { ...config, hidden_size: 64, intermediate_size: 32 }
const mixtureOf = (layer: number) => {
  const of = (name: string) => `model.layers.${layer}.mlp.${name}`
  return [of('gate'), of('experts.gate_proj'), of('experts.up_proj'), of('experts.down_proj')]
}

test('a GGUF file has the names and keys of llama.cpp and gives the same logits bit for bit', () => {
  // Where gates end has no word there.
  const folder = countedModel(join(root, 'for-gguf'), { ...config, swiglu_limit: 7 })
  const path = join(root, 'model.gguf')
  using source = openExportSource(folder)
  writeGgufFile(path, source, 'F32', 'gpt-oss', new Map())
  using file = openGguf(path)
  const said = (key: string) => file.metadata.get(`gpt-oss.${key}`)
  expect(file.metadata.get('general.architecture')).toBe('gpt-oss')
  expect(['expert_count', 'expert_used_count', 'expert_feed_forward_length'].map(said)).toEqual([5, 2, 48])
  expect(said('attention.sliding_window')).toBe(8)
  expect([said('rope.scaling.type'), said('rope.scaling.factor')]).toEqual(['yarn', 4])
  expect(said('rope.scaling.original_context_length')).toBe(16)
  const shapes = {
    'blk.1.attn_sinks.weight': [4],
    'blk.1.attn_output.bias': [32],
    'blk.1.post_attention_norm.weight': [32],
    'blk.1.ffn_gate_inp.bias': [5],
    'blk.1.ffn_gate_exps.weight': [5, 48, 32],
    'blk.1.ffn_up_exps.bias': [5, 48],
    'blk.1.ffn_down_exps.bias': [5, 32],
  }
  for (const [name, shape] of Object.entries(shapes)) expect(file.info(name)?.shape, name).toEqual(shape)
  const read = readWithModel(path, prompt, device).logits
  expect(read).toEqual(readWithModel(folder, prompt, device).logits)
  // And back.
  using again = openExportSource(path)
  writeModelFolder(join(root, 'from-gguf'), again, 'F32')
  expectSameTensors(join(root, 'from-gguf'), folder)
})

test.each([
  [{ swiglu_limit: 5 }, 'gates end at 5'],
  [{ layer_types: ['full_attention', 'sliding_attention'] }, 'every second layer'],
])('%o has no form in GGUF', (fields, said) => {
  const folder = countedModel(join(root, Object.keys(fields)[0]!), { ...config, swiglu_limit: 7, ...fields })
  using source = openExportSource(folder)
  expect(refusalOf(() => writeGgufFile(join(root, 'none.gguf'), source, 'F32', 'x', new Map()))).toContain(
    said,
  )
})

test.each([
  [{ num_experts_per_tok: 9 }, 'num_experts_per_tok'],
  [{ layer_types: ['sliding_attention'] }, 'layer_types'],
  [{ swiglu_limit: 'wide' }, 'swiglu_limit'],
  [{ hidden_act: 'gelu' }, 'hidden_act'],
])('%o is refused by that field', (fields, field) => {
  expect(refusalOf(() => defineModel({ ...config, ...fields }))).toContain(field)
})

async function computed(model: ReturnType<typeof openModel>, by: 'kernels' | 'ggml', cuts = [17, 1]) {
  const own = by === 'kernels' ? kernels : undefined
  using weights = loadWeights(model, device, { kernels: own })
  const executor = new ModelExecutor(model.definition, weights, device, {
    cacheTokens: 128,
    kernels: own ?? ('ggml' as const),
  })
  try {
    const rows: number[] = []
    let start = 0
    for (const count of cuts) {
      const tokens = Array.from({ length: count }, (_, i) => ((start + i) * 37) % 64)
      const work: SequenceWork = { blocks: [3, 1], start, tokens, outputs: count }
      const output = await executor.execute({ sequences: [work] })
      for (let i = 0; i < count; i++) rows.push(...output.logits(i))
      start += count
    }
    return Float32Array.from(rows)
  } finally {
    executor.dispose()
  }
}

describe.skipIf(kernels === undefined)('by our kernels', () => {
  const own = {
    ...config,
    ...{ vocab_size: 301, hidden_size: 256, num_attention_heads: 8, num_key_value_heads: 2, head_dim: 32 },
    ...{ intermediate_size: 256, tie_word_embeddings: true, num_local_experts: 3, num_experts_per_tok: 3 },
  }

  // Keys and values are halves on both sides, and activations codes beside codes. All experts are used, so that rounding chooses no others.
  test.each([
    ['F32', 2e-3],
    ['BF16', 2e-2],
    ['Q8_0', 8e-2],
    ['MXFP4', 8e-2],
  ] as const)('logits with experts in %s are those of plain ggml', async (format, tolerance) => {
    const model = memoryModel({
      layers: 2,
      formatOf: (name) => (name.includes('experts') ? format : 'F32'),
      own,
    })
    const [ours, plain] = [await computed(model, 'kernels'), await computed(model, 'ggml')]
    expect(relativeError(ours, plain)).toBeLessThan(tolerance)
  })

  test('a prompt has the same bits whole, in pieces and token by token', async () => {
    const model = memoryModel({
      layers: 2,
      formatOf: (name) => (name.includes('experts') ? 'MXFP4' : 'F32'),
      own,
    })
    const whole = await computed(model, 'kernels', [18])
    for (const cuts of [[5, 13], [1, 1, 9, 7], Array<number>(18).fill(1)])
      expect(await computed(model, 'kernels', cuts)).toEqual(whole)
  })
})

function tensorsOf(folder: string): (TensorToWrite & { data: Uint8Array })[] {
  using source = openSafetensors(join(folder, 'model.safetensors'))
  return source.names().map((name) => {
    const { dtype, shape } = source.info(name)!
    return { name, dtype, shape, data: new Uint8Array(bytesOfTensor(source, name)) }
  })
}

function writeFolder(
  folder: string,
  tensors: readonly TensorToWrite[],
  of: Record<string, unknown> = config,
) {
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'config.json'), JSON.stringify(of))
  writeSafetensors(join(folder, 'model.safetensors'), tensors)
}
