import type { JobPlacement } from '../../api/control/jobs.ts'
import type { CredentialUsesIn } from '../credentials/uses.ts'
import type { Store } from '../store/store.ts'
import { jobNouns } from './rows.ts'
import { finalStates } from './states.ts'
import { templateNouns } from './templates.ts'

/** Of jobs that wait or run. */
export function credentialsOfJobs(store: Store): CredentialUsesIn {
  return async (project) => {
    const rows = await jobNouns(store).all({
      project,
      where: (is) => is.and([is('state', 'not in', finalStates)]),
    })
    return rows.flatMap(({ id, name, spec }) =>
      namesIn(spec.placement, spec.file).map((credential) => ({ credential, by: 'job' as const, id, name })),
    )
  }
}

export function credentialsOfTemplates(store: Store): CredentialUsesIn {
  return async (project) =>
    (await templateNouns(store).all({ project })).flatMap(({ id, name, spec: { file } }) =>
      // It was checked when it was saved.
      namesIn((file.job ?? {}) as Partial<JobPlacement>, file).map((credential) => ({
        ...{ credential, by: 'template' as const, id, name },
      })),
    )
}

function namesIn(
  { credentials = [], notify }: Partial<JobPlacement>,
  file: Readonly<Record<string, unknown>>,
): string[] {
  const registry = 'run' in file && typeof file.registry === 'string' ? [file.registry] : []
  return [...new Set([...credentials, ...(notify === undefined ? [] : [notify.slack]), ...registry])]
}
