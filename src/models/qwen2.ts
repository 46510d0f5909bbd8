/** Qwen2 and Qwen2.5 (Yang 2024): Llama's network with biases on q, k and v. */
import type { Architecture } from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { type LlamaConfig, llamaForward, llamaParameters, llamaProducts, parseLlama } from './llama.ts'

export const qwen2: Architecture<LlamaConfig> = {
  modelType: 'qwen2',
  parse: (source, context) => {
    new ConfigFields(source).only('use_sliding_window', [false])
    return parseLlama(source, { attentionBias: 'qkv' }, context)
  },
  parameters: llamaParameters,
  products: llamaProducts,
  forward: llamaForward,
}
