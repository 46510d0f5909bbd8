/**
 * How many threads a step computes with, found by trying. ggml's threads meet spinning after every operation:
 * on a free machine two are faster, but where a neighbour takes a core all wait for the one that lost it and
 * one thread is ten times as fast as two. The results are the same bits for every number.
 */
export class ThreadChoice {
  readonly #candidates: readonly number[]
  readonly #trialSteps: number
  readonly #periodSteps: number
  #best: number
  #steps = 0
  #times = new Map<number, number[]>()

  /** Tries `most` and 1 for some steps each, now and again every `periodSteps`. */
  constructor(most: number, trialSteps = 3, periodSteps = 100) {
    this.#candidates = most > 1 ? [most, 1] : [1]
    this.#trialSteps = trialSteps
    this.#periodSteps = periodSteps
    this.#best = most
  }

  /** For the step that comes next. */
  get threads(): number {
    const trial = Math.floor((this.#steps % this.#periodSteps) / this.#trialSteps)
    return this.#candidates[trial] ?? this.#best
  }

  /** Tells how long the step took that ran with {@link threads}. */
  took(elapsedMs: number): void {
    const inTrial = this.#steps % this.#periodSteps < this.#trialSteps * this.#candidates.length
    if (inTrial) this.#times.set(this.threads, [...(this.#times.get(this.threads) ?? []), elapsedMs])
    this.#steps++
    if (this.#steps % this.#periodSteps === this.#trialSteps * this.#candidates.length) this.#decide()
  }

  #decide(): void {
    const medianMs = (threads: number) => {
      const times = this.#times.get(threads)!.sort((a, b) => a - b)
      return times[Math.floor(times.length / 2)]!
    }
    this.#best = this.#candidates.reduce((best, threads) =>
      medianMs(threads) < medianMs(best) ? threads : best,
    )
    this.#times = new Map()
  }
}
