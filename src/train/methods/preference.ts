/**
 * Losses of preferences, from the summed log-probabilities of answers. Gradients come from these formulas by the
 * same rules as the model's: d loss / d log-probability of every token is the weight of that token's cross-entropy.
 *
 * P pairs. Left and right are the chosen and the rejected answer; in KTO, an answer with a verdict and, to measure
 * how far the policy has moved, an answer that belongs to another prompt.
 */
import type { Ops } from '../../runtime/ops.ts'
import type { Tensor } from '../../runtime/tensor.ts'

export type PreferenceMethod =
  /** Direct preference optimisation (Rafailov 2023). */
  | { kind: 'dpo'; beta: number }
  /** Odds ratio (Hong 2024): needs no reference. */
  | { kind: 'orpo'; lambda: number }
  /** Kahneman and Tversky's values of gains and losses (Ethayarajh 2024). */
  | { kind: 'kto'; beta: number; desirable: number; undesirable: number }

/** All [P, 1]. */
export interface PairTensors {
  /** Sum of the log-probabilities of the answer's tokens. */
  left: Tensor
  right: Tensor
  /** The same by the reference model. */
  referenceLeft: Tensor
  referenceRight: Tensor
  /** 1 / number of tokens of the answer. */
  shareLeft: Tensor
  shareRight: Tensor
  /** 1: desirable, -1: undesirable. */
  verdict: Tensor
  /**
   * KTO's distance over a step of several micro-batches: `given` [1] instead of what these pairs alone would give where
   * `own` [1] is 0 instead of 1.
   */
  step?: { own: Tensor; given: Tensor }
}

/** The loss of every pair: [P, 1]. */
export function pairLosses(ops: Ops, method: PreferenceMethod, pairs: PairTensors): Tensor {
  switch (method.kind) {
    case 'dpo': {
      const moved = ops.sub(
        ops.sub(pairs.left, pairs.right),
        ops.sub(pairs.referenceLeft, pairs.referenceRight),
      )
      return ops.softplus(ops.scale(moved, -method.beta))
    }
    case 'orpo': {
      const left = ops.mul(pairs.left, pairs.shareLeft)
      const right = ops.mul(pairs.right, pairs.shareRight)
      const ratio = ops.sub(logOdds(ops, left), logOdds(ops, right))
      const odds = ops.scale(ops.softplus(ops.scale(ratio, -1)), method.lambda)
      return ops.sub(odds, left)
    }
    case 'kto': {
      const moved = ops.sub(ops.sub(pairs.left, pairs.referenceLeft), distance(ops, pairs))
      const value = ops.sigmoid(ops.mul(ops.scale(moved, -method.beta), pairs.verdict))
      // Weights by verdict: the mean of both, plus or minus half their difference.
      const { desirable, undesirable } = method
      const weights = ops.affine(pairs.verdict, (desirable - undesirable) / 2, (desirable + undesirable) / 2)
      return ops.mul(value, weights)
    }
  }
}

/** Keeps the odds of a certain answer finite. */
const oddsFloor = 1e-6

/** ln(p / (1 - p)) from ln p. */
function logOdds(ops: Ops, logProbability: Tensor): Tensor {
  const rest = ops.affine(ops.exp(logProbability), -1, 1 + oddsFloor)
  return ops.sub(logProbability, ops.log(rest))
}

/** KTO's z0: how far the policy is from the reference on other prompts' answers, at least 0; not differentiated. */
function distance(ops: Ops, { right, referenceRight, step }: PairTensors): Tensor {
  const pairs = right.shape[0]!
  const mean = ops.scale(ops.sum(ops.sub(right, referenceRight)), 1 / pairs) // [1]
  const own = ops.scale(ops.add(mean, ops.sqrt(ops.sqr(mean))), 0.5)
  return ops.detached(step === undefined ? own : ops.add(ops.mul(own, step.own), step.given))
}

/** What the numbers mean to people, in float64. */
export interface PairNumbers {
  left: Float32Array
  right: Float32Array
  referenceLeft: Float32Array
  referenceRight: Float32Array
  verdict: Float32Array
}

/** Of sums over so many pairs; the distance is that of all of them, and as in the loss at least 0. */
export function meansOf(sums: Readonly<Record<string, number>>, pairs: number): Record<string, number> {
  const means = Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, sum / pairs]))
  return means.distance === undefined ? means : { ...means, distance: Math.max(0, means.distance) }
}

/** Summed over the pairs; a reward is beta times how much likelier an answer became. */
export function pairMetrics(method: PreferenceMethod, pairs: PairNumbers): Record<string, number> {
  const sums: Record<string, number> = {}
  const add = (name: string, value: number) => {
    sums[name] = (sums[name] ?? 0) + value
  }
  for (const [i, left] of pairs.left.entries()) {
    if (method.kind === 'orpo') {
      add('accuracy', left > pairs.right[i]! ? 1 : 0)
      add('logratio', left - pairs.right[i]!)
      continue
    }
    const first = method.beta * (left - pairs.referenceLeft[i]!)
    const second = method.beta * (pairs.right[i]! - pairs.referenceRight[i]!)
    if (method.kind === 'dpo') {
      add('reward_chosen', first)
      add('reward_rejected', second)
      add('margin', first - second)
      add('accuracy', first > second ? 1 : 0)
    } else {
      add('reward_signed', first * pairs.verdict[i]!)
      add('distance', second / method.beta)
      add('accuracy', first * pairs.verdict[i]! > 0 ? 1 : 0)
    }
  }
  return sums
}
