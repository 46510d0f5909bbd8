/** Phi-3, Phi-3.5 and Phi-4 (Abdin 2024): Llama's network, whose q, k and v are one product, and gate and up another. */
import type { Architecture } from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { type LlamaConfig, llamaForward, llamaParameters, llamaProducts, parseLlama } from './llama.ts'

function parse(source: Record<string, unknown>, context?: number): LlamaConfig {
  const fields = new ConfigFields(source)
  const scaling = (source.rope_parameters ?? source.rope_scaling) as
    | Record<string, unknown>
    | undefined
    | null
  const kind = scaling?.rope_type ?? scaling?.type
  const window = source.sliding_window ?? undefined
  const asLlama = {
    rms_norm_eps: 1e-5,
    ...source,
    // Its first files call LongRoPE yarn; the values are what transformers takes where the file says nothing.
    ...(kind === 'yarn' && {
      rope_parameters: undefined,
      rope_scaling: { ...scaling, rope_type: 'longrope' },
    }),
    max_position_embeddings: fields.count('max_position_embeddings', 4096),
    original_max_position_embeddings: fields.count('original_max_position_embeddings', 4096),
  }
  const switches = {
    fused: true,
    attentionBias: 'none',
    source,
    ...(window !== undefined && { window: fields.count('sliding_window') }),
  } as const
  return parseLlama(asLlama, switches, context)
}

export const phi3: Architecture<LlamaConfig> = {
  modelType: 'phi3',
  parse,
  parameters: llamaParameters,
  products: llamaProducts,
  forward: llamaForward,
}
