/** Long work that is done in between: signals are heard while it goes on, and it ends where it is asked to. */
import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises'
import { systemClock } from './clock.ts'

/** Called now and then by long work; rejects where the work is to end. */
export type Pause = () => Promise<void>

/** Between the turns of the event loop; they cost some microseconds. */
const everyMs = 50

/** Lets the event loop turn where it has not for a while, so that signals are heard; throws what `interrupted` makes once `signal` is aborted. */
export function pausesUntil(signal: AbortSignal | undefined, interrupted: () => Error): Pause {
  let lastMs = systemClock.nowMs()
  return async () => {
    if (systemClock.nowMs() - lastMs >= everyMs) {
      // The first may end a turn that has looked for signals before.
      for (let turns = 0; turns < 2; turns++) await turn()
      lastMs = systemClock.nowMs()
    }
    if (signal?.aborted === true) throw interrupted()
  }
}

/** Never ends the work. */
export const neverInterrupted: Pause = pausesUntil(undefined, () => new Error('never'))

export async function waitPausing(ms: number, pause: Pause): Promise<void> {
  await delay(ms)
  await pause()
}

/** Work in steps of some milliseconds: whoever drives it decides what happens between them. */
export type Steps<Result> = Generator<void, Result, void>

export function atOnce<Result>(steps: Steps<Result>): Result {
  for (;;) {
    const { done, value } = steps.next()
    if (done === true) return value
  }
}

export async function withPauses<Result>(steps: Steps<Result>, pause: Pause): Promise<Result> {
  try {
    for (;;) {
      const { done, value } = steps.next()
      if (done === true) return value
      await pause()
    }
  } finally {
    // What the work holds is given back when it is given up.
    steps.return(undefined as never)
  }
}
