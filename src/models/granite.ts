/** Granite 3 (IBM 2024), dense: Llama's network with numbers that multiply embedding, residual, scores and logits. */
import type { Architecture } from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { type LlamaConfig, llamaForward, llamaParameters, llamaProducts, parseLlama } from './llama.ts'

/** Granite's numbers, 1 where the file says nothing. */
export function graniteSwitches(fields: ConfigFields) {
  return {
    scale: fields.positive('attention_multiplier', 1),
    multipliers: {
      embedding: fields.positive('embedding_multiplier', 1),
      residual: fields.positive('residual_multiplier', 1),
      logits: fields.positive('logits_scaling', 1),
    },
  }
}

export const granite: Architecture<LlamaConfig> = {
  modelType: 'granite',
  parse: (source, context) => parseLlama(source, graniteSwitches(new ConfigFields(source)), context),
  parameters: llamaParameters,
  products: llamaProducts,
  forward: llamaForward,
}
