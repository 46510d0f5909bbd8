/**
 * gpt-oss (Agarwal 2025): Llama's network with biases, a mixture of experts in every layer whose gates are clamped, and scores of
 * their own beside those that heads give to what they see. Every second layer attends to a window.
 */
import { type ExpertSizes, expertsOfGptOss } from '../formats/gpt-oss-source.ts'
import { writtenByGptOss } from '../formats/gpt-oss-write.ts'
import type { Architecture, LayerAttention } from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { layerKindsOf } from './layer-kinds.ts'
import { type LlamaConfig, llamaForward, llamaParameters, llamaProducts, parseLlama } from './llama.ts'
import { parseExperts } from './mixture.ts'

/** What transformers takes where the file says nothing. */
const defaults = {
  head_dim: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 150_000,
  max_position_embeddings: 131_072,
  attention_bias: true,
}

const scaling = {
  rope_type: 'yarn',
  factor: 32,
  beta_fast: 32,
  beta_slow: 1,
  truncate: false,
  original_max_position_embeddings: 4096,
}

function parse(source: Record<string, unknown>, context?: number): LlamaConfig {
  const fields = new ConfigFields(source)
  const unscaled = (source.rope_parameters ?? source.rope_scaling ?? undefined) === undefined
  const asLlama = { ...defaults, ...source, ...(unscaled && { rope_scaling: scaling }) }
  const switches = {
    sinks: true,
    mixture: {
      ...parseExperts(fields),
      normalised: true,
      limit: fields.positive('swiglu_limit', 7),
      biased: true,
      feedForward: fields.count('intermediate_size'),
      isIn: () => true,
      files: undefined,
    },
    source,
  } as const
  const config = parseLlama(asLlama, switches, context)
  const everything = config.attention[0]!
  const window = source.sliding_window === null ? undefined : fields.count('sliding_window', 128)
  const inWindow: LayerAttention = { ...everything, window }
  const kinds = layerKindsOf(fields, config.layers, 2)
  return { ...config, attention: kinds.map((kind) => (kind === 'sliding_attention' ? inWindow : everything)) }
}

function sizesOf({ mixture, width }: LlamaConfig): ExpertSizes {
  const { experts, feedForward } = mixture!
  return { experts, feedForward, width }
}

export const gptOss: Architecture<LlamaConfig> = {
  modelType: 'gpt_oss',
  parse,
  parameters: llamaParameters,
  products: llamaProducts,
  forward: llamaForward,
  read: (source, config) => expertsOfGptOss(source, sizesOf(config)),
  written: (parameters, config) => writtenByGptOss(parameters, sizesOf(config)),
}
