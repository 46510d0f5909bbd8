import type { Store } from '../store/store.ts'
import { deploymentNouns } from './rows.ts'
import { tell } from './telling.ts'

/** Deployments of one reading. */
const pageRows = 200

/**
 * The machine `from` is lost: its deployments start anew on `to`. Replicas that still run there are no deployment's
 * any more, and are ended should it come back. Returns how many.
 */
export async function moveDeployments(store: Store, from: string, to: string): Promise<number> {
  const nouns = deploymentNouns(store)
  return await store.transaction(async () => {
    let moved = 0
    for (;;) {
      const { rows } = await nouns.list({
        limit: pageRows,
        where: (is) => is.and([is('cluster', '=', from)]),
      })
      if (rows.length === 0) return moved
      for (const row of rows) {
        await nouns.change(row.id, ({ status }) => ({
          cluster: to,
          due_at: store.clock.unixMs(),
          // Numbers of replicas go on: an id is never given twice.
          status: { ...status, replicas: [] },
        }))
        const message = `${from} was given up as lost; its replicas start on ${to}.`
        await tell(store, row, { kind: 'deployment.moved', message })
        moved++
      }
    }
  })
}
