import type { CredentialUsesIn } from '../credentials/uses.ts'
import { Nouns } from '../store/nouns.ts'
import type { Store } from '../store/store.ts'
import type { CheckpointRow } from './rows.ts'

/** Of checkpoints that are links. */
export function credentialsOfCheckpoints(store: Store): CredentialUsesIn {
  const checkpoints = new Nouns<CheckpointRow>(store, 'checkpoints', 'checkpoint')
  return async (project) => {
    // Most are of jobs, and none of those is a link.
    const rows = await checkpoints.all({ project, where: (is) => is.and([is('job_id', 'is', null)]) })
    return rows.flatMap(({ id, name, spec: { source } }) =>
      source.kind === 'link' && source.link.credential !== undefined
        ? [{ credential: source.link.credential, by: 'checkpoint', id, name }]
        : [],
    )
  }
}
