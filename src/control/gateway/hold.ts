import { Problem } from '../../http/problem.ts'
import type { ReplicaTable } from './replicas.ts'

export interface HoldLimits {
  /** How long a request waits for a first replica. */
  holdMs: number
  /** Requests that wait for one deployment; further ones are refused. */
  heldMax: number
  /** So often at most a waiting stream hears that it waits. */
  progressMs: number
}

export const holdLimits: HoldLimits = { holdMs: 120_000, heldMax: 1000, progressMs: 1000 }

/**
 * Starts what a deployment needs to answer, from nothing. Called when the first request waits and not again
 * while any does; what it returns, if anything, is said to those who wait (`loading weights, 40 %`).
 */
export type Wake = (deployment: string) => { progress?: () => string } | undefined

/** Requests of deployments that have no ready replica, until they have one. */
export class Hold {
  readonly #table: ReplicaTable
  readonly #limits: HoldLimits
  readonly #wake: Wake
  readonly #held = new Map<string, { count: number; progress: () => string }>()

  constructor(table: ReplicaTable, wake: Wake, limits: Partial<HoldLimits> = {}) {
    this.#table = table
    this.#wake = wake
    this.#limits = { ...holdLimits, ...limits }
  }

  /** How many wait for a deployment now. */
  held(deployment: string): number {
    return this.#held.get(deployment)?.count ?? 0
  }

  /**
   * Resolves when `isReady` holds after a change of the table; throws 503 after the limit, and the signal's
   * reason when it aborts. `say` hears now and then what is going on.
   */
  async until(
    deployment: string,
    isReady: () => boolean,
    signal: AbortSignal,
    say: (progress: string) => void,
  ): Promise<void> {
    signal.throwIfAborted()
    const { holdMs, heldMax, progressMs } = this.#limits
    const held = this.#enter(deployment, heldMax)
    let stop = () => {}
    try {
      await new Promise<void>((resolve, reject) => {
        const look = () => isReady() && resolve()
        const late = setTimeout(() => reject(notReady(deployment, 'did not get ready in time')), holdMs)
        const saying = setInterval(() => say(held.progress()), progressMs)
        const gone = () => reject(signal.reason)
        const forget = this.#table.onChange(look)
        signal.addEventListener('abort', gone)
        stop = () => {
          clearTimeout(late)
          clearInterval(saying)
          forget()
          signal.removeEventListener('abort', gone)
        }
        say(held.progress())
        look()
      })
    } finally {
      stop()
      held.count--
      if (held.count === 0) this.#held.delete(deployment)
    }
  }

  #enter(deployment: string, heldMax: number) {
    let held = this.#held.get(deployment)
    if (held !== undefined && held.count >= heldMax) {
      throw notReady(deployment, `is not ready, and ${heldMax} requests wait for it already`)
    }
    if (held === undefined) {
      held = { count: 0, progress: () => 'starting a replica' }
      this.#held.set(deployment, held)
      const woken = this.#wake(deployment)
      if (woken?.progress !== undefined) held.progress = woken.progress
    }
    held.count++
    return held
  }
}

function notReady(deployment: string, why: string): Problem {
  return new Problem(503, 'deployment_not_ready', `The deployment '${deployment}' ${why}. Retry in 5 s.`, {
    headers: { 'retry-after': '5' },
  })
}
