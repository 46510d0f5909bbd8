import type { QueueEstimate } from './request.ts'

const startsAveraged = 32
const ratiosKept = 200
const ratiosBeforeBand = 20
/** Before there is experience the band is this wide. */
const unknownHigh = 8

/** What was said about a start. */
export interface Expectation {
  position: number
  startsBefore: number
  expectedMs: number
  sinceMs: number
}

/** Whoever waits carries what was said. */
export interface Waiter {
  expectation: Expectation | undefined
}

/**
 * Says how long a request will wait, and how sure that is. The middle is the position times the time
 * between two starts lately; the band comes from how earlier waits compared with what was said about
 * them (conformal prediction), so it needs no assumption about lengths or arrivals.
 */
export class WaitEstimator {
  readonly #ratios: number[] = []
  #sorted: number[] = []
  #ratioCount = 0
  // A clock that runs only while somebody waits, and the moments of the last starts on it.
  #busyMs = 0
  #lastMs: number | undefined
  readonly #startedAtBusyMs: number[] = []
  #starts = 0
  #iterationMs = 0

  /** Called before {@link waits} of a request that nobody waits beside. Until then the clock stood, whenever the last iteration was. */
  begins(nowMs: number): void {
    this.#lastMs = nowMs
  }

  /** Nobody waits and nobody runs: how slow starts were when many did says nothing of the next ones. */
  forget(): void {
    this.#startedAtBusyMs.length = 0
  }

  /** Called once an iteration. */
  tick(nowMs: number, waiting: number): void {
    if (this.#lastMs !== undefined && waiting > 0) this.#busyMs += nowMs - this.#lastMs
    this.#lastMs = nowMs
  }

  iterationTook(ms: number): void {
    this.#iterationMs += (ms - this.#iterationMs) * 0.1
  }

  /** Called when `waiter` begins to wait behind `position` others. */
  waits(waiter: Waiter, position: number, nowMs: number): QueueEstimate {
    const expectedMs = this.expectedMs(position)
    waiter.expectation = { position, startsBefore: this.#starts, expectedMs, sinceMs: nowMs }
    return this.#banded(position, expectedMs)
  }

  started({ expectation: said }: Waiter, nowMs: number): void {
    this.#starts++
    this.#startedAtBusyMs.push(this.#busyMs)
    if (this.#startedAtBusyMs.length > startsAveraged) this.#startedAtBusyMs.shift()
    // Requests that found an empty queue tell nothing about waiting.
    if (said === undefined || said.position === 0 || said.expectedMs === 0) return
    this.#ratios[this.#ratioCount++ % ratiosKept] = (nowMs - said.sinceMs) / said.expectedMs
    if (this.#ratioCount % 4 === 0) this.#sorted = [...this.#ratios].sort((a, b) => a - b)
  }

  /** The estimate for a request that still waits, as of now. */
  now({ expectation: said }: Waiter): QueueEstimate | undefined {
    if (said === undefined) return undefined
    const position = Math.max(0, said.position - (this.#starts - said.startsBefore))
    return this.#banded(position, this.expectedMs(position))
  }

  expectedMs(position: number): number {
    return Math.max(this.#iterationMs, (position + 1) * this.#betweenStartsMs())
  }

  #betweenStartsMs(): number {
    const count = this.#startedAtBusyMs.length
    if (count < 2) return this.#iterationMs
    // Up to now and not up to the last start: a queue that stands still must lengthen the estimate.
    return (this.#busyMs - this.#startedAtBusyMs[0]!) / count
  }

  #banded(position: number, expectedMs: number): QueueEstimate {
    const sorted = this.#sorted
    if (sorted.length < ratiosBeforeBand) {
      const highMs = unknownHigh * expectedMs
      return { position, expectedStartMs: expectedMs, lowMs: 0, highMs }
    }
    const low = sorted[Math.floor(sorted.length * 0.03)]!
    const high = sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * 0.97))]!
    const middle = sorted[sorted.length >> 1]!
    const expectedStartMs = expectedMs * middle
    return { position, expectedStartMs, lowMs: expectedMs * low, highMs: expectedMs * high }
  }
}
