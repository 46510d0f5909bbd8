/**
 * Jobs of a cluster whose server is gone. Nobody can know whether they still run there, so they are not started
 * elsewhere: they wait for it and say so, until a person says that the machine is lost.
 */
import { UserError } from '../../base/errors.ts'
import { goneServers, isGone, serverOf } from '../servers/servers.ts'
import { recordEvent } from '../store/events.ts'
import type { Store } from '../store/store.ts'
import { editCluster } from './machines.ts'
import { type JobRow, jobNouns } from './rows.ts'
import { activeStates } from './states.ts'
import { moveJob, type TransitionListener } from './transition.ts'

/** Jobs of one look; the next one goes on. */
const lookedAtMax = 200

/** Says, once for each job, that its cluster is gone; returns to how many. */
export async function noteGone(store: Store): Promise<number> {
  let told = 0
  for (const { cluster, seen_at } of await goneServers(store)) {
    const seconds = Math.round((store.clock.unixMs() - seen_at) / 1000)
    const message =
      `Its cluster ${cluster} was last seen ${seconds} s ago. It may still run there, so it is not started elsewhere. ` +
      `If that machine is lost: ropeway cluster give-up ${cluster}`
    for (const row of await jobsOn(store, cluster)) {
      if (row.status.silenceTold === true) continue
      const status = { ...row.status, silentSinceMs: seen_at, silenceTold: true, message }
      await store.transaction(async () => {
        // Written by somebody else meanwhile: perhaps it is back.
        if ((await jobNouns(store).update(row, { status })) === undefined) return
        await recordEvent(store, { subject: row.id, project: row.project_id, kind: 'job.note', message })
        told++
      })
    }
  }
  return told
}

/**
 * The machine is lost for good: its jobs go on elsewhere, from the checkpoints that were collected. What still runs
 * there is ended should it ever come back. Throws UserError while its server is there. Within a transaction of the
 * caller, or one of its own.
 */
export async function giveUpCluster(
  store: Store,
  cluster: string,
  onMoved?: TransitionListener,
): Promise<number> {
  const server = await serverOf(store, cluster)
  if (server !== undefined && !isGone(server, store.clock.unixMs()))
    throw new UserError(`The server of ${cluster} is there: its jobs run.`, {
      failure: 'conflict',
      fix: `To get them away from it, ropeway cluster edit ${cluster} --no-open and stop them.`,
    })
  return await store.transaction(async () => {
    await editCluster(store, cluster, { open: false })
    let moved = 0
    for (let rows = await jobsOn(store, cluster); rows.length > 0; rows = await jobsOn(store, cluster)) {
      for (const row of rows) await leave(store, row, onMoved)
      moved += rows.length
    }
    return moved
  })
}

async function leave(store: Store, row: JobRow, onMoved?: TransitionListener): Promise<void> {
  const jobs = jobNouns(store)
  const message = `Its cluster ${row.cluster} was given up as lost.`
  const on = async (from: JobRow, to: 'stopping' | 'stopped' | 'waiting') => {
    const moved = await moveJob(jobs, from, { to, reason: 'rank_lost', message }, onMoved)
    if (moved !== undefined) return moved
    throw new UserError(`The job ${row.name} changes at this moment.`, {
      failure: 'conflict',
      fix: 'Try again.',
    })
  }
  // Only from stopping does a job come to rest or back into the queue, whatever it did before.
  const stopping = row.state === 'stopping' ? row : await on(row, 'stopping')
  await on(stopping, row.stop_requested === 1 ? 'stopped' : 'waiting')
}

async function jobsOn(store: Store, cluster: string): Promise<JobRow[]> {
  const { rows } = await jobNouns(store).list({
    limit: lookedAtMax,
    where: (is) => is.and([is('state', 'in', [...activeStates]), is('cluster', '=', cluster)]),
  })
  return rows
}
