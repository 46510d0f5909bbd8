/** Answers that may go on for hours: whoever gets one is asked again and again whether they still may have it. */
import type { Readable } from 'node:stream'
import { Refused } from '../../api/control/problem.ts'

const askEveryMs = 5_000

/** Asks who they are and what they may, as when their request came in. Throws `Refused`. */
export type AskAgain = () => Promise<void>

export class Standing {
  readonly #ask: AskAgain
  readonly #everyMs: number
  readonly #onLost: (refusal: Refused) => void
  #timer: NodeJS.Timeout | undefined
  #isAsking = false
  /** Why the answer ends. */
  refusal: Refused | undefined

  constructor(ask: AskAgain, onLost: (refusal: Refused) => void, everyMs = askEveryMs) {
    this.#ask = ask
    this.#onLost = onLost
    this.#everyMs = everyMs
  }

  start(): void {
    this.#timer = setInterval(() => void this.#check(), this.#everyMs).unref()
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  async #check(): Promise<void> {
    if (this.#isAsking) return
    this.#isAsking = true
    try {
      await this.#ask()
    } catch (error) {
      // A database that cannot be asked at this moment takes nothing from anybody.
      if (!(error instanceof Refused)) return
      this.stop()
      this.refusal = error
      this.#onLost(error)
    } finally {
      this.#isAsking = false
    }
  }
}

/** The events; the last one says why they end, where that is a refusal. */
export async function* eventsFor<Event>(
  standing: Standing,
  events: AsyncIterable<Event>,
  lastOf: (refusal: Refused) => Event,
): AsyncGenerator<Event> {
  standing.start()
  try {
    for await (const event of events) {
      if (standing.refusal !== undefined) break
      yield event
    }
    if (standing.refusal !== undefined) yield lastOf(standing.refusal)
  } catch (error) {
    if (!(error instanceof Refused)) throw error
    yield lastOf(error)
  } finally {
    standing.stop()
  }
}

/** Bytes have no place for a last word: the connection breaks, short of the length that was announced. */
export function bytesFor(standing: Standing, bytes: Readable): Readable {
  standing.start()
  return bytes.once('close', () => standing.stop())
}
