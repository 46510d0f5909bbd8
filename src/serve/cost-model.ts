/** What an iteration has to do, in the terms that its time depends on. */
export interface IterationLoad {
  /** Tokens through the linear layers. */
  tokens: number
  /** Sum over these tokens of the positions that each attends to. */
  context: number
  sequences: number
}

export const noLoad: IterationLoad = { tokens: 0, context: 0, sequences: 0 }

// Scales that bring the features near 1, where the least squares are well conditioned.
const scales = { tokens: 1 / 64, context: 1 / 16384, sequences: 1 / 16 }
const forgetting = 0.995
const featureCount = 4
// Forgetting without news lets the covariance grow; beyond this it is held.
const covarianceTraceMax = 1e5
const ratiosKept = 256
const ratiosBeforeTrust = 16

/**
 * Milliseconds of an iteration from its load: constant + tokens + context + sequences, fitted while the
 * engine runs by recursive least squares with a forgetting factor (Haykin, Adaptive Filter Theory, ch. 10).
 */
export class CostModel {
  readonly #weights = new Float64Array(featureCount)
  readonly #covariance = new Float64Array(featureCount * featureCount)
  readonly #features = new Float64Array(featureCount)
  readonly #ratios: number[] = []
  #observed = 0
  #spread = 1.25

  constructor() {
    for (let i = 0; i < featureCount; i++) this.#covariance[i * featureCount + i] = 1000
  }

  /** Whether enough was seen to rely on {@link predictMs}. */
  get trusted(): boolean {
    return this.#observed >= ratiosBeforeTrust
  }

  /** Factor that 99 of 100 iterations stay within of their prediction. */
  get spread(): number {
    return this.#spread
  }

  predictMs(load: IterationLoad): number {
    const w = this.#weights
    // No part of the work takes time away: a negative weight is noise.
    return (
      Math.max(0, w[0]!) +
      Math.max(0, w[1]!) * load.tokens * scales.tokens +
      Math.max(0, w[2]!) * load.context * scales.context +
      Math.max(0, w[3]!) * load.sequences * scales.sequences
    )
  }

  /** Milliseconds that one more token at a context of `context` adds. */
  tokenMs(context: number): number {
    const w = this.#weights
    return Math.max(0, w[1]!) * scales.tokens + Math.max(0, w[2]!) * context * scales.context
  }

  observe(load: IterationLoad, ms: number): void {
    this.#keepRatio(load, ms)
    const x = this.#features
    x[0] = 1
    x[1] = load.tokens * scales.tokens
    x[2] = load.context * scales.context
    x[3] = load.sequences * scales.sequences
    let predicted = 0
    for (let i = 0; i < featureCount; i++) predicted += this.#weights[i]! * x[i]!
    let error = ms - predicted
    // One pause of the machine must not bend the line: it counts as a surprise of bounded size.
    if (this.trusted) error = Math.max(-predicted, Math.min(error, Math.abs(predicted)))
    this.#learn(x, error)
    this.#observed++
  }

  #learn(x: Float64Array, error: number): void {
    const p = this.#covariance
    const px = new Float64Array(featureCount)
    let energy = 0
    let trace = 0
    for (let i = 0; i < featureCount; i++) {
      for (let j = 0; j < featureCount; j++) px[i]! += p[i * featureCount + j]! * x[j]!
      energy += px[i]! * x[i]!
      trace += p[i * featureCount + i]!
    }
    const lambda = trace > covarianceTraceMax ? 1 : forgetting
    for (let i = 0; i < featureCount; i++) {
      const gain = px[i]! / (lambda + energy)
      this.#weights[i]! += gain * error
      for (let j = 0; j < featureCount; j++) {
        p[i * featureCount + j] = (p[i * featureCount + j]! - gain * px[j]!) / lambda
      }
    }
  }

  #keepRatio(load: IterationLoad, ms: number): void {
    if (!this.trusted) return
    this.#ratios[(this.#observed - ratiosBeforeTrust) % ratiosKept] =
      ms / Math.max(1e-6, this.predictMs(load))
    if (this.#ratios.length < 32 || this.#observed % 32 !== 0) return
    const sorted = [...this.#ratios].sort((a, b) => a - b)
    const wanted = sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * 0.99))]!
    this.#spread = Math.min(4, Math.max(1, wanted))
  }
}
