/**
 * Mixtures of experts in ggml's operations. Every row is computed for itself, whatever the others choose.
 *
 * N rows, E experts, K used, F feed-forward of an expert, W width.
 */
import type { Ops } from '../runtime/ops.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { Mixture, MixtureNames } from './architecture.ts'

/** Gate and up [E*F, W], down [E*W, F]. */
export interface ExpertWeights {
  gate: Tensor
  up: Tensor
  down: Tensor
}

export function expertWeights(
  parameters: { weight(name: string): Tensor },
  { gate, up, down }: MixtureNames,
): ExpertWeights {
  const weight = (name: string) => parameters.weight(`${name}.weight`)
  return { gate: weight(gate), up: weight(up), down: weight(down) }
}

/**
 * What the experts that `logits` [N, E] choose make of h [N, W]: [N, W]. Of equal logits the first expert comes first among 16
 * experts or fewer; among more, ggml's order holds.
 */
export function mixedBy(
  ops: Ops,
  h: Tensor,
  logits: Tensor,
  { gate, up, down }: ExpertWeights,
  { experts, used, normalised }: Mixture,
): Tensor {
  const [rows, width] = h.shape as [number, number]
  const chosen = ops.slice(ops.argsort(logits), 1, 0, used) //                                [N, K]
  const at = (scores: Tensor) =>
    ops.reshape(ops.rows(ops.reshape(scores, [rows, experts, 1]), chosen), [rows, used]) //   [N, K]
  const softmax = (scores: Tensor) => ops.softmax(scores, undefined, 1)
  const shares = normalised ? softmax(at(logits)) : at(softmax(logits)) //                    [N, K]
  const row = ops.reshape(h, [rows, 1, width])
  const product = (x: Tensor, weight: Tensor) => ops.expertProduct(x, weight, experts, chosen)
  const gated = ops.siluMul(product(row, gate), product(row, up)) //                          [N, K, F]
  const made = ops.mul(product(gated, down), ops.reshape(shares, [rows, used, 1])) //         [N, K, W]
  const ofRank = (rank: number) => ops.window(made, [rows, width], [used * width * 4, 4], rank * width * 4)
  let sum: Tensor = ofRank(0)
  for (let rank = 1; rank < used; rank++) sum = ops.add(sum, ofRank(rank))
  return sum
}
