import { messageOf } from '../../base/errors.ts'
import type { Logger } from '../../base/log.ts'

/** Work that goes on beside the requests, until it is stopped. */
export interface Loop {
  readonly name: string
  /** Looks now instead of at the next tick. */
  wake(): void
  /** Resolves when the pass that runs has ended; none begins after. */
  stop(): Promise<void>
}

export interface LoopTerms {
  readonly name: string
  /** How long nothing that should be done waits, if nobody wakes the loop. */
  readonly everyMs: number
  readonly log: Logger
  /** Looks at what is and does what is missing. Runs alone; what it throws is logged, and it runs again. */
  pass(): Promise<void>
}

const failureWaitMsMax = 60_000

/** Runs `pass` again and again: level-triggered, so a wake-up that is lost costs `everyMs` and nothing else. */
export function startLoop({ name, everyMs, log, pass }: LoopTerms): Loop {
  let stopping = false
  let woken = false
  let wakeUp: () => void = () => undefined
  const pause = (ms: number) =>
    new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms)
      wakeUp = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  const run = async () => {
    let failures = 0
    while (!stopping) {
      woken = false
      try {
        await pass()
        failures = 0
      } catch (error) {
        failures++
        log.error({ err: error, loop: name, failures }, `pass failed: ${messageOf(error)}`)
      }
      if (stopping) return
      const waitMs =
        failures === 0 ? everyMs : Math.min(failureWaitMsMax, everyMs * 2 ** Math.min(failures, 10))
      if (!woken || failures > 0) await pause(waitMs)
    }
  }
  const ended = run()
  return {
    name,
    wake() {
      woken = true
      wakeUp()
    },
    async stop() {
      stopping = true
      wakeUp()
      await ended
    },
  }
}
