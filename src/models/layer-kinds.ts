import type { ConfigFields } from './config-fields.ts'

/** How a layer attends in networks that mix both: to a window, or to all. Names are transformers'. */
export const layerKinds = ['sliding_attention', 'full_attention'] as const
export type LayerKind = (typeof layerKinds)[number]

/** The kind of each layer: as `layer_types` lists them, or every `pattern`-th attends to all. */
export function layerKindsOf(fields: ConfigFields, layers: number, pattern: number): LayerKind[] {
  const listed = fields.source.layer_types ?? undefined
  if (listed === undefined)
    return Array.from({ length: layers }, (_, i) => layerKinds[(i + 1) % pattern === 0 ? 1 : 0])
  const isKind = (one: unknown): one is LayerKind => layerKinds.some((kind) => kind === one)
  if (!Array.isArray(listed) || listed.length !== layers || !listed.every(isKind))
    throw fields.refuse('layer_types', listed, `${layers} of ${layerKinds.join(' and ')}`)
  return listed
}
