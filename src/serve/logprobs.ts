import type { TokenLogprob } from './request.ts'
import { largest, logSumExp } from './softmax.ts'

/**
 * Log-probability of `token` and of the `topCount` most likely tokens under the model itself: before
 * temperature, bias and penalties.
 */
export function tokenLogprob(logits: Float32Array, token: number, topCount: number): TokenLogprob {
  const normaliser = logSumExp(logits, logits[largest(logits)]!)
  const top = mostLikely(logits, topCount).map((id) => ({ token: id, logprob: logits[id]! - normaliser }))
  return { token, logprob: logits[token]! - normaliser, top }
}

/** Ids of the `count` largest values, best first, lowest id on ties. */
export function mostLikely(values: Float32Array, count: number): number[] {
  const ids: number[] = []
  if (count === 0) return ids
  let least = Number.NEGATIVE_INFINITY
  for (let i = 0; i < values.length; i++) {
    if (ids.length === count && values[i]! <= least) continue
    let place = ids.length
    while (place > 0 && values[ids[place - 1]!]! < values[i]!) place--
    ids.splice(place, 0, i)
    if (ids.length > count) ids.pop()
    if (ids.length === count) least = values[ids[count - 1]!]!
  }
  return ids
}
