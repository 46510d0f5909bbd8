/**
 * One definition serves and trains: for every kind of network, what the engine computes from its cache, chunk by chunk,
 * are the logits of training's forward pass, which the goldens hold to PyTorch.
 */
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { openModel } from '../../src/models/open.ts'
import { loadWeights } from '../../src/models/weights.ts'
import { type Kernels, loadKernels } from '../../src/runtime/kernels.ts'
import { ModelExecutor } from '../../src/serve/model-executor.ts'
import { loadModel } from '../../src/train/parameters.ts'
import { sameBits } from '../native/tensors.ts'
import { batchOf, countedModel, device, ownGoldens, readGolden, tokens } from '../train/golden.ts'
import { logitsOf } from '../train/logits.ts'
import { temporaryFolder } from '../train/temporary-folder.ts'

const root = temporaryFolder('served', afterAll)
const { config: qwen3 } = readGolden(join(ownGoldens, 'qwen3.json'))
const { config: mistral } = readGolden(join(ownGoldens, 'mistral.json'))
const { config: phi3 } = readGolden(join(ownGoldens, 'phi3.json'))
const { config: granite } = readGolden(join(ownGoldens, 'granite.json'))
const { config: gemma3 } = readGolden(join(ownGoldens, 'gemma3_text.json'))
const { config: smollm3 } = readGolden(join(ownGoldens, 'smollm3.json'))
const { config: qwen3Moe } = readGolden(join(ownGoldens, 'qwen3_moe.json'))
const { config: mixtral } = readGolden(join(ownGoldens, 'mixtral.json'))
const { config: olmoe } = readGolden(join(ownGoldens, 'olmoe.json'))
const { config: granitemoe } = readGolden(join(ownGoldens, 'granitemoe.json'))
const { config: gptOss } = readGolden(join(ownGoldens, 'gpt_oss.json'))
const { config: olmo2 } = readGolden(join(ownGoldens, 'olmo2.json'))
const { config: olmo3 } = readGolden(join(ownGoldens, 'olmo3.json'))
const plain = { ...mistral, sliding_window: undefined }
const networks: Record<string, Record<string, unknown>> = {
  llama: { ...plain, model_type: 'llama' },
  'llama with biases': { ...plain, model_type: 'llama', attention_bias: true, mlp_bias: true },
  'mistral with a window of 8': { ...mistral },
  'mistral without a window': { ...mistral, sliding_window: null },
  qwen2: { ...plain, model_type: 'qwen2' },
  'qwen3 with heads of 12 dimensions': { ...qwen3 },
  'qwen3 with tied embeddings': { ...qwen3, tie_word_embeddings: true },
  'phi3 that turns a part of each head': { ...phi3 },
  granite: { ...granite },
  olmo2: { ...olmo2 },
  'olmo2 with biases': { ...olmo2, attention_bias: true },
  'olmo3 with a window in one layer': { ...olmo3 },
  'phi3 with a window of 8': { ...phi3, sliding_window: 8 },
  'smollm3 without positions in its first layer': { ...smollm3 },
  'smollm3 as its files write it': { ...smollm3, no_rope_layers: null, no_rope_layer_interval: 2 },
  'qwen3_moe with one layer of experts': { ...qwen3Moe },
  'qwen3_moe with shares that do not sum to one': {
    ...qwen3Moe,
    decoder_sparse_step: 1,
    norm_topk_prob: false,
  },
  'mixtral with a window of 8': { ...mixtral },
  'mixtral of 24 experts, all used': { ...mixtral, num_local_experts: 24, num_experts_per_tok: 24 },
  olmoe: { ...olmoe },
  granitemoe: { ...granitemoe },
  'gpt_oss with a window of 8 in every other layer': { ...gptOss },
  'gpt_oss without biases of attention, all attending': {
    ...gptOss,
    ...{ attention_bias: false, layer_types: ['full_attention', 'full_attention'], num_experts_per_tok: 5 },
  },
  'gemma3 with a window of 8 in every other layer': { ...gemma3 },
  'gemma3 as older files write it, all attending but the first': {
    ...gemma3,
    ...{
      layer_types: undefined,
      sliding_window_pattern: 3,
      num_hidden_layers: 3,
      rope_parameters: undefined,
    },
    ...{ rope_theta: 5000, rope_local_base_freq: 100, rope_scaling: { type: 'linear', factor: 2 } },
  },
}

const ways = [
  { way: "ggml's operations and a cache in F32", kernels: undefined, cacheDtype: 'F32', tolerance: 1e-5 },
  { way: 'our kernels and a cache in F16', kernels: loadKernels(), cacheDtype: 'F16', tolerance: 2e-3 },
] as const

describe.each(Object.entries(networks))('%s', (name, config) => {
  const folder = countedModel(join(root, name.replaceAll(' ', '-')), config)

  test.each(ways)('answers from $way as it was trained', async ({ kernels, cacheDtype, tolerance }) => {
    if (kernels === undefined && cacheDtype === 'F16') return
    const batch = batchOf(1000, {})
    using parameters = loadModel(folder, device)
    const expected = logitsOf(parameters, device, batch)
    const width = expected.length / batch.ids.length
    for (const { at, logits } of await served(
      folder,
      { kernels, cacheDtype },
      batch.ids.subarray(0, tokens),
    )) {
      const wanted = expected.subarray(at * width, (at + 1) * width)
      const largest = wanted.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
      const apart = logits.reduce((most, value, i) => Math.max(most, Math.abs(value - wanted[i]!)), 0)
      expect(apart / largest, `behind token ${at}`).toBeLessThan(tolerance)
    }
  })
})

test.each(Object.keys(networks).flatMap((name) => ways.map((way) => ({ name, ...way }))))(
  'the bits of an answer depend on neither its pieces nor its company: $name, $way',
  async ({ name, kernels, cacheDtype }) => {
    if (kernels === undefined && cacheDtype === 'F16') return
    const prompt = batchOf(1000, {}).ids.subarray(0, tokens)
    const folder = join(root, name.replaceAll(' ', '-'))
    const [first, ...others] = await served(folder, { kernels, cacheDtype }, prompt)
    const beside = [...batchOf(7, {}).ids.subarray(0, 9)]
    const whole = await served(folder, { kernels, cacheDtype }, prompt, { pieces: [tokens], beside })
    expect(sameBits(whole[0]!.logits, others.at(-1)!.logits)).toBe(true)
    expect(sameBits(whole[0]!.logits, first!.logits)).toBe(false)
  },
)

interface Way {
  kernels: Kernels | undefined
  cacheDtype: 'F32' | 'F16'
}

/** The logits behind each chunk of a prompt of 24 tokens, and the place of the chunk's last token. */
async function served(
  folder: string,
  { kernels, cacheDtype }: Way,
  prompt: Int32Array,
  { pieces = [13, 1, 7, 1, 1, 1], beside = [] as number[] } = {},
) {
  using model = openModel(folder)
  using weights = loadWeights(model, device, { kernels })
  const executor = new ModelExecutor(model.definition, weights, device, { cacheTokens: 96, cacheDtype })
  const blocks = [3, 0, 2, 1]
  const rows: { at: number; logits: Float32Array }[] = []
  let start = 0
  const company = beside.length === 0 ? [] : [{ blocks: [5, 4], start: 0, tokens: beside, outputs: 1 }]
  for (const count of pieces) {
    const part = [...prompt.subarray(start, start + count)]
    const output = await executor.execute({
      sequences: [{ blocks, start, tokens: part, outputs: 1 }, ...company],
    })
    start += count
    rows.push({ at: start - 1, logits: output.logits(0).slice() })
  }
  executor.dispose()
  return rows
}
