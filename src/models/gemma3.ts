/**
 * Gemma 3 (Gemma Team 2025), text: embeddings times sqrt(W), RMS norms that scale by 1 + weight, also behind attention and
 * feed-forward, GELU as the gate. Most layers attend to a window and turn by a low base; every sixth attends to all.
 *
 * N tokens, M output rows, W width, H heads, D head width, F feed-forward, V vocabulary.
 */
import type { Tensor } from '../runtime/tensor.ts'
import type { Architecture, ForwardPass, LayerAttention, ParameterSpec } from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { type LayerKind, layerKindsOf } from './layer-kinds.ts'
import {
  gateAndUp,
  headName,
  type LlamaConfig,
  llamaAttention,
  llamaParameters,
  llamaProducts,
  parseLlama,
} from './llama.ts'
import { normalised } from './plain-layers.ts'
import { parseRope } from './rope.ts'

/** What transformers takes where the file says nothing; published files leave much of it out. */
const defaults = {
  vocab_size: 262208,
  hidden_size: 2304,
  intermediate_size: 9216,
  num_hidden_layers: 26,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  head_dim: 256,
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-6,
  query_pre_attn_scalar: 256,
  sliding_window: 4096,
  sliding_window_pattern: 6,
  tie_word_embeddings: true,
}

/** Of bases of rotary angles. */
const thetas = { full_attention: 1e6, sliding_attention: 1e4 }

function parse(source: Record<string, unknown>): LlamaConfig {
  const given = Object.entries(source).filter(([, value]) => value !== null)
  const fields = new ConfigFields({ ...defaults, ...Object.fromEntries(given) })
  fields.only('hidden_activation', ['gelu_pytorch_tanh'])
  fields.only('attention_bias', [false])
  fields.only('use_bidirectional_attention', [false])
  for (const cap of ['attn_logit_softcapping', 'final_logit_softcapping']) fields.only(cap, [null])
  const multipliers = { embedding: Math.sqrt(fields.count('hidden_size')), residual: 1, logits: 1 }
  // What gates is checked above, and how layers turn is read below.
  const asLlama = {
    ...fields.source,
    hidden_act: undefined,
    rope_parameters: undefined,
    rope_scaling: undefined,
  }
  const config = parseLlama(asLlama, { headNorms: true, multipliers, source })
  const scale = fields.positive('query_pre_attn_scalar') ** -0.5
  const ropes = ropesOf(source)
  const ofKind = (kind: LayerKind, window: number | undefined): LayerAttention => {
    const rope = parseRope({ rope_parameters: ropes[kind] }, config.headWidth, config.contextMax)
    return { window, rope, scale }
  }
  const layers = {
    sliding_attention: ofKind('sliding_attention', fields.count('sliding_window')),
    full_attention: ofKind('full_attention', undefined),
  }
  const kinds = layerKindsOf(fields, config.layers, fields.count('sliding_window_pattern'))
  return { ...config, attention: kinds.map((kind) => layers[kind]) }
}

/**
 * `rope_parameters` by kind of layer, as transformers 5 writes them; older files have `rope_theta`, `rope_scaling` (of the
 * layers that attend to all) and `rope_local_base_freq`.
 */
export function ropesOf(source: Record<string, unknown>): Record<LayerKind, Record<string, unknown>> {
  const newer = (source.rope_parameters ?? {}) as { [K in LayerKind]?: Record<string, unknown> | null }
  const of = (kind: LayerKind, theta: unknown, older: unknown) => {
    const given = newer[kind] ?? (older as Record<string, unknown> | null | undefined)
    return { rope_type: 'default', rope_theta: theta ?? thetas[kind], ...given }
  }
  return {
    full_attention: of('full_attention', source.rope_theta, source.rope_scaling),
    sliding_attention: of('sliding_attention', source.rope_local_base_freq, undefined),
  }
}

/** The text part of a model that also sees: what config.json says of it, as if it stood alone. */
export function gemma3Text(config: Record<string, unknown>): Record<string, unknown> {
  const { text_config: text, eos_token_id, bos_token_id, pad_token_id, dtype, torch_dtype } = config
  if (typeof text !== 'object' || text === null)
    throw new ConfigFields(config).refuse('text_config', text, 'the configuration of the text model')
  const ids = { eos_token_id, bos_token_id, pad_token_id, dtype: dtype ?? torch_dtype }
  const known = Object.entries(ids).filter(([, value]) => value !== undefined)
  const own = { ...Object.fromEntries(known), ...text }
  return { ...own, model_type: 'gemma3_text', architectures: ['Gemma3ForCausalLM'] }
}

function parameters(config: LlamaConfig): ParameterSpec[] {
  const specs = llamaParameters(config).map(
    (spec): ParameterSpec => (spec.role === 'vector' ? { ...spec, init: { value: 0 } } : spec),
  )
  const norms = config.attention.flatMap((_, layer) =>
    ['pre', 'post'].map((where): ParameterSpec => {
      const name = `model.layers.${layer}.${where}_feedforward_layernorm.weight`
      return { name, shape: [config.width], role: 'vector', init: { value: 0 } }
    }),
  )
  return [...specs, ...norms]
}

function forward(config: LlamaConfig, pass: ForwardPass): Tensor {
  const { ops, outputRows } = pass
  const scaleOf = (name: string) => ops.affine(pass.weight(name), 1, 1)
  const norm = (name: string) => ({ weight: scaleOf(`${name}.weight`), epsilon: config.normEpsilon })
  const embedded = pass.embed(pass.tokens, 'model.embed_tokens')
  let x: Tensor = ops.scale(embedded, config.multipliers.embedding) //                        [N, W]
  for (let i = 0; i < config.layers; i++) {
    const layer = `model.layers.${i}`
    let mixed = llamaAttention(config, pass, i, x, norm(`${layer}.input_layernorm`), scaleOf) // [N, H*D]
    if (i === config.layers - 1 && outputRows !== undefined) {
      // Nothing after the last attention looks at other rows: drop those whose logits nobody asked for.
      mixed = ops.rows(mixed, outputRows) //                                                  [M, H*D]
      x = ops.rows(x, outputRows)
    }
    const attended = pass.linear(mixed, `${layer}.self_attn.o_proj`)
    x = ops.add(x, normalised(ops, attended, norm(`${layer}.post_attention_layernorm`)))
    const [gate, up] = gateAndUp(layer)
    const down = `${layer}.mlp.down_proj`
    const before = norm(`${layer}.pre_feedforward_layernorm`)
    const gated = pass.gated(x, gate, up, 'gelu', { norm: before, reader: down }) // [M, F]
    const fed = pass.linear(gated, down)
    x = ops.add(x, normalised(ops, fed, norm(`${layer}.post_feedforward_layernorm`)))
  }
  return pass.linear(x, headName(config), { norm: norm('model.norm') }) //                     [M, V]
}

export const gemma3: Architecture<LlamaConfig> = {
  modelType: 'gemma3_text',
  parse,
  parameters,
  products: llamaProducts,
  forward,
}
