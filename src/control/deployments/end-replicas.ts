import { setTimeout as delay } from 'node:timers/promises'
import { isOver, type Launcher } from '../launchers/launcher.ts'
import type { Store } from '../store/store.ts'
import { deploymentNouns, isReplicaRun } from './rows.ts'

/** What replicas get to end, and how often they are looked at meanwhile. */
const endMsMax = 10_000
const lookEveryMs = 50
const rowsMax = 500

/**
 * Ends what runs for the deployments of this cluster, for a server that leaves nothing behind; the next one starts
 * them anew. Nobody else may look after them meanwhile. What does not end in time is ended by the next server.
 */
export async function endReplicas(store: Store, launcher: Launcher, cluster: string): Promise<void> {
  const nouns = deploymentNouns(store)
  const { rows } = await nouns.list({ where: (is) => is.and([is('cluster', '=', cluster)]), limit: rowsMax })
  for (const { id } of rows)
    await nouns.change(id, ({ status }) => ({
      due_at: store.clock.unixMs(),
      // Whoever looks before the next server has looked must not think that it answers.
      state: 'starting' as const,
      // Numbers of replicas go on: an id is never given twice.
      status: { ...status, replicas: [] },
    }))
  const runs = (await launcher.listOwned()).filter(isReplicaRun)
  await Promise.all(runs.map((id) => launcher.cancel(id, endMsMax / 2)))
  const untilMs = store.clock.nowMs() + endMsMax
  for (const id of runs) {
    while (!isOver(await launcher.observe(id)) && store.clock.nowMs() < untilMs) await delay(lookEveryMs)
    if (isOver(await launcher.observe(id))) await launcher.remove(id)
  }
}
