import { UserError } from '../base/errors.ts'
import { dequantize } from './convert.ts'
import type { GgufSource } from './gguf.ts'
import type { GgufValue } from './gguf-values.ts'

/**
 * Frequency divisors of the rotary embedding, one per pair of dimensions. Hugging Face has no such tensor:
 * there the config computes them, so here they are turned back into `rope_scaling`.
 */
export const ropeFactorsName = 'rope_freqs.weight'

/** LongRoPE's divisors for contexts of the first training, and for longer ones. */
export const longRopeName = (which: string) => `rope_factors_${which}.weight`

/** No model's heads come near this width. */
export const headWidthMax = 65536

/** What of a GGUF model the config is read from. */
export type GgufDescription = Pick<GgufSource, 'path' | 'metadata' | 'info' | 'read'>

/** Hugging Face's names for GGUF architectures, and what those configs say that GGUF does not. */
const families: Readonly<
  Record<string, { model_type: string; class: string; fixed: Record<string, unknown> }>
> = {
  llama: { model_type: 'llama', class: 'LlamaForCausalLM', fixed: { hidden_act: 'silu' } },
  mistral: { model_type: 'mistral', class: 'MistralForCausalLM', fixed: { hidden_act: 'silu' } },
  qwen2: { model_type: 'qwen2', class: 'Qwen2ForCausalLM', fixed: { hidden_act: 'silu' } },
  qwen3: { model_type: 'qwen3', class: 'Qwen3ForCausalLM', fixed: { hidden_act: 'silu' } },
  qwen3moe: {
    model_type: 'qwen3_moe',
    class: 'Qwen3MoeForCausalLM',
    fixed: { hidden_act: 'silu', norm_topk_prob: true },
  },
  mixtral: { model_type: 'mixtral', class: 'MixtralForCausalLM', fixed: { hidden_act: 'silu' } },
  olmoe: {
    model_type: 'olmoe',
    class: 'OlmoeForCausalLM',
    fixed: { hidden_act: 'silu', norm_topk_prob: false },
  },
  granitemoe: { model_type: 'granitemoe', class: 'GraniteMoeForCausalLM', fixed: { hidden_act: 'silu' } },
  'gpt-oss': { model_type: 'gpt_oss', class: 'GptOssForCausalLM', fixed: { hidden_act: 'silu' } },
  granite: { model_type: 'granite', class: 'GraniteForCausalLM', fixed: { hidden_act: 'silu' } },
  olmo3: { model_type: 'olmo3', class: 'Olmo3ForCausalLM', fixed: { hidden_act: 'silu' } },
  olmo2: { model_type: 'olmo2', class: 'Olmo2ForCausalLM', fixed: { hidden_act: 'silu' } },
  phi3: { model_type: 'phi3', class: 'Phi3ForCausalLM', fixed: { hidden_act: 'silu' } },
  gemma3: {
    model_type: 'gemma3_text',
    class: 'Gemma3ForCausalLM',
    fixed: {
      hidden_activation: 'gelu_pytorch_tanh',
      sliding_window_pattern: 6,
    },
  },
  smollm3: {
    model_type: 'smollm3',
    class: 'SmolLM3ForCausalLM',
    fixed: { hidden_act: 'silu', no_rope_layer_interval: 4 },
  },
  gpt2: { model_type: 'gpt2', class: 'GPT2LMHeadModel', fixed: { activation_function: 'gelu_new' } },
}

/**
 * The config.json that Hugging Face would have for this GGUF model. Throws UserError for an architecture
 * that is not known here and for a key that is missing or of the wrong kind.
 */
export function configFromGguf(source: GgufDescription): Record<string, unknown> {
  const keys = new MetadataKeys(source)
  const name = nameOf(keys)
  const family = Object.hasOwn(families, name) ? families[name] : undefined
  if (family === undefined)
    throw new UserError(`${source.path}: the architecture ${keys.architecture} is not supported`, {
      fix: `Use a model of one of: ${Object.keys(families).join(', ')}.`,
    })
  const shape = keys.architecture === 'gpt2' ? gpt2Shape(keys) : decoderShape(keys)
  const config = {
    architectures: [family.class],
    model_type: family.model_type,
    ...family.fixed,
    ...shape,
    vocab_size: vocabularySize(source, keys),
    tie_word_embeddings: source.info('output.weight') === undefined,
    bos_token_id: keys.number('tokenizer.ggml.bos_token_id'),
    eos_token_id: endIds(keys),
    pad_token_id: keys.number('tokenizer.ggml.padding_token_id'),
  }
  return Object.fromEntries(Object.entries(config).filter(([, value]) => value !== undefined))
}

/** OLMo 3 has the name of OLMo 2 there, and windows; Mixtral has Llama's, and experts. */
function nameOf(keys: MetadataKeys): string {
  const { architecture } = keys
  if (architecture === 'olmo2' && keys.own('attention.sliding_window') !== undefined) return 'olmo3'
  if (architecture === 'llama' && (keys.own('expert_count') ?? 0) > 0) return 'mixtral'
  return architecture
}

class MetadataKeys {
  readonly source: GgufDescription
  readonly architecture: string

  constructor(source: GgufDescription) {
    this.source = source
    const architecture = source.metadata.get('general.architecture')
    if (typeof architecture !== 'string') throw this.#wrong('general.architecture', architecture)
    this.architecture = architecture
  }

  /** The number under `key`; one list of equal numbers (one per layer) counts as that number. */
  number(key: string): number | undefined {
    const value = this.source.metadata.get(key)
    if (value === undefined) return undefined
    const first = Array.isArray(value) ? value[0] : value
    if (typeof first !== 'number' || (Array.isArray(value) && value.some((other) => other !== first)))
      throw this.#wrong(key, value)
    return shortest(first)
  }

  /** As {@link number}, for a key of this architecture. */
  own(key: string): number | undefined {
    return this.number(`${this.architecture}.${key}`)
  }

  needed(key: string): number {
    const value = this.own(key)
    if (value === undefined) throw this.#wrong(`${this.architecture}.${key}`, undefined)
    return value
  }

  text(key: string): string | undefined {
    const value = this.source.metadata.get(`${this.architecture}.${key}`)
    return typeof value === 'string' ? value : undefined
  }

  has(tensor: string): boolean {
    return this.source.info(tensor) !== undefined
  }

  #wrong(key: string, value: GgufValue | undefined): UserError {
    const why = value === undefined ? 'is missing' : `is ${JSON.stringify(value, bigintAsText).slice(0, 80)}`
    return new UserError(`${this.source.path}: metadata ${key} ${why}`, {
      fix: 'The file does not describe a model that Ropeway can run. Convert it again with a current converter.',
    })
  }
}

function bigintAsText(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? String(value) : value
}

/** The shortest decimal that is the same 32-bit float: 1e-5 was stored as 0.000009999999747378752. */
function shortest(value: number): number {
  if (Number.isInteger(value) || Math.fround(value) !== value) return value
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits))
    if (Math.fround(short) === value) return short
  }
  return value
}

function decoderShape(keys: MetadataKeys): Record<string, unknown> {
  const hidden = keys.needed('embedding_length')
  const heads = keys.needed('attention.head_count')
  const width = keys.own('attention.key_length') ?? hidden / heads
  const layers = keys.needed('block_count')
  return {
    hidden_size: hidden,
    intermediate_size: keys.needed('feed_forward_length'),
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: keys.own('attention.head_count_kv') ?? heads,
    head_dim: width,
    max_position_embeddings: keys.needed('context_length'),
    rms_norm_eps: keys.needed('attention.layer_norm_rms_epsilon'),
    rope_theta: keys.own('rope.freq_base') ?? (keys.architecture === 'gemma3' ? 1_000_000 : 10_000),
    ...(keys.architecture === 'phi3'
      ? phi3Rope(keys, width)
      : { rope_scaling: ropeScaling(keys, width) ?? unscaled(keys) }),
    attention_bias: keys.has('blk.0.attn_q.bias'),
    mlp_bias: keys.has('blk.0.ffn_gate.bias'),
    ...mixture(keys),
    ...(keys.architecture.startsWith('granite') && {
      embedding_multiplier: keys.own('embedding_scale') ?? 1,
      residual_multiplier: keys.own('residual_scale') ?? 1,
      attention_multiplier: keys.own('attention.scale') ?? 1 / Math.sqrt(width),
      logits_scaling: keys.own('logit_scale') ?? 1,
    }),
    ...slidingWindow(keys, hidden, heads, width, layers),
  }
}

/** Of experts, where the file has some. Their width is a key of its own in some families, and that of layers without in others. */
function mixture(keys: MetadataKeys): Record<string, unknown> {
  const experts = keys.own('expert_count') ?? 0
  if (experts === 0) return {}
  const used = keys.needed('expert_used_count')
  const shared = { num_experts_per_tok: used }
  if (keys.architecture === 'olmoe') return { ...shared, num_experts: experts }
  if (keys.architecture === 'gpt-oss') {
    const width = keys.own('expert_feed_forward_length') ?? keys.needed('feed_forward_length')
    return { ...shared, num_local_experts: experts, intermediate_size: width }
  }
  if (keys.architecture !== 'qwen3moe') return { ...shared, num_local_experts: experts }
  const width = keys.own('expert_feed_forward_length') ?? keys.needed('feed_forward_length') / used
  return { ...shared, num_experts: experts, moe_intermediate_size: width }
}

function slidingWindow(
  keys: MetadataKeys,
  hidden: number,
  heads: number,
  width: number,
  layers: number,
): Record<string, unknown> {
  const window = keys.own('attention.sliding_window')
  if (keys.architecture === 'mistral') return { sliding_window: window ?? null }
  // By 0, Phi-4's files say that it has none.
  if (keys.architecture === 'phi3') return { sliding_window: window || null }
  if (keys.architecture === 'olmo2' && window !== undefined) return { sliding_window: window, ...kinds(keys) }
  if (keys.architecture !== 'gemma3') return window === undefined ? {} : { sliding_window: window }
  // Only the 27B model (62 layers) scales queries by the nominal head width instead of the real one.
  return {
    sliding_window: window,
    query_pre_attn_scalar: layers === 62 ? hidden / heads : width,
    rope_local_base_freq: keys.own('rope.freq_base_swa') ?? 10_000,
  }
}

/** Which layers attend to the window, where the file says so. */
function kinds(keys: MetadataKeys): Record<string, unknown> {
  const pattern = keys.source.metadata.get(`${keys.architecture}.attention.sliding_window_pattern`)
  if (!Array.isArray(pattern)) return {}
  return { layer_types: pattern.map((inWindow) => (inWindow ? 'sliding_attention' : 'full_attention')) }
}

function gpt2Shape(keys: MetadataKeys): Record<string, unknown> {
  const context = keys.needed('context_length')
  return {
    n_embd: keys.needed('embedding_length'),
    n_inner: keys.needed('feed_forward_length'),
    n_layer: keys.needed('block_count'),
    n_head: keys.needed('attention.head_count'),
    n_positions: context,
    n_ctx: context,
    layer_norm_epsilon: keys.needed('attention.layer_norm_epsilon'),
  }
}

/** Rows of the embedding matrix, which may be padded beyond the tokenizer's vocabulary. */
function vocabularySize(source: GgufDescription, keys: MetadataKeys): number | undefined {
  const rows = source.info('token_embd.weight')?.shape[0]
  const tokens = source.metadata.get('tokenizer.ggml.tokens')
  return rows ?? (Array.isArray(tokens) ? tokens.length : keys.own('vocab_size'))
}

/** The end of a text and, where chat models have another one, the end of a turn. */
function endIds(keys: MetadataKeys): number | number[] | undefined {
  const text = keys.number('tokenizer.ggml.eos_token_id')
  const turn = keys.number('tokenizer.ggml.eot_token_id')
  return text !== undefined && turn !== undefined && turn !== text ? [text, turn] : (text ?? turn)
}

/** gpt-oss scales positions unless its configuration says that it does not. */
function unscaled(keys: MetadataKeys): Record<string, unknown> | undefined {
  return keys.architecture === 'gpt-oss' ? { rope_type: 'default' } : undefined
}

function ropeScaling(keys: MetadataKeys, width: number): Record<string, unknown> | undefined {
  const factors = ropeFactors(keys.source, width)
  if (factors !== undefined) return scalingByFactors(keys, factors, width)
  const type = keys.text('rope.scaling.type')
  const factor = keys.own('rope.scaling.factor') ?? keys.own('rope.scale_linear')
  const original = keys.own('rope.scaling.original_context_length')
  if (factor === undefined || type === 'none') return undefined
  if (type === undefined || type === 'linear')
    return factor === 1 ? undefined : { rope_type: 'linear', factor }
  if (type !== 'yarn')
    throw new UserError(`${keys.source.path}: the rope scaling "${type}" is not supported`, {
      fix: 'Ropeway reads linear and yarn scaling, and rope_freqs.weight.',
    })
  const yarn = {
    rope_type: 'yarn',
    factor,
    original_max_position_embeddings: original,
    attention_factor: keys.own('rope.scaling.attn_factor'),
    beta_fast: keys.own('rope.scaling.yarn_beta_fast'),
    beta_slow: keys.own('rope.scaling.yarn_beta_slow'),
    // GGUF has no word for it; the published models are so.
    ...(keys.architecture === 'gpt-oss' && { truncate: false }),
  }
  return Object.fromEntries(Object.entries(yarn).filter(([, value]) => value !== undefined))
}

/** Only the first part of a head turns in some; LongRoPE's divisors are two tensors beside the layers. */
function phi3Rope(keys: MetadataKeys, width: number): Record<string, unknown> {
  const dimensions = keys.own('rope.dimension_count') ?? width
  const [short, long] = ['short', 'long'].map((which) =>
    ropeFactors(keys.source, dimensions, longRopeName(which)),
  )
  return {
    partial_rotary_factor: dimensions / width,
    original_max_position_embeddings: keys.own('rope.scaling.original_context_length'),
    ...(short !== undefined &&
      long !== undefined && {
        rope_scaling: {
          rope_type: 'longrope',
          short_factor: Array.from(short, shortest),
          long_factor: Array.from(long, shortest),
          attention_factor: keys.own('rope.scaling.attn_factor') ?? null,
        },
      }),
  }
}

function ropeFactors(
  source: GgufDescription,
  dimensions: number,
  name = ropeFactorsName,
): Float32Array | undefined {
  const info = source.info(name)
  if (info === undefined) return undefined
  if (info.dtype !== 'F32' || info.bytes !== (dimensions / 2) * 4 || dimensions > headWidthMax)
    throw new UserError(
      `${source.path}: ${name} is ${info.dtype} [${info.shape}], not F32 [${dimensions / 2}]`,
    )
  const bytes = new Uint8Array(info.bytes)
  source.read(name, bytes)
  return dequantize(info.dtype, bytes)
}

/** Llama 3.1's published constants; the factor itself (8, or 32 in the small 3.2 models) is the largest divisor. */
const llama3 = { low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 }

/**
 * The rope_scaling that gives these divisors: Llama 3's formula where it reproduces them, else the divisors
 * themselves as a `longrope` whose short and long factors agree.
 */
function scalingByFactors(keys: MetadataKeys, factors: Float32Array, width: number): Record<string, unknown> {
  const factor = Math.max(...factors)
  const theta = keys.own('rope.freq_base') ?? 10_000
  const expected = llama3Factors(factor, theta, width)
  const same =
    expected.length === factors.length && expected.every((f, i) => Math.abs(f / factors[i]! - 1) < 1e-3)
  if (same) return { rope_type: 'llama3', factor, ...llama3 }
  return {
    rope_type: 'longrope',
    short_factor: [...factors],
    long_factor: [...factors],
    attention_factor: 1,
    original_max_position_embeddings: keys.needed('context_length'),
  }
}

function llama3Factors(factor: number, theta: number, width: number): number[] {
  const { low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: original } = llama3
  return Array.from({ length: width / 2 }, (_, i) => {
    const turns = original / (2 * Math.PI * theta ** ((2 * i) / width))
    const smooth = Math.min(1, Math.max(0, (turns - low) / (high - low)))
    return 1 / ((1 - smooth) / factor + smooth)
  })
}
