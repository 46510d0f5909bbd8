/** Granite 3 with mixtures of experts (IBM 2024): Granite's network and numbers, a mixture in every layer. */
import type { Architecture } from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { graniteSwitches } from './granite.ts'
import { type LlamaConfig, llamaForward, llamaParameters, llamaProducts, parseLlama } from './llama.ts'
import { fileOfAll, parseExperts } from './mixture.ts'

function parse(source: Record<string, unknown>, context?: number): LlamaConfig {
  const fields = new ConfigFields(source)
  const mixture = {
    ...parseExperts(fields),
    normalised: true,
    feedForward: fields.count('intermediate_size'),
    isIn: () => true,
    files: fileOfAll,
  }
  return parseLlama(source, { ...graniteSwitches(fields), mixture }, context)
}

export const granitemoe: Architecture<LlamaConfig> = {
  modelType: 'granitemoe',
  parse,
  parameters: llamaParameters,
  products: llamaProducts,
  forward: llamaForward,
}
