/** The learning rate as a function of the step, counted from 0. */

export interface Schedule {
  kind: 'constant' | 'linear' | 'cosine' | 'wsd'
  learningRate: number
  /** Where all but constant end. */
  learningRateMin: number
  /** Steps that climb from near zero; step s of w takes (s + 1) / (w + 1) of the rate. */
  warmupSteps: number
  /** The step from which the rate stays at its minimum. */
  decaySteps: number
  /** Of wsd (warm up, hold, cool down; Hu 2024): steps before `decaySteps` in which the rate falls linearly. */
  cooldownSteps?: number
}

export function learningRateAt(schedule: Schedule, step: number): number {
  const { kind, learningRate, learningRateMin, warmupSteps, decaySteps } = schedule
  if (step < warmupSteps) return (learningRate * (step + 1)) / (warmupSteps + 1)
  if (kind === 'constant') return learningRate
  if (step >= decaySteps) return learningRateMin
  const held = kind === 'wsd' ? Math.max(warmupSteps, decaySteps - cooldownOf(schedule)) : warmupSteps
  if (step < held) return learningRate
  const share = (step - held) / (decaySteps - held)
  const left = kind !== 'cosine' ? 1 - share : 0.5 * (1 + Math.cos(Math.PI * share))
  return learningRateMin + left * (learningRate - learningRateMin)
}

function cooldownOf({ cooldownSteps, decaySteps }: Schedule): number {
  return cooldownSteps ?? Math.max(1, Math.round(0.1 * decaySteps))
}
