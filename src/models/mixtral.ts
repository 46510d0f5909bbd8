/** Mixtral (Jiang 2024): Mistral's network with a mixture of experts in every layer. */
import type { Architecture } from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { type LlamaConfig, llamaForward, llamaParameters, llamaProducts, parseLlama } from './llama.ts'
import { fileOfEach, parseExperts } from './mixture.ts'

/** What transformers takes where the file says nothing. */
const defaults = { rope_theta: 1_000_000, rms_norm_eps: 1e-5, max_position_embeddings: 131_072 }

function parse(source: Record<string, unknown>, context?: number): LlamaConfig {
  const fields = new ConfigFields(source)
  // Noise while training.
  fields.only('router_jitter_noise', [0])
  const isWindowed = source.sliding_window !== undefined && source.sliding_window !== null
  const switches = {
    ...(isWindowed && { window: fields.count('sliding_window') }),
    attentionBias: 'none',
    mixture: {
      ...parseExperts(fields),
      normalised: true,
      feedForward: fields.count('intermediate_size'),
      isIn: () => true,
      files: fileOfEach('block_sparse_moe', 'gate', { gate: 'w1', up: 'w3', down: 'w2' }),
    },
    source,
  } as const
  return parseLlama({ ...defaults, ...source }, switches, context)
}

export const mixtral: Architecture<LlamaConfig> = {
  modelType: 'mixtral',
  parse,
  parameters: llamaParameters,
  products: llamaProducts,
  forward: llamaForward,
}
