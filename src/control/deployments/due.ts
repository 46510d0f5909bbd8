import type { Store } from '../store/store.ts'
import type { DeploymentRow } from './rows.ts'

interface Tables {
  deployments: DeploymentRow
}

/** Makes a row due without writing over it: a hint that no version needs to guard. */
export async function dueAfter(store: Store, id: string, afterMs: number): Promise<void> {
  await store
    .db<Tables>()
    .updateTable('deployments')
    .set({ due_at: store.clock.unixMs() + afterMs })
    .where('id', '=', id)
    .execute()
}

/** A request waits for a replica of the deployment of this name. */
export async function noteWanted(store: Store, name: string): Promise<void> {
  const nowMs = store.clock.unixMs()
  await store
    .db<Tables>()
    .updateTable('deployments')
    .set({ wanted_at: nowMs, due_at: nowMs })
    .where('name', '=', name)
    .where('deleted_at', 'is', null)
    .execute()
}
