/** What a scaling of rotary positions does to their angles beside the base, as ggml computes it (`rope_yarn`). */
import type { RopeAttributes } from './op-attributes.ts'

/**
 * Between which pairs YaRN (Peng 2023) goes over from the plain angle to the scaled one, `whole` ones for ggml; a factor on both
 * coordinates.
 */
export function rotaryMix(
  attributes: RopeAttributes,
  whole = true,
): {
  low: number
  high: number
  factor: number
} {
  const { dimensions, base, scale, contextOriginal, extFactor, attnFactor, betaFast, betaSlow } = attributes
  const pairOf = (turns: number) =>
    (dimensions * Math.log(contextOriginal / (turns * 2 * Math.PI))) / (2 * Math.log(base))
  return {
    low: Math.max(0, whole ? Math.floor(pairOf(betaFast)) : pairOf(betaFast)),
    high: Math.min(dimensions - 1, whole ? Math.ceil(pairOf(betaSlow)) : pairOf(betaSlow)),
    factor: extFactor === 0 ? attnFactor : attnFactor * (1 + 0.1 * Math.log(1 / scale)),
  }
}
