/** Mistral (Jiang 2023): Llama's network with a window beyond which nothing is attended to, in its first version. */
import type { Architecture } from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { type LlamaConfig, llamaForward, llamaParameters, llamaProducts, parseLlama } from './llama.ts'

/** What transformers takes where the file says nothing. */
const defaultWindow = 4096

export const mistral: Architecture<LlamaConfig> = {
  modelType: 'mistral',
  parse: (source, context) => {
    const window =
      source.sliding_window === null
        ? {}
        : { window: new ConfigFields(source).count('sliding_window', defaultWindow) }
    return parseLlama(source, { attentionBias: 'none', ...window }, context)
  },
  parameters: llamaParameters,
  products: llamaProducts,
  forward: llamaForward,
}
