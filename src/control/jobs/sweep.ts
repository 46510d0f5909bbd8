/**
 * What nobody needs any more: runs outside that no job knows as its own (their job was decided elsewhere), and the
 * records, runs and files of jobs that were deleted a while ago.
 */
import type { Store } from '../store/store.ts'
import type { ServedCluster } from './reconcile.ts'
import { type JobTables, jobNouns } from './rows.ts'

/** Until then a deleted job can be brought back, and nobody can be left who still submits one of its attempts. */
export const keptMs = 24 * 3_600_000
const sweptMax = 100

/** Returns how many jobs were cleared away. */
export async function sweep(store: Store, clusters: ReadonlyMap<string, ServedCluster>): Promise<number> {
  for (const { launcher } of clusters.values()) await cancelStrays(store, launcher)
  const jobs = jobNouns(store)
  const { rows } = await jobs.list({
    deleted: true,
    limit: sweptMax,
    where: (is) => is.and([is('deleted_at', '<=', store.clock.unixMs() - keptMs)]),
  })
  let swept = 0
  for (const { id } of rows) {
    const db = store.db<JobTables>()
    const attempts = await db.selectFrom('job_attempts').selectAll().where('job_id', '=', id).execute()
    const served = attempts.map(({ cluster, run_id }) => ({ run: run_id, cluster: clusters.get(cluster) }))
    // Attempts on the clusters of another server are that server's to remove.
    if (served.some(({ cluster }) => cluster === undefined)) continue
    const gone = await Promise.all(served.map(({ run, cluster }) => cluster!.launcher.remove(run)))
    if (!gone.every(Boolean)) continue
    for (const { workplace } of new Set(served.map(({ cluster }) => cluster!))) workplace.remove(id)
    await store.transaction(async () => {
      await db.deleteFrom('job_metrics').where('job_id', '=', id).execute()
      await jobs.purge(id)
    })
    swept++
  }
  return swept
}

/** A run of a job that is not its attempt is of a time that is over; cancelling one that ended changes nothing. */
async function cancelStrays(store: Store, launcher: ServedCluster['launcher']): Promise<void> {
  const owned = (await launcher.listOwned()).filter((id) => id.startsWith('job_'))
  for (let offset = 0; offset < owned.length; offset += sweptMax) {
    const some = owned.slice(offset, offset + sweptMax)
    const current = await store
      .db<JobTables>()
      .selectFrom('jobs')
      .select('run_id')
      .where('run_id', 'in', some)
      .execute()
    const known = new Set(current.map(({ run_id }) => run_id))
    for (const id of some) {
      if (known.has(id)) continue
      const { members } = await launcher.observe(id)
      const isLive = members.some(({ state }) => state === 'starting' || state === 'running')
      if (isLive) await launcher.cancel(id, 0)
    }
  }
}
