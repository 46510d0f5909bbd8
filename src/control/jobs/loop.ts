/** The loop of one server: schedules, looks after its clusters' jobs, sends messages, and clears away what nobody needs. */
import type { Logger } from '../../base/log.ts'
import type { Sealer } from '../credentials/sealer.ts'
import { type Loop, startLoop } from '../service/loop.ts'
import type { Store } from '../store/store.ts'
import { noteGone } from './gone.ts'
import { sendNotices } from './notices.ts'
import { lookedAtMax, type ReconcileOptions, reconcileDue, type ServedCluster } from './reconcile.ts'
import { PlanOutdated, schedule } from './scheduler.ts'
import { sweep } from './sweep.ts'

export interface JobLoopOptions {
  readonly store: Store
  readonly log: Logger
  /** This loop of this server; nobody else is called so. */
  readonly owner: string
  /** Opens the credentials that messages go through. */
  readonly sealer: Sealer
  /** Those that this server looks after, by name. */
  readonly clusters: ReadonlyMap<string, ServedCluster>
  readonly onCheckpoint?: ReconcileOptions['onCheckpoint']
}

const passEveryMs = 500
const sweepEveryMs = 60_000

export function startJobLoop({ store, log, owner, sealer, clusters, onCheckpoint }: JobLoopOptions): Loop {
  let lastSweepMs = Number.NEGATIVE_INFINITY
  const options = {
    store,
    owner,
    clusters,
    onTrouble: (job: string, error: unknown) =>
      log.warn({ job, err: error }, 'a job could not be looked after'),
    ...(onCheckpoint && { onCheckpoint }),
  }
  return startLoop({
    name: 'jobs',
    everyMs: passEveryMs,
    log,
    pass: async () => {
      // When a job changed while the plan was made, the next pass makes another.
      const isScheduler = await schedule(store, owner).catch((error: unknown) => {
        if (!(error instanceof PlanOutdated)) throw error
        return true
      })
      if (isScheduler) await noteGone(store)
      while ((await reconcileDue(options)) === lookedAtMax);
      await sendNotices(store, sealer, owner)
      if (store.clock.nowMs() - lastSweepMs < sweepEveryMs) return
      lastSweepMs = store.clock.nowMs()
      await sweep(store, clusters)
    },
  })
}
