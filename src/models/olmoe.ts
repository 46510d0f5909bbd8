/** OLMoE (Muennighoff 2024): Llama's network with a mixture of experts in every layer, and RMS norms over all heads of q, and of k. */
import type { Architecture } from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { type LlamaConfig, llamaForward, llamaParameters, llamaProducts, parseLlama } from './llama.ts'
import { parseExperts } from './mixture.ts'
import { expertFiles } from './qwen3-moe.ts'

/** What transformers takes where the file says nothing. */
const defaults = { rms_norm_eps: 1e-5, max_position_embeddings: 4096 }

function parse(source: Record<string, unknown>, context?: number): LlamaConfig {
  const fields = new ConfigFields(source)
  const clip = source.clip_qkv
  if (clip !== undefined && clip !== null)
    throw fields.refuse('clip_qkv', clip, 'null: queries, keys and values are not clipped here')
  const switches = {
    wholeNorms: true,
    mixture: {
      ...parseExperts(fields),
      normalised: fields.flag('norm_topk_prob', false),
      feedForward: fields.count('intermediate_size'),
      isIn: () => true,
      files: expertFiles,
    },
    source,
  }
  return parseLlama({ ...defaults, ...source }, switches, context)
}

export const olmoe: Architecture<LlamaConfig> = {
  modelType: 'olmoe',
  parse,
  parameters: llamaParameters,
  products: llamaProducts,
  forward: llamaForward,
}
