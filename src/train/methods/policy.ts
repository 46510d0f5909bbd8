/**
 * Group relative policy optimisation (GRPO; Shao et al. 2024, DeepSeekMath, section 4.1): an answer is as good as its
 * reward is above those of other answers to the same prompt. Every token of it is made likelier by that much, as long as
 * the ratio of its probability to that under the policy that sampled it stays within bounds (Schulman et al. 2017); the
 * upper bound may be wider (Yu et al. 2025, DAPO). `beta` holds the policy near a reference.
 *
 * M rows with a loss: the tokens of answers.
 */
import type { Ops } from '../../runtime/ops.ts'
import type { Tensor } from '../../runtime/tensor.ts'
import type { PolicyMethod } from './policy-fields.ts'

type Bounds = Pick<PolicyMethod, 'clip' | 'clip_high' | 'beta'>

/** Keeps advantages finite where rewards hardly differ; as TRL. */
const deviationFloor = 1e-4

/**
 * Of the answers to one prompt, from their rewards: each reward less their mean and, where that is asked for, divided by
 * their deviation (of the sample: n - 1). All 0 where all are equal: such a group teaches nothing.
 */
export function advantagesOf(rewards: readonly number[], scaled: boolean): number[] {
  if (rewards.every((reward) => reward === rewards[0])) return rewards.map(() => 0)
  const mean = rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length
  const divisor = scaled ? deviationOf(rewards) + deviationFloor : 1
  return rewards.map((reward) => (reward - mean) / divisor)
}

/** Of the sample: divided by n - 1. */
export function deviationOf(values: readonly number[]): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0)
  return Math.sqrt(squares / Math.max(1, values.length - 1))
}

/** All [M, 1]. */
export interface PolicyTensors {
  /** Log-probability of the token. */
  now: Tensor
  /** The same under the policy that sampled it. */
  sampled: Tensor
  /** 0 where `sampled` is what `now` is: the ratio is exactly 1 then. */
  moved: Tensor
  advantage: Tensor
  /** The ratio at which the token teaches no more, see {@link boundOf}. */
  bound: Tensor
  /** 1 where ratios below the bound teach, -1 where those above it do. */
  side: Tensor
  /** Log-probability under the reference; absent where beta is 0. */
  reference: Tensor | undefined
}

/** Makes a step of a sigmoid: differences of ratios of 1e-7 and more lie on one side or the other. */
const steepness = 2 ** 40

/**
 * How much each token's cross-entropy weighs: [M, 1]. That is minus the derivative of {@link policyLoss} by `now`:
 * advantage * ratio within the bounds, less beta * (1 - exp(reference - now)).
 */
export function policyWeights(ops: Ops, { beta }: Bounds, tokens: PolicyTensors): Tensor {
  const { now, sampled, moved, advantage, bound, side, reference } = tokens
  const ratio = ops.exp(ops.mul(moved, ops.sub(now, sampled)))
  const room = ops.mul(ops.sub(bound, ratio), side)
  const gain = ops.mul(ops.mul(advantage, ratio), ops.sigmoid(ops.scale(room, steepness)))
  if (reference === undefined) return gain
  return ops.add(gain, ops.affine(ops.exp(ops.sub(reference, now)), beta, -beta))
}

/** Where the ratio of a token with this advantage stops to teach, and on which side of it. */
export function boundOf({ clip, clip_high }: Bounds, advantage: number): { bound: number; side: 1 | -1 } {
  return advantage < 0 ? { bound: 1 - clip, side: -1 } : { bound: 1 + clip_high, side: 1 }
}

/** Of one token, in float64. */
export interface TokenLoss {
  loss: number
  /** Its ratio is beyond the bound, so that it teaches nothing. */
  clipped: boolean
  /** The estimate k3 of the divergence from the reference (Schulman 2020): never negative. */
  divergence: number
}

/** Of one token: `moved` is now - sampled, `away` is reference - now (undefined without a reference). */
export function policyLoss(
  method: Bounds,
  advantage: number,
  moved: number,
  away: number | undefined,
): TokenLoss {
  const ratio = Math.exp(moved)
  const { bound, side } = boundOf(method, advantage)
  const held = Math.min(1 + method.clip_high, Math.max(1 - method.clip, ratio))
  const divergence = away === undefined ? 0 : Math.exp(away) - away - 1
  return {
    loss: -Math.min(ratio * advantage, held * advantage) + method.beta * divergence,
    clipped: advantage !== 0 && side * (bound - ratio) < 0,
    divergence,
  }
}
