/** Granite 3 (IBM 2024), dense: Llama's network with numbers that multiply embedding, residual, scores and logits. */
import type { Architecture } from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { type LlamaConfig, llamaForward, llamaParameters, llamaProducts, parseLlama } from './llama.ts'

/** Granite's numbers, 1 where the file says nothing. */
export function graniteSwitches(fields: ConfigFields) {
  const positive = (field: string) => {
    const value = fields.number(field, 1)
    if (value <= 0) throw fields.refuse(field, value, 'above 0')
    return value
  }
  return {
    scale: positive('attention_multiplier'),
    multipliers: {
      embedding: positive('embedding_multiplier'),
      residual: positive('residual_multiplier'),
      logits: positive('logits_scaling'),
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
