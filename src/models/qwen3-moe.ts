/** Qwen3 with mixtures of experts (Yang 2025): in every layer of its files, in some where a configuration says so. */
import type { Architecture } from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { type LlamaConfig, llamaForward, llamaParameters, llamaProducts, parseLlama } from './llama.ts'
import { fileOfEach, type LayerMixtures, parseExperts } from './mixture.ts'

export const expertFiles = fileOfEach('mlp', 'gate', { gate: 'gate_proj', up: 'up_proj', down: 'down_proj' })

function mixtureOf(fields: ConfigFields): LayerMixtures {
  const step = fields.count('decoder_sparse_step', 1)
  const dense = fields.source.mlp_only_layers ?? []
  if (!Array.isArray(dense) || !dense.every(Number.isInteger))
    throw fields.refuse('mlp_only_layers', dense, 'a list of layers')
  return {
    ...parseExperts(fields),
    normalised: fields.flag('norm_topk_prob', false),
    feedForward: fields.count('moe_intermediate_size'),
    isIn: (layer) => !dense.includes(layer) && (layer + 1) % step === 0,
    files: expertFiles,
  }
}

export const qwen3Moe: Architecture<LlamaConfig> = {
  modelType: 'qwen3_moe',
  parse: (source, context) => {
    const fields = new ConfigFields(source)
    fields.only('use_sliding_window', [false])
    return parseLlama(source, { headNorms: true, mixture: mixtureOf(fields) }, context)
  },
  parameters: llamaParameters,
  products: llamaProducts,
  forward: llamaForward,
}
