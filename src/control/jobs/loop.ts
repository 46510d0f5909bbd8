/**
 * The loops of one server: schedules, looks after its clusters' jobs, and clears away what nobody needs. Each pass reads
 * everything that it needs; one that fails is logged and the next one is another.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Store } from '../store/store.ts'
import { lookedAtMax, type ReconcileOptions, reconcileDue, type ServedCluster } from './reconcile.ts'
import { PlanOutdated, schedule } from './scheduler.ts'
import { sweep } from './sweep.ts'
import type { TransitionListener } from './transition.ts'

export interface JobLoopOptions {
  readonly store: Store
  readonly clusters: ReadonlyMap<string, ServedCluster>
  readonly onMoved?: TransitionListener
  readonly onCheckpoint?: ReconcileOptions['onCheckpoint']
  /** With the job's id, or `''` for a pass as a whole. */
  readonly onTrouble: (job: string, error: unknown) => void
}

const passEveryMs = 500
const sweepEveryMs = 60_000

export class JobLoop {
  readonly #options: JobLoopOptions
  readonly #owner: string
  readonly #ending = new AbortController()
  #waking = new AbortController()
  #running: Promise<void> | undefined
  #lastSweepMs = Number.NEGATIVE_INFINITY

  constructor(options: JobLoopOptions) {
    this.#options = options
    this.#owner = options.store.ids.next('loop')
  }

  start(): void {
    this.#running ??= this.#run()
  }

  /** Something changed: look now instead of at the next pass. */
  wake(): void {
    this.#waking.abort()
  }

  /** The pass in hand is finished; jobs go on without us. */
  async stop(): Promise<void> {
    this.#ending.abort()
    this.wake()
    await this.#running
  }

  async #run(): Promise<void> {
    while (!this.#ending.signal.aborted) {
      this.#waking = new AbortController()
      const found = await this.#pass()
      if (found < lookedAtMax) await sleep(passEveryMs, this.#waking.signal)
    }
  }

  async #pass(): Promise<number> {
    const { store, clusters, onMoved, onCheckpoint, onTrouble } = this.#options
    const found = await this.#guard(async () => {
      await schedule(store, this.#owner, onMoved)
      return await reconcileDue({
        store,
        owner: this.#owner,
        clusters,
        onTrouble,
        ...(onMoved && { onMoved }),
        ...(onCheckpoint && { onCheckpoint }),
      })
    })
    const nowMs = store.clock.nowMs()
    if (nowMs - this.#lastSweepMs >= sweepEveryMs) {
      this.#lastSweepMs = nowMs
      await this.#guard(() => sweep(store, clusters))
    }
    return found
  }

  async #guard(work: () => Promise<number>): Promise<number> {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof PlanOutdated)) this.#options.onTrouble('', error)
      return 0
    }
  }
}

async function sleep(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return
  await delay(ms, undefined, { signal }).catch((error: Error) => {
    if (error.name !== 'AbortError') throw error
  })
}
