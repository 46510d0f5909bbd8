/** Qwen3 (Yang 2025), dense: Llama's network with an RMS norm on every head of q and k, and heads of their own width. */
import type { Architecture } from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { type LlamaConfig, llamaForward, llamaParameters, llamaProducts, parseLlama } from './llama.ts'

export const qwen3: Architecture<LlamaConfig> = {
  modelType: 'qwen3',
  parse: (source, context) => {
    const fields = new ConfigFields(source)
    fields.only('use_sliding_window', [false])
    // 128 is what transformers takes where the file says nothing, whatever the width.
    return parseLlama(
      { ...source, head_dim: fields.count('head_dim', 128) },
      { headNorms: true, source },
      context,
    )
  },
  parameters: llamaParameters,
  products: llamaProducts,
  forward: llamaForward,
}
