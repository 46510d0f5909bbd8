/** Exports as one GGUF file: metadata in GGUF's words, tensors in its order and number formats. */
import { type DType, dtypes } from '../../base/dtype.ts'
import { UserError } from '../../base/errors.ts'
import { longRopeName, ropeFactorsName } from '../../formats/gguf-config.ts'
import { ggufAdded, ggufRowPermutation, huggingFaceToGguf } from '../../formats/gguf-names.ts'
import type { GgufEntry } from '../../formats/gguf-values.ts'
import { writeGguf } from '../../formats/gguf-write.ts'
import type { TensorToWrite } from '../../formats/source.ts'
import {
  type LayerAttention,
  type ModelConfig,
  type ParameterSpec,
  staysFloat,
} from '../../models/architecture.ts'
import type { Gpt2Config } from '../../models/gpt2.ts'
import type { LlamaConfig } from '../../models/llama.ts'
import { encodeRows, keptDtype } from '../../models/rows.ts'
import { loadGgml } from '../../runtime/ffi.ts'
import { gptOssSizes } from './gguf-gpt-oss.ts'
import { mixtureCounts } from './gguf-mixture.ts'
import type { ExportSource } from './source.ts'

/** general.file_type of llama.cpp. */
const fileTypes = { F32: 0, F16: 1, BF16: 32, Q8_0: 7, Q4_K: 15 } as const
export type GgufType = keyof typeof fileTypes

/** What stands in a file that was asked for in one type. */
export interface GgufTypes {
  /** Tensors of each type. */
  tensors: Partial<Record<DType, number>>
  /** Tensors whose rows hold no whole blocks of the type that they should have, and what they have instead. */
  unfit: { name: string; row: number; block: number; wanted: DType; type: DType }[]
}

export function writeGgufFile(
  path: string,
  source: ExportSource,
  type: GgufType,
  name: string,
  tokenizer: ReadonlyMap<string, GgufEntry>,
): GgufTypes {
  const { config } = source.model.definition
  const unfit: GgufTypes['unfit'] = []
  const weights = source.specs.map((spec) => tensorOf(source, spec, type, unfit))
  const tensors = [...weights, ...ropeTensors(config)]
  const counts: GgufTypes['tensors'] = {}
  for (const { dtype } of tensors) counts[dtype] = (counts[dtype] ?? 0) + 1
  // llama.cpp calls it what the file mostly is.
  const fileType = counts[type] === undefined ? 'F16' : type
  const metadata = new Map<string, GgufEntry>([
    ['general.architecture', { type: 'string', value: architectureOf(config) }],
    ['general.name', { type: 'string', value: name }],
    ['general.file_type', { type: 'uint32', value: fileTypes[fileType] }],
    ...sizes(config),
    ...tokenizer,
  ])
  writeGguf(path, metadata, tensors)
  return { tensors: counts, unfit }
}

/** What llama.cpp calls the network. Mistral's and Mixtral's are Llama's there, without a window. */
function architectureOf({ modelType, attention, contextMax }: ModelConfig): string {
  if (modelType === 'gemma3_text') return 'gemma3'
  if (modelType === 'olmo3') return 'olmo2'
  if (modelType === 'qwen3_moe') return 'qwen3moe'
  if (modelType === 'gpt_oss') return 'gpt-oss'
  if (modelType !== 'mistral' && modelType !== 'mixtral') return modelType
  if (attention.some(({ window }) => window !== undefined && window < contextMax))
    throw new UserError(`GGUF has no form for a ${modelType} that attends to a window.`, {
      fix: 'Export as safetensors instead.',
    })
  return 'llama'
}

/** Adds the tensor to `unfit` where it cannot have its type. */
function tensorOf(
  source: ExportSource,
  spec: ParameterSpec,
  type: GgufType,
  unfit: GgufTypes['unfit'],
): TensorToWrite {
  const { config } = source.model.definition
  const name = huggingFaceToGguf(architectureOf(config), spec.name)
  if (name === undefined) throw new UserError(`The tensor ${spec.name} has no name in GGUF.`)
  const perRow = spec.shape.at(-1)!
  const wanted = staysFloat(spec) || name === 'position_embd.weight' ? 'F32' : typeOf(spec, type)
  const dtype = keptDtype('F32', perRow, wanted)
  if (dtype !== wanted) unfit.push({ name, row: perRow, block: dtypes[wanted].block, wanted, type: dtype })
  const order = ggufRowPermutation(architectureOf(config), spec.name, {
    num_attention_heads: config.heads,
    num_key_value_heads: config.keyValueHeads,
    head_dim: config.headWidth,
  })
  const rowLength = order === undefined ? perRow : spec.shape.length < 2 ? 1 : perRow
  if (spec.experts !== undefined) return { name, dtype, ...expertsOf(source, spec, spec.experts, dtype) }
  return {
    name,
    dtype,
    shape: spec.shape,
    data: function* () {
      const added = ggufAdded(architectureOf(config), spec.name)
      const values = added === 0 ? source.floats(spec) : source.floats(spec).map((value) => value + added)
      const ordered = order === undefined ? values : reordered(values, order, rowLength)
      yield encodeRows(loadGgml(), ordered, dtype, values.length / perRow, perRow)
    },
  }
}

/** All experts of a product, [E, F, W], one after the other. */
function expertsOf(source: ExportSource, spec: ParameterSpec, experts: number, dtype: DType) {
  const [all, width] = spec.shape as [number, number]
  const rows = all / experts
  return {
    shape: [experts, rows, width],
    data: function* () {
      for (let row = 0; row < all; row += rows)
        yield encodeRows(loadGgml(), source.floats(spec, { row, rows }), dtype, rows, width)
    },
  }
}

/** Embedding and head keep more bits than the layers, as llama.cpp's mixtures do. */
function typeOf(spec: ParameterSpec, type: GgufType): DType {
  const outside = spec.role === 'embedding' || spec.name === 'lm_head.weight'
  return type === 'Q4_K' && outside ? 'Q6_K' : type
}

/** `order` names for each row here the row of the file. */
function reordered(values: Float32Array, order: Int32Array, rowLength: number): Float32Array {
  const out = new Float32Array(values.length)
  for (const [row, to] of order.entries())
    out.set(values.subarray(row * rowLength, (row + 1) * rowLength), to * rowLength)
  return out
}

function sizes(config: ModelConfig): [string, GgufEntry][] {
  const count = (name: string, value: number): [string, GgufEntry] => [
    `${architectureOf(config)}.${name}`,
    { type: 'uint32', value },
  ]
  const real = (name: string, value: number): [string, GgufEntry] => [
    `${architectureOf(config)}.${name}`,
    { type: 'float32', value },
  ]
  const shared = [
    count('context_length', config.contextMax),
    count('embedding_length', config.width),
    count('block_count', config.layers),
    count('feed_forward_length', config.feedForward),
    count('attention.head_count', config.heads),
    count('vocab_size', config.vocabularySize),
  ]
  if (config.modelType === 'gpt2') {
    if (!(config as Gpt2Config).bias)
      throw new UserError('GGUF has no form for a GPT-2 without biases.', {
        fix: 'Export as safetensors instead.',
      })
    return [...shared, real('attention.layer_norm_epsilon', config.normEpsilon)]
  }
  if (config.modelType === 'smollm3') refuseOtherTurns(config)
  const windowed = config.modelType === 'gemma3_text' ? gemma3Window(config) : undefined
  const { attributes, factors, long, yarn } = (windowed?.full ?? config.attention[0]!).rope!
  const rope = [
    ...(windowed === undefined ? [] : [count('attention.sliding_window', windowed.window)]),
    real('attention.layer_norm_rms_epsilon', config.normEpsilon),
    count('attention.head_count_kv', config.keyValueHeads),
    count('attention.key_length', config.headWidth),
    count('attention.value_length', config.headWidth),
    count('rope.dimension_count', attributes.dimensions),
    real('rope.freq_base', attributes.base),
    ...mixtureCounts(config as LlamaConfig).map(([name, value]) => count(name, value)),
  ]
  if (config.modelType === 'olmo3') {
    const windows = config.attention.map(({ window }) => window)
    const pattern = windows.map((window) => window !== undefined)
    rope.push(
      count('attention.sliding_window', windows.find((window) => window !== undefined) ?? config.contextMax),
      ['olmo2.attention.sliding_window_pattern', { type: 'array', items: 'bool', value: pattern }],
    )
    if (config.attention.some(({ rope }) => rope!.factors !== undefined || rope!.attributes.extFactor !== 0))
      throw new UserError('Rope scaling of this kind is not written to GGUF yet.', {
        fix: 'Export as safetensors instead.',
      })
  }
  if (config.modelType === 'gpt_oss') return [...shared, ...rope, ...gptOssSizes(config)]
  if (config.modelType.startsWith('granite')) {
    const { embedding, residual, logits } = (config as LlamaConfig).multipliers
    rope.push(
      real('embedding_scale', embedding),
      real('residual_scale', residual),
      real('attention.scale', config.attention[0]!.scale),
      real('logit_scale', logits),
    )
  }
  if (config.modelType === 'phi3') {
    const original = Number(config.source.original_max_position_embeddings ?? config.contextMax)
    rope.push(
      count('attention.sliding_window', config.attention[0]!.window ?? 0),
      count('rope.scaling.original_context_length', long?.original ?? original),
    )
    if (long !== undefined) rope.push(real('rope.scaling.attn_factor', attributes.attnFactor))
    return [...shared, ...rope]
  }
  if (long !== undefined)
    throw new UserError('LongRoPE is written to GGUF for the phi3 family only.', {
      fix: 'Export as safetensors instead.',
    })
  // Where YaRN goes over from pair to pair, divisors are all that is left of it.
  if (yarn === undefined && attributes.extFactor === 0 && attributes.scale === 1) return [...shared, ...rope]
  if (factors !== undefined || attributes.extFactor !== 0)
    throw new UserError('Rope scaling of this kind is not written to GGUF yet.', {
      fix: 'Export as safetensors instead.',
    })
  const linear: [string, GgufEntry] = [
    `${architectureOf(config)}.rope.scaling.type`,
    { type: 'string', value: 'linear' },
  ]
  return [...shared, ...rope, linear, real('rope.scaling.factor', 1 / attributes.scale)]
}

function ropeTensors(config: ModelConfig): TensorToWrite[] {
  const rope = config.attention[0]!.rope
  const tensor = (name: string, factors: Float32Array): TensorToWrite => {
    const data = new Uint8Array(factors.buffer, factors.byteOffset, factors.byteLength)
    return { name, dtype: 'F32', shape: [factors.length], data }
  }
  if (rope?.long !== undefined)
    return [tensor(longRopeName('short'), rope.long.short), tensor(longRopeName('long'), rope.long.long)]
  // llama.cpp makes YaRN's itself.
  return rope?.factors === undefined || rope.yarn !== undefined ? [] : [tensor(ropeFactorsName, rope.factors)]
}

/** llama.cpp knows which layers turn nothing. */
function refuseOtherTurns({ attention }: ModelConfig): void {
  if (attention.every(({ rope }, layer) => (rope === undefined) === (layer % 4 === 3))) return
  throw new UserError('GGUF has no form for a SmolLM3 but with every fourth layer without positions.', {
    fix: 'Export as safetensors instead.',
  })
}

/** llama.cpp knows which of Gemma's layers have a window, by what those turn, and the scale. */
function gemma3Window(config: ModelConfig): { window: number; full: LayerAttention | undefined } {
  const { attention, layers, width, heads, headWidth } = config
  const isFull = (layer: number) => layer % 6 === 5
  const scaled = layers === 62 ? width / heads : headWidth
  const [full, local] = [attention[5], attention[0]!]
  const turns = local.rope!.attributes
  const alike = attention.every((one, layer) => {
    const { window, scale } = one
    return scale === scaled ** -0.5 && window === (isFull(layer) ? undefined : local.window)
  })
  if (!alike || local.window === undefined || turns.base !== 10_000 || turns.scale !== 1)
    throw new UserError(
      'GGUF has no form for a Gemma 3 whose layers attend otherwise than the published ones.',
      {
        fix: 'Export as safetensors instead.',
      },
    )
  return { window: local.window, full }
}
