/**
 * Between training and one sink: training puts events in and goes on; they are written in the background. What cannot
 * be written waits, within a limit; the run is told once that it waits, once that it is over, and never fails for it.
 */
import type { Clock } from '../../base/clock.ts'
import { messageOf } from '../../base/errors.ts'
import type { RunEvent, Sink } from './sink.ts'

/** Events of one call. */
export const eventsMax = 200
/** Events that wait; beyond, the oldest metrics are left out. */
export const waitingMax = 5000
/** One call may take so long, and all that are left when the run ends. */
const callMs = 10_000
const closingMs = 15_000
const [retryFirstMs, retryLastMs] = [1000, 60_000]

export class Outbox {
  readonly #sink: Sink
  readonly #clock: Clock
  readonly #onNote: (text: string) => void
  #waiting: RunEvent[] = []
  #writing: Promise<void> | undefined
  #retryMs = retryFirstMs
  #notBeforeMs = Number.NEGATIVE_INFINITY
  #failed = false
  #lost = 0
  /** Ends what is being written when the run has waited long enough. */
  readonly #given = new AbortController()

  constructor(sink: Sink, clock: Clock, onNote: (text: string) => void) {
    this.#sink = sink
    this.#clock = clock
    this.#onNote = onNote
  }

  put(event: RunEvent): void {
    if (this.#waiting.length >= waitingMax) this.#makeRoom()
    this.#waiting.push(event)
    this.#start()
  }

  /** Tries once more to write what waits, for a limited time also where each call is slow; says what is lost. */
  async close(forMs = closingMs): Promise<void> {
    const over = AbortSignal.timeout(forMs)
    over.addEventListener('abort', () => this.#given.abort(new Error('it is too slow')))
    await this.#writing
    this.#notBeforeMs = Number.NEGATIVE_INFINITY
    this.#start()
    await this.#writing
    const left = this.#waiting.length + this.#lost
    if (left > 0) this.#onNote(`${this.#sink.name} did not get ${left} events of this run.`)
  }

  #makeRoom(): void {
    // Starts, ends and faults stay; a curve can do without some of its points.
    const place = this.#waiting.findIndex(({ kind }) => kind === 'metrics')
    this.#waiting.splice(Math.max(place, 0), 1)
    this.#lost++
  }

  #start(): void {
    if (this.#writing !== undefined || this.#clock.nowMs() < this.#notBeforeMs) return
    this.#writing = this.#writeAll().finally(() => {
      this.#writing = undefined
    })
  }

  async #writeAll(): Promise<void> {
    while (this.#waiting.length > 0 && !this.#given.signal.aborted) {
      const batch = this.#waiting.slice(0, eventsMax)
      try {
        const signal = AbortSignal.any([this.#given.signal, AbortSignal.timeout(callMs)])
        await this.#sink.write(batch, signal)
      } catch (error) {
        this.#delay(messageOf(error))
        return
      }
      // Room may have been made meanwhile: what was written is what leaves.
      const written = new Set(batch)
      this.#waiting = this.#waiting.filter((event) => !written.has(event))
      if (this.#failed) this.#onNote(`${this.#sink.name} takes events again.`)
      this.#failed = false
      this.#retryMs = retryFirstMs
    }
  }

  #delay(reason: string): void {
    if (!this.#failed) this.#onNote(`${this.#sink.name} takes no events (${reason}); training goes on.`)
    this.#failed = true
    this.#notBeforeMs = this.#clock.nowMs() + this.#retryMs
    this.#retryMs = Math.min(retryLastMs, this.#retryMs * 2)
  }
}
