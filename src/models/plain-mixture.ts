/**
 * Mixtures of experts in ggml's operations. Every row is computed for itself, whatever the others choose.
 *
 * N rows, E experts, K used, F feed-forward of an expert, W width.
 */
import type { Ops } from '../runtime/ops.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { Mixture, MixtureNames } from './architecture.ts'

/** Gate and up [E*F, W], down [E*W, F]; where there are some, biases [E, F], [E, F], [E, W]. */
export interface ExpertWeights {
  gate: Tensor
  up: Tensor
  down: Tensor
  biases: { gate: Tensor; up: Tensor; down: Tensor } | undefined
}

export function expertWeights(
  parameters: { weight(name: string): Tensor; has(name: string): boolean },
  { gate, up, down }: MixtureNames,
): ExpertWeights {
  const all = (kind: 'weight' | 'bias') => {
    const one = (name: string) => parameters.weight(`${name}.${kind}`)
    return { gate: one(gate), up: one(up), down: one(down) }
  }
  return { ...all('weight'), biases: parameters.has(`${gate}.bias`) ? all('bias') : undefined }
}

/**
 * What the experts that `logits` [N, E] choose make of h [N, W]: [N, W]. Of equal logits the first expert comes first among 16
 * experts or fewer; among more, ggml's order holds.
 */
export function mixedBy(
  ops: Ops,
  h: Tensor,
  logits: Tensor,
  { gate, up, down, biases }: ExpertWeights,
  { experts, used, normalised, limit }: Mixture,
): Tensor {
  const [rows, width] = h.shape as [number, number]
  const chosen = ops.slice(ops.argsort(logits), 1, 0, used) //                                [N, K]
  const at = (scores: Tensor) =>
    ops.reshape(ops.rows(ops.reshape(scores, [rows, experts, 1]), chosen), [rows, used]) //   [N, K]
  const softmax = (scores: Tensor) => ops.softmax(scores, undefined, 1)
  const shares = normalised ? softmax(at(logits)) : at(softmax(logits)) //                    [N, K]
  const row = ops.reshape(h, [rows, 1, width])
  const product = (x: Tensor, weight: Tensor, bias: Tensor | undefined) => {
    const y = ops.expertProduct(x, weight, experts, chosen)
    return bias === undefined ? y : ops.expertBias(y, bias, chosen)
  }
  const open = product(row, gate, biases?.gate) //                                            [N, K, F]
  const gated = gatedExperts(ops, open, product(row, up, biases?.up), limit)
  const all = product(gated, down, biases?.down) //                                           [N, K, W]
  const made = ops.mul(all, ops.reshape(shares, [rows, used, 1]))
  const ofRank = (rank: number) => ops.window(made, [rows, width], [used * width * 4, 4], rank * width * 4)
  let sum: Tensor = ofRank(0)
  for (let rank = 1; rank < used; rank++) sum = ops.add(sum, ofRank(rank))
  return sum
}

/** What gates experts: silu(gate) * up, or the clamped form where there is a limit. */
export function gatedExperts(ops: Ops, gate: Tensor, up: Tensor, limit: number | undefined): Tensor {
  return limit === undefined ? ops.siluMul(gate, up) : ops.clampedGate(gate, up, limit)
}
