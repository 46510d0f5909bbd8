/** SmolLM3 (Bakouch 2025): Llama's network in which every fourth layer leaves positions out (NoPE, Yang 2025). */
import type { Architecture, LayerAttention } from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { type LlamaConfig, llamaForward, llamaParameters, llamaProducts, parseLlama } from './llama.ts'

/** What transformers takes where the file says nothing. */
const defaults = { num_key_value_heads: 4, rope_theta: 2e6, tie_word_embeddings: true }

function parse(source: Record<string, unknown>): LlamaConfig {
  const fields = new ConfigFields({ ...defaults, ...source })
  fields.only('use_sliding_window', [false])
  const config = parseLlama(fields.source, { source })
  const [turned] = config.attention as [LayerAttention]
  const still = { ...turned, rope: undefined }
  const attention = turnedLayers(fields, config.layers).map((isTurned) => (isTurned ? turned : still))
  return { ...config, attention }
}

/** Which layers turn queries and keys: as listed with 1 and 0, or all but every so manieth. */
function turnedLayers(fields: ConfigFields, layers: number): boolean[] {
  const listed = fields.source.no_rope_layers
  if (listed === undefined || listed === null) {
    const interval = fields.count('no_rope_layer_interval', 4)
    return Array.from({ length: layers }, (_, layer) => (layer + 1) % interval !== 0)
  }
  const isList = Array.isArray(listed) && listed.length >= layers
  if (!isList || !listed.every((one) => one === 0 || one === 1))
    throw fields.refuse('no_rope_layers', listed, `a list of 1 and 0 for ${layers} layers`)
  return listed.slice(0, layers).map((one) => one === 1)
}

export const smollm3: Architecture<LlamaConfig> = {
  modelType: 'smollm3',
  parse,
  parameters: llamaParameters,
  products: llamaProducts,
  forward: llamaForward,
}
