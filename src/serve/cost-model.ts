/** What an iteration has to do, in the terms that its time depends on. */
export interface IterationLoad {
  /** Tokens through the linear layers. */
  tokens: number
  /** Sum over these tokens of the positions that each attends to. */
  context: number
  sequences: number
}

// Scales that bring the features near 1, where the least squares are well conditioned.
const scales = { tokens: 1 / 64, context: 1 / 16384, sequences: 1 / 16 }
const featureCount = 4
/** About the last 250 iterations count. */
const forgetting = 0.996
const sweepsPerFit = 6
const ratiosKept = 256
const ratiosBeforeTrust = 16

/**
 * Milliseconds of an iteration from its load: constant + tokens + context + sequences, each of which takes
 * time and never saves any. Least squares with a forgetting factor over what the engine sees of itself,
 * kept as normal equations and solved under w >= 0 by a few sweeps of coordinate descent from the last
 * solution. A direction in which nothing varies lately keeps what was learned about it before.
 */
export class CostModel {
  readonly #weights = new Float64Array(featureCount)
  /** Decayed sums of x x^T and of x ms. */
  readonly #products = new Float64Array(featureCount * featureCount)
  readonly #targets = new Float64Array(featureCount)
  readonly #features = new Float64Array(featureCount)
  readonly #ratios = new Float64Array(ratiosKept)
  #observed = 0
  #spread = 1.25

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
    const { tokens, context, sequences } = load
    return (
      w[0]! +
      w[1]! * tokens * scales.tokens +
      w[2]! * context * scales.context +
      w[3]! * sequences * scales.sequences
    )
  }

  /** Milliseconds that one more token at a context of `context` adds. */
  tokenMs(context: number): number {
    const w = this.#weights
    return w[1]! * scales.tokens + w[2]! * context * scales.context
  }

  /** Milliseconds that a sequence which computes `count` tokens from position `start` on adds. */
  chunkMs(start: number, count: number): number {
    const sequenceMs = this.#weights[3]! * scales.sequences
    return sequenceMs + count * this.tokenMs(start + (count - 1) / 2)
  }

  /** The longest chunk from position `start` on that {@link chunkMs} puts within `ms`; may be fractional or Infinity. */
  tokensWithin(ms: number, start: number): number {
    const leftMs = ms - this.#weights[3]! * scales.sequences
    if (leftMs <= 0) return 0
    const contextMs = this.#weights[2]! * scales.context
    // contextMs / 2 n^2 + b n = leftMs, solved in the form that survives contextMs = 0.
    const b = Math.max(0, this.tokenMs(start - 0.5))
    return (2 * leftMs) / (b + Math.sqrt(b * b + 2 * contextMs * leftMs))
  }

  observe(load: IterationLoad, ms: number): void {
    this.#keepRatio(load, ms)
    const x = this.#features
    x[0] = 1
    x[1] = load.tokens * scales.tokens
    x[2] = load.context * scales.context
    x[3] = load.sequences * scales.sequences
    // One pause of the machine must not bend the line: it counts as a surprise of bounded size.
    const target = this.trusted ? Math.min(ms, 2 * this.predictMs(load)) : ms
    this.#learn(x, target)
    this.#observed++
  }

  #learn(x: Float64Array, ms: number): void {
    const products = this.#products
    const targets = this.#targets
    for (let i = 0; i < featureCount; i++) {
      targets[i] = forgetting * targets[i]! + x[i]! * ms
      for (let j = 0; j < featureCount; j++) {
        const at = i * featureCount + j
        products[at] = forgetting * products[at]! + x[i]! * x[j]!
      }
    }
    for (let sweep = 0; sweep < sweepsPerFit; sweep++) this.#descend()
  }

  #descend(): void {
    const w = this.#weights
    for (let i = 0; i < featureCount; i++) {
      const own = this.#products[i * featureCount + i]!
      if (own === 0) continue
      let rest = this.#targets[i]!
      for (let j = 0; j < featureCount; j++) {
        if (j !== i) rest -= this.#products[i * featureCount + j]! * w[j]!
      }
      w[i] = Math.max(0, rest / own)
    }
  }

  #keepRatio(load: IterationLoad, ms: number): void {
    if (!this.trusted) return
    const place = this.#observed - ratiosBeforeTrust
    this.#ratios[place % ratiosKept] = ms / Math.max(1e-6, this.predictMs(load))
    const count = Math.min(place + 1, ratiosKept)
    if (count < 32 || this.#observed % 32 !== 0) return
    const sorted = this.#ratios.slice(0, count).sort()
    const wanted = sorted[Math.min(count - 1, Math.ceil(count * 0.99))]!
    this.#spread = Math.min(4, Math.max(1, wanted))
  }
}
