import type { Sequence } from './sequence.ts'
import type { Voice } from './voice.ts'

/**
 * Requests of which is not known yet what their constraints let follow. It is found out while the device computes, a slice
 * for each of them in turn, so that nobody waits for it. Who still does not know when a token is due is held: it computes
 * nothing more until then.
 */
export class AwaitedMasks {
  readonly #slice: number
  readonly #voices = new Map<Sequence, Voice>()
  readonly #held = new Set<Sequence>()

  /** `slice`: how much is done at a time, in the unit of an `Effort` (../constrain/mask-walk.ts). */
  constructor(slice: number) {
    this.#slice = slice
  }

  /** How much may be done for each row while all wait for it, behind an iteration. */
  get effortPerRow(): number {
    return Math.ceil(this.#slice / Math.max(1, this.#voices.size))
  }

  /** Ids of requests whose next token cannot be chosen. */
  get held(): string[] {
    for (const sequence of this.#held) if (sequence.state === 'ended') this.#held.delete(sequence)
    return Array.from(this.#held, ({ id }) => id)
  }

  /** `voice` has said a token, and there may be another. */
  expect(sequence: Sequence, voice: Voice): void {
    if (!voice.prepare({ left: 0 })) this.#voices.set(sequence, voice)
  }

  /** A token was due and could not be chosen. */
  hold(sequence: Sequence, voice: Voice): void {
    this.#voices.set(sequence, voice)
    this.#held.add(sequence)
  }

  /** A slice for whoever had none for longest. */
  work(): void {
    for (const [sequence, voice] of this.#voices) {
      this.#voices.delete(sequence)
      const isOver = sequence.state === 'ended' || voice.prepare({ left: this.#slice })
      if (isOver) this.#held.delete(sequence)
      else this.#voices.set(sequence, voice)
      return
    }
  }

  /** Works until `computing` is settled or all is known; what arrives meanwhile is taken between slices. */
  async workDuring(computing: Promise<unknown>): Promise<void> {
    let isComputing = true
    const stop = () => {
      isComputing = false
    }
    computing.then(stop, stop)
    while (isComputing && this.#voices.size > 0) {
      this.work()
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
}
