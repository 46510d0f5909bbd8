/**
 * Cross-entropy with one weight per row, and its gradient.
 *
 * M rows, V vocabulary. Masks, accumulation and preferences are all weights: 0 leaves a row out, 1/n makes a
 * mean over n tokens, a negative weight pushes away. ggml's own loss can do none of that.
 */
import type { Ops } from '../runtime/ops.ts'
import type { Tensor } from '../runtime/tensor.ts'

export interface CrossEntropy {
  /** Probability of each row's target: [M, 1]. */
  chosen: Tensor
  /** Gradient of sum(weight * loss) with respect to the logits: [M, V]. */
  gradient: (weights: Tensor) => Tensor
}

/** cells [M] I32: row * V + target. weights [M, 1], which may depend on `chosen`. */
export function crossEntropy(ops: Ops, logits: Tensor, cells: Tensor): CrossEntropy {
  const own = ops.chosenShares(logits, cells)
  if (own !== undefined)
    return { chosen: own, gradient: (weights) => ops.chosenSharesBack(logits, cells, weights) }
  const shares = ops.softmax(logits, undefined, 1) //                            [M, V]
  const chosen = ops.rows(ops.reshape(shares, [shares.size, 1]), cells) //       [M, 1]
  const gradient = (weights: Tensor) => {
    // w (p - onehot): the target's cell is written over instead of building onehot, which is as large as p.
    const weighted = ops.reshape(ops.mul(shares, weights), [shares.size, 1])
    const own = ops.mul(weights, ops.affine(chosen, 1, -1))
    return ops.reshape(ops.setRows(weighted, own, cells), logits.shape)
  }
  return { chosen, gradient }
}

/** Where float32 probabilities end: a loss of 103 nats, which only a broken model reaches. */
const smallest = 2 ** -149

/** Sum of weight * -ln(p), in float64. */
export function weightedLoss(chosen: Float32Array, weights: Float32Array): number {
  let sum = 0
  for (let i = 0; i < chosen.length; i++) {
    // A probability that is not a number has to reach the sum; Math.max passes it on.
    if (weights[i] !== 0) sum -= weights[i]! * Math.log(Math.max(chosen[i]!, smallest))
  }
  return sum
}
