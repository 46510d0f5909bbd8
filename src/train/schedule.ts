/** The learning rate as a function of the step, counted from 0. */

export interface Schedule {
  kind: 'constant' | 'linear' | 'cosine'
  learningRate: number
  /** Where linear and cosine end. */
  learningRateMin: number
  /** Steps that climb from near zero; step s of w takes (s + 1) / (w + 1) of the rate. */
  warmupSteps: number
  /** The step from which the rate stays at its minimum. */
  decaySteps: number
}

export function learningRateAt(schedule: Schedule, step: number): number {
  const { kind, learningRate, learningRateMin, warmupSteps, decaySteps } = schedule
  if (step < warmupSteps) return (learningRate * (step + 1)) / (warmupSteps + 1)
  if (kind === 'constant') return learningRate
  if (step >= decaySteps) return learningRateMin
  const share = (step - warmupSteps) / (decaySteps - warmupSteps)
  const left = kind === 'linear' ? 1 - share : 0.5 * (1 + Math.cos(Math.PI * share))
  return learningRateMin + left * (learningRate - learningRateMin)
}
