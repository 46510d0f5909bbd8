/**
 * Llama (Touvron 2023): RMS norms before attention and feed-forward, rotary positions, grouped key/value
 * heads, gated SiLU. Qwen2, Qwen3, Mistral, Phi-3 and Granite are the same network with other switches and stand on this file.
 *
 * N tokens, M output rows, W width, H heads, G key/value heads, D head width, F feed-forward, V vocabulary.
 */
import type { Tensor } from '../runtime/tensor.ts'
import {
  type Architecture,
  type ForwardPass,
  type HeadNorms,
  type InputNorm,
  type ModelConfig,
  type ParameterSpec,
  type ProductGroup,
  residualStd,
} from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { type LayerMixtures, mixtureNames, mixtureParameters, mixtureProduct } from './mixture.ts'
import { normalised } from './plain-layers.ts'
import { parseRope } from './rope.ts'

export interface LlamaConfig extends ModelConfig {
  /** Biases on q, k and v (Qwen2), and on the output projection too (Llama's attention_bias). */
  attentionBias: 'none' | 'qkv' | 'all'
  mlpBias: boolean
  /** RMS norms of every head of q and k (Qwen3). */
  headNorms: boolean
  /** RMS norms of all heads of q together, and of k (OLMoE). */
  wholeNorms: boolean
  /** q, k and v are one product, and gate and up another (Phi-3). */
  fused: boolean
  /** Heads have scores of their own beside those of every row (gpt-oss). */
  sinks: boolean
  multipliers: Multipliers
  /** Of experts, in the layers that have one instead of a feed-forward. */
  mixture: LayerMixtures | undefined
}

/** Numbers beside the weights (Granite); 1 in other networks. */
export interface Multipliers {
  /** Of the embedding. */
  embedding: number
  /** Of what attention and feed-forward add to the residual. */
  residual: number
  /** Logits are divided by it. */
  logits: number
}

const ones: Multipliers = { embedding: 1, residual: 1, logits: 1 }

/** What an architecture of this network fixes or reads on its own. */
type Switches = Partial<
  Pick<
    LlamaConfig,
    'attentionBias' | 'headNorms' | 'wholeNorms' | 'source' | 'fused' | 'sinks' | 'multipliers' | 'mixture'
  >
> & {
  window?: number
  /** Multiplies the scores of attention. */
  scale?: number
}

export function parseLlama(
  source: Record<string, unknown>,
  { window, scale, ...switches }: Switches = {},
  context?: number,
): LlamaConfig {
  const fields = new ConfigFields(source)
  fields.only('hidden_act', ['silu'])
  const width = fields.count('hidden_size')
  const heads = fields.count('num_attention_heads')
  const keyValueHeads = fields.count('num_key_value_heads', heads)
  const headWidth = fields.headWidth('head_dim', width / heads)
  if (heads % keyValueHeads !== 0)
    throw fields.refuse('num_key_value_heads', keyValueHeads, 'a divisor of num_attention_heads')
  const layers = fields.layers('num_hidden_layers')
  const contextMax = fields.count('max_position_embeddings', 2048)
  const rope = parseRope(source, headWidth, contextMax, context)
  return {
    modelType: String(source.model_type),
    vocabularySize: fields.count('vocab_size'),
    width,
    layers,
    heads,
    keyValueHeads,
    headWidth,
    feedForward: fields.count('intermediate_size'),
    contextMax,
    normEpsilon: fields.positive('rms_norm_eps', 1e-6),
    tied: fields.flag('tie_word_embeddings', false),
    attention: Array(layers).fill({ window, rope, scale: scale ?? 1 / Math.sqrt(headWidth) }),
    attentionBias: fields.flag('attention_bias', false) ? 'all' : 'none',
    mlpBias: fields.flag('mlp_bias', false),
    headNorms: false,
    wholeNorms: false,
    fused: false,
    sinks: false,
    multipliers: ones,
    mixture: undefined,
    source,
    ...switches,
  }
}

export function llamaParameters(config: LlamaConfig): ParameterSpec[] {
  const { width, heads, keyValueHeads, headWidth, feedForward, vocabularySize, layers } = config
  const std = typeof config.source.initializer_range === 'number' ? config.source.initializer_range : 0.02
  const residual = residualStd(std, layers)
  const product = (name: string, outputs: number, inputs: number, spread = std): ParameterSpec => ({
    name: `${name}.weight`,
    shape: [outputs, inputs],
    role: 'product',
    init: { std: spread },
  })
  const vector = (name: string, length: number, value: number): ParameterSpec => ({
    name,
    shape: [length],
    role: 'vector',
    init: { value },
  })
  const specs: ParameterSpec[] = [
    { name: 'model.embed_tokens.weight', shape: [vocabularySize, width], role: 'embedding', init: { std } },
  ]
  for (let i = 0; i < layers; i++) {
    const layer = `model.layers.${i}`
    const attention = `${layer}.self_attn`
    const queryKeyValue = config.fused
      ? [product(`${attention}.qkv_proj`, (heads + 2 * keyValueHeads) * headWidth, width)]
      : [
          product(`${attention}.q_proj`, heads * headWidth, width),
          product(`${attention}.k_proj`, keyValueHeads * headWidth, width),
          product(`${attention}.v_proj`, keyValueHeads * headWidth, width),
        ]
    const mixture = mixtureIn(config, i)
    const gateUp = config.fused
      ? [product(`${layer}.mlp.gate_up_proj`, 2 * feedForward, width)]
      : [
          product(`${layer}.mlp.gate_proj`, feedForward, width),
          product(`${layer}.mlp.up_proj`, feedForward, width),
        ]
    const fed =
      mixture === undefined
        ? [...gateUp, product(`${layer}.mlp.down_proj`, width, feedForward, residual)]
        : mixtureParameters(mixture, layer, width, { std, residual })
    specs.push(
      vector(`${layer}.input_layernorm.weight`, width, 1),
      ...queryKeyValue,
      product(`${attention}.o_proj`, width, heads * headWidth, residual),
      vector(`${layer}.post_attention_layernorm.weight`, width, 1),
      ...fed,
    )
    if (config.wholeNorms) {
      specs.push(
        vector(`${attention}.q_norm.weight`, heads * headWidth, 1),
        vector(`${attention}.k_norm.weight`, keyValueHeads * headWidth, 1),
      )
    }
    if (config.headNorms) {
      specs.push(
        vector(`${attention}.q_norm.weight`, headWidth, 1),
        vector(`${attention}.k_norm.weight`, headWidth, 1),
      )
    }
    if (config.attentionBias !== 'none') {
      specs.push(
        vector(`${attention}.q_proj.bias`, heads * headWidth, 0),
        vector(`${attention}.k_proj.bias`, keyValueHeads * headWidth, 0),
        vector(`${attention}.v_proj.bias`, keyValueHeads * headWidth, 0),
      )
    }
    if (config.sinks) specs.push({ name: sinksName(i), shape: [heads], role: 'vector', init: { std } })
    if (config.attentionBias === 'all') specs.push(vector(`${attention}.o_proj.bias`, width, 0))
    if (config.mlpBias) {
      specs.push(
        vector(`${layer}.mlp.gate_proj.bias`, feedForward, 0),
        vector(`${layer}.mlp.up_proj.bias`, feedForward, 0),
        vector(`${layer}.mlp.down_proj.bias`, width, 0),
      )
    }
  }
  specs.push(vector('model.norm.weight', width, 1))
  if (!config.tied) specs.push(product('lm_head', vocabularySize, width))
  return specs
}

/**
 * A factor r of all that is added to the residual costs nothing: the sum is kept divided by r, and a norm does not see that when
 * its epsilon is divided by r². What divides logits is part of the last norm's weight.
 */
export function llamaForward(config: LlamaConfig, pass: ForwardPass): Tensor {
  const { ops, outputRows } = pass
  const { multipliers } = config
  const epsilon = config.normEpsilon / multipliers.residual ** 2
  const scaled = (y: Tensor, factor: number) => (factor === 1 ? y : ops.scale(y, factor))
  const norm = (name: string) => ({ weight: pass.weight(name), epsilon })
  const embedded = pass.embed(pass.tokens, 'model.embed_tokens')
  let x: Tensor = scaled(embedded, multipliers.embedding / multipliers.residual) //           [N, W]
  for (let i = 0; i < config.layers; i++) {
    const layer = `model.layers.${i}`
    let mixed = llamaAttention(config, pass, i, x, norm(`${layer}.input_layernorm.weight`)) // [N, H*D]
    if (i === config.layers - 1 && outputRows !== undefined) {
      // Nothing after the last attention looks at other rows: drop those whose logits nobody asked for.
      mixed = ops.rows(mixed, outputRows) //                                                  [M, H*D]
      x = ops.rows(x, outputRows)
    }
    x = pass.linear(mixed, `${layer}.self_attn.o_proj`, { residual: x })
    x = fed(config, pass, i, x, norm(`${layer}.post_attention_layernorm.weight`)) //      [M, W]
  }
  const last = { weight: scaled(pass.weight('model.norm.weight'), 1 / multipliers.logits), epsilon }
  return pass.linear(x, headName(config), { norm: last }) //                                   [M, V]
}

/** x plus what the feed-forward of that layer makes of it. */
function fed(config: LlamaConfig, pass: ForwardPass, index: number, x: Tensor, norm: InputNorm): Tensor {
  const layer = `model.layers.${index}`
  const mixture = mixtureIn(config, index)
  if (mixture !== undefined) return pass.mixed(x, mixtureNames(layer), mixture, norm, x)
  const gated = gate(config, pass, layer, x, norm) //                                          [M, F]
  return pass.linear(gated, `${layer}.mlp.down_proj`, { residual: x })
}

/** The mixture that the layer of that number has instead of a feed-forward. */
function mixtureIn({ mixture }: LlamaConfig, layer: number): LayerMixtures | undefined {
  return mixture?.isIn(layer) ? mixture : undefined
}

function gate(config: LlamaConfig, pass: ForwardPass, layer: string, x: Tensor, norm: InputNorm): Tensor {
  if (config.fused) return pass.gatedHalves(x, `${layer}.mlp.gate_up_proj`, norm)
  const [gate, up] = gateAndUp(layer)
  return pass.gated(x, gate, up, 'silu', { norm, reader: `${layer}.mlp.down_proj` })
}

/** q [N, H*D], k and v [N, G*D]. */
function queryKeyValue(config: LlamaConfig, pass: ForwardPass, layer: number, x: Tensor, norm: InputNorm) {
  if (!config.fused) return pass.joined(x, queryKeyValueNames(layer), norm) as [Tensor, Tensor, Tensor]
  const { heads, keyValueHeads, headWidth } = config
  const all = pass.linear(x, `model.layers.${layer}.self_attn.qkv_proj`, { norm }) //      [N, (H+2G)*D]
  const part = (first: number, count: number) => pass.ops.slice(all, 1, first * headWidth, count * headWidth)
  return [part(0, heads), part(heads, keyValueHeads), part(heads + keyValueHeads, keyValueHeads)] as const
}

/** `scaleOf`: what the norms of heads multiply by, by their names. */
export function llamaAttention(
  config: LlamaConfig,
  pass: ForwardPass,
  layer: number,
  x: Tensor,
  norm: InputNorm,
  scaleOf = pass.weight,
): Tensor {
  const all = queryKeyValue(config, pass, layer, x, norm)
  const norms = config.headNorms || config.wholeNorms ? headNorms(config, scaleOf, layer) : undefined
  if (norms === undefined || config.headNorms) return attendTurned(config, pass, layer, all, norms)
  const { query, key, epsilon } = norms
  const whole = (y: Tensor, weight: Tensor) => normalised(pass.ops, y, { weight, epsilon })
  return attendTurned(config, pass, layer, [whole(all[0], query), whole(all[1], key), all[2]])
}

/** Attention of queries [N, H*D], keys and values [N, G*D], which are turned by their positions first. */
export function attendTurned(
  config: LlamaConfig,
  pass: ForwardPass,
  layer: number,
  [q, k, v]: readonly [Tensor, Tensor, Tensor],
  norms?: HeadNorms,
): Tensor {
  const { ops, positions } = pass
  const { heads, keyValueHeads, headWidth, normEpsilon } = config
  const { rope } = config.attention[layer]!
  const factors = rope?.factors && pass.weight('rope_factors')
  const split = (y: Tensor, count: number) => ops.splitRows(y, count, headWidth)
  const [query, key] = [split(q, heads), split(k, keyValueHeads)] //                [N, H, D], [N, G, D]
  const values = split(v, keyValueHeads) //                                                    [N, G, D]
  const sinks = config.sinks ? pass.weight(sinksName(layer)) : undefined
  if (pass.attendTurns) return pass.attend(layer, query, key, values, norms, sinks)
  const turned = (y: Tensor, weight: Tensor | undefined) => {
    const normed = normalised(ops, y, weight && { weight, epsilon: normEpsilon })
    return rope === undefined ? normed : ops.rope(normed, positions, rope.attributes, factors)
  }
  return pass.attend(layer, turned(query, norms?.query), turned(key, norms?.key), values, undefined, sinks)
}

function headNorms(
  { normEpsilon }: LlamaConfig,
  scaleOf: (name: string) => Tensor,
  layer: number,
): HeadNorms {
  const weight = (part: 'q' | 'k') => scaleOf(`model.layers.${layer}.self_attn.${part}_norm.weight`)
  return { query: weight('q'), key: weight('k'), epsilon: normEpsilon }
}

const sinksName = (layer: number) => `model.layers.${layer}.self_attn.sinks`
export const queryKeyValueNames = (layer: number) =>
  ['q', 'k', 'v'].map((part) => `model.layers.${layer}.self_attn.${part}_proj`)
export const gateAndUp = (layer: string) => [`${layer}.mlp.gate_proj`, `${layer}.mlp.up_proj`] as const
export const headName = (config: LlamaConfig) => (config.tied ? 'model.embed_tokens' : 'lm_head')

export function llamaProducts(config: LlamaConfig): ProductGroup[] {
  const groups: ProductGroup[] = []
  for (let i = 0; i < config.layers; i++) {
    const layer = `model.layers.${i}`
    const mixture = mixtureIn(config, i)
    const fed: ProductGroup[] = [
      { kind: 'gated', names: config.fused ? [`${layer}.mlp.gate_up_proj`] : gateAndUp(layer) },
      { kind: 'single', names: [`${layer}.mlp.down_proj`] },
    ]
    groups.push(
      config.fused
        ? { kind: 'single', names: [`${layer}.self_attn.qkv_proj`] }
        : { kind: 'joined', names: queryKeyValueNames(i) },
      { kind: 'single', names: [`${layer}.self_attn.o_proj`] },
      ...(mixture === undefined ? fed : [mixtureProduct(mixture, layer)]),
    )
  }
  return [...groups, { kind: 'single', names: [headName(config)] }]
}

export const llama: Architecture<LlamaConfig> = {
  modelType: 'llama',
  parse: (source, context) => parseLlama(source, {}, context),
  parameters: llamaParameters,
  products: llamaProducts,
  forward: llamaForward,
}
