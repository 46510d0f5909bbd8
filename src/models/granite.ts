/** Granite 3 (IBM 2024), dense: Llama's network with numbers that multiply embedding, residual, scores and logits. */
import type { Architecture } from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { type LlamaConfig, llamaForward, llamaParameters, llamaProducts, parseLlama } from './llama.ts'

function parse(source: Record<string, unknown>, context?: number): LlamaConfig {
  const fields = new ConfigFields(source)
  const positive = (field: string) => {
    const value = fields.number(field, 1)
    if (value <= 0) throw fields.refuse(field, value, 'above 0')
    return value
  }
  const switches = {
    scale: positive('attention_multiplier'),
    multipliers: {
      embedding: positive('embedding_multiplier'),
      residual: positive('residual_multiplier'),
      logits: positive('logits_scaling'),
    },
  }
  return parseLlama(source, switches, context)
}

export const granite: Architecture<LlamaConfig> = {
  modelType: 'granite',
  parse,
  parameters: llamaParameters,
  products: llamaProducts,
  forward: llamaForward,
}
