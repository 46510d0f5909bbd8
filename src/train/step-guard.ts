/**
 * What to do about a step whose loss or gradient is no number, or whose gradient is far longer than usual: compute it
 * again, pass over it, and after several in a row go back to a checkpoint.
 *
 * The samples of a step that is passed over are left out. Going back leaves out those since the checkpoint too, as
 * PaLM's training did (Chowdhery et al. 2022, section 5.1): the same samples would lead to the same place.
 */
import { z } from 'zod'

export const faultFields = z
  .strictObject({
    /**
     * A gradient longer than so many times its running mean is a spike; 0 takes every length. Clipping alone is the
     * default: a run whose weights are at a steep place leaves it by a step, not by passing over steps
     * (docs/decisions.md).
     */
    spike_factor: z.number().min(0).default(0),
    /** Steps in a row that are passed over; the next one goes back to a checkpoint. */
    skips: z.int().min(0).max(1000).default(3),
    /** How often a run goes back; the next time it fails. */
    rollbacks: z.int().min(0).max(100).default(2),
  })
  .prefault({})

export type FaultLimits = z.output<typeof faultFields>

/** What a resume has to remember of it. */
export interface GuardState {
  /** Running mean of the gradient's length, over accepted steps. */
  usualNorm: number
  accepted: number
  skippedInRow: number
  rollbacks: number
}

export type Verdict = 'good' | 'not_a_number' | 'spike'

/** Steps that the running mean has to have seen before it calls anything a spike. */
const acceptedMin = 20
/** Of the running mean: about the last 50 steps. */
const meanShare = 0.02

export class StepGuard {
  readonly #limits: FaultLimits
  #state: GuardState

  constructor(limits: FaultLimits, state?: GuardState) {
    this.#limits = limits
    this.#state = state ?? { usualNorm: 0, accepted: 0, skippedInRow: 0, rollbacks: 0 }
  }

  get state(): GuardState {
    return { ...this.#state }
  }

  judge(loss: number, gradientNorm: number): Verdict {
    if (!Number.isFinite(loss) || !Number.isFinite(gradientNorm)) return 'not_a_number'
    const { usualNorm, accepted } = this.#state
    const { spike_factor: factor } = this.#limits
    const isSpike = factor > 0 && accepted >= acceptedMin && gradientNorm > factor * usualNorm
    return isSpike ? 'spike' : 'good'
  }

  accept(gradientNorm: number): void {
    const { usualNorm, accepted } = this.#state
    const share = Math.max(meanShare, 1 / (accepted + 1))
    this.#state.usualNorm = usualNorm + share * (gradientNorm - usualNorm)
    this.#state.accepted++
    this.#state.skippedInRow = 0
  }

  /** A step could not be used. What is to be done? */
  refuse(): 'skipped' | 'rolled_back' | 'stopped' {
    if (this.#state.skippedInRow < this.#limits.skips) {
      this.#state.skippedInRow++
      return 'skipped'
    }
    if (this.#state.rollbacks >= this.#limits.rollbacks) return 'stopped'
    this.#state.rollbacks++
    this.#state.skippedInRow = 0
    return 'rolled_back'
  }
}
