/** OLMo 3 (Olmo 2025): OLMo 2's network, most of whose layers attend to a window, and turn by plain rotary positions. */
import type { Architecture, LayerAttention } from './architecture.ts'
import { ConfigFields } from './config-fields.ts'
import { type LlamaConfig, llamaProducts, parseLlama } from './llama.ts'
import { olmo2 } from './olmo2.ts'
import { parseRope } from './rope.ts'

type Kind = 'sliding_attention' | 'full_attention'

function parse(source: Record<string, unknown>, context?: number): LlamaConfig {
  const fields = new ConfigFields(source)
  const asLlama = { rms_norm_eps: 1e-5, rope_theta: 500_000, ...source }
  const byKind = source.rope_parameters as Partial<Record<Kind, Record<string, unknown>>> | undefined | null
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
  const attention = kindsOf(fields, config.layers).map((kind) =>
    kind === 'sliding_attention' ? inWindow : everything,
  )
  return { ...config, attention }
}

/** Every fourth layer sees everything, where the file says nothing. */
function kindsOf(fields: ConfigFields, layers: number): Kind[] {
  const kinds = fields.source.layer_types ?? undefined
  if (kinds === undefined)
    return Array.from({ length: layers }, (_, i) => (i % 4 === 3 ? 'full_attention' : 'sliding_attention'))
  const known: readonly unknown[] = ['sliding_attention', 'full_attention'] satisfies Kind[]
  if (!Array.isArray(kinds) || kinds.length !== layers || !kinds.every((kind) => known.includes(kind)))
    throw fields.refuse(
      'layer_types',
      kinds,
      `sliding_attention or full_attention for each of ${layers} layers`,
    )
  return kinds
}

export const olmo3: Architecture<LlamaConfig> = {
  modelType: 'olmo3',
  parse,
  parameters: olmo2.parameters,
  products: llamaProducts,
  forward: olmo2.forward,
}
