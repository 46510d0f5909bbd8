/** OLMo 3 (Olmo 2025): OLMo 2's network, most of whose layers attend to a window, and turn by plain rotary positions. */
import type { Architecture, LayerAttention } from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { type LayerKind, layerKindsOf } from './layer-kinds.ts'
import { type LlamaConfig, llamaProducts, parseLlama } from './llama.ts'
import { olmo2 } from './olmo2.ts'
import { parseRope } from './rope.ts'

function parse(source: Record<string, unknown>, context?: number): LlamaConfig {
  const fields = new ConfigFields(source)
  const asLlama = { rms_norm_eps: 1e-5, rope_theta: 500_000, ...source }
  const byKind = source.rope_parameters as
    | Partial<Record<LayerKind, Record<string, unknown>>>
    | undefined
    | null
  // Older files have one scaling, which is that of layers that see everything.
  const full = { ...asLlama, ...(byKind?.full_attention && { rope_parameters: byKind.full_attention }) }
  const plain = { ...asLlama, rope_scaling: undefined, rope_parameters: byKind?.sliding_attention }
  const config = parseLlama(full, { source }, context)
  const everything = config.attention[0]!
  const inWindow: LayerAttention = {
    ...everything,
    window: source.sliding_window === null ? undefined : fields.count('sliding_window', 4096),
    rope: parseRope(plain, config.headWidth, config.contextMax, context),
  }
  const kinds = layerKindsOf(fields, config.layers, 4)
  return { ...config, attention: kinds.map((kind) => (kind === 'sliding_attention' ? inWindow : everything)) }
}

export const olmo3: Architecture<LlamaConfig> = {
  modelType: 'olmo3',
  parse,
  parameters: olmo2.parameters,
  products: llamaProducts,
  forward: olmo2.forward,
}
