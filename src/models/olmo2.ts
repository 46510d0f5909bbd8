/**
 * OLMo 2 (Walsh 2024): Llama's network with norms behind attention and feed-forward instead of before them, and RMS norms over all
 * heads of q together, and of k.
 *
 * N tokens, M output rows, W width, H heads, G key/value heads, D head width, F feed-forward, V vocabulary.
 */
import type { Tensor } from '../runtime/tensor.ts'
import type { Architecture, ForwardPass, ParameterSpec } from './architecture.ts'
import {
  attendTurned,
  gateAndUp,
  headName,
  type LlamaConfig,
  llamaParameters,
  llamaProducts,
  parseLlama,
  queryKeyValueNames,
} from './llama.ts'
import { normalised } from './plain-layers.ts'

function parameters(config: LlamaConfig): ParameterSpec[] {
  const { heads, keyValueHeads, headWidth, width } = config
  const norm = (name: string, length: number): ParameterSpec => ({
    name: `${name}.weight`,
    shape: [length],
    role: 'vector',
    init: { value: 1 },
  })
  return llamaParameters(config).flatMap((spec) => {
    const layer = /^(.*)\.input_layernorm\.weight$/.exec(spec.name)?.[1]
    if (layer === undefined) return [spec]
    return [
      norm(`${layer}.self_attn.q_norm`, heads * headWidth),
      norm(`${layer}.self_attn.k_norm`, keyValueHeads * headWidth),
      norm(`${layer}.post_feedforward_layernorm`, width),
    ]
  })
}

function forward(config: LlamaConfig, pass: ForwardPass): Tensor {
  const { ops, outputRows } = pass
  const norm = (name: string) => ({ weight: pass.weight(`${name}.weight`), epsilon: config.normEpsilon })
  const normed = (y: Tensor, name: string) => normalised(ops, y, norm(name))
  let x: Tensor = pass.embed(pass.tokens, 'model.embed_tokens') //                          [N, W]
  for (let i = 0; i < config.layers; i++) {
    const layer = `model.layers.${i}`
    const [q, k, v] = pass.joined(x, queryKeyValueNames(i)) as [Tensor, Tensor, Tensor]
    const [query, key] = [normed(q, `${layer}.self_attn.q_norm`), normed(k, `${layer}.self_attn.k_norm`)]
    let mixed = attendTurned(config, pass, i, [query, key, v]) //                             [N, H*D]
    if (i === config.layers - 1 && outputRows !== undefined) {
      // Nothing after the last attention looks at other rows: drop those whose logits nobody asked for.
      mixed = ops.rows(mixed, outputRows) //                                                  [M, H*D]
      x = ops.rows(x, outputRows)
    }
    const attended = pass.linear(mixed, `${layer}.self_attn.o_proj`)
    x = ops.add(x, normed(attended, `${layer}.post_attention_layernorm`)) //                  [M, W]
    const down = `${layer}.mlp.down_proj`
    const gated = pass.gated(x, ...gateAndUp(layer), 'silu', { reader: down }) //                     [M, F]
    x = ops.add(x, normed(pass.linear(gated, down), `${layer}.post_feedforward_layernorm`))
  }
  return pass.linear(x, headName(config), { norm: norm('model.norm') }) //                     [M, V]
}

export const olmo2: Architecture<LlamaConfig> = {
  modelType: 'olmo2',
  parse: (source, context) => parseLlama({ rms_norm_eps: 1e-5, ...source }, { source }, context),
  parameters,
  products: llamaProducts,
  forward,
}
