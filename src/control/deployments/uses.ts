/** What deployments need of checkpoints and models, read from their rows whenever somebody asks. */
import type { CredentialUsesIn } from '../credentials/uses.ts'
import type { UsesIn } from '../models/uses.ts'
import type { Condition } from '../store/nouns.ts'
import type { Store } from '../store/store.ts'
import { type DeploymentRow, deploymentNouns, type Source } from './rows.ts'

/** Versions that answer, are to answer, or are a rollback away. */
export function versionsInUse({ spec, status }: Pick<DeploymentRow, 'spec' | 'status'>): Set<string> {
  const { serving, candidate, previous, served, replicas } = status
  const before = served.filter((one) => one !== serving).at(-1)
  const some = [spec.target, serving, candidate?.version, previous?.version, before]
  return new Set([...some.filter((one) => one != null), ...replicas.map(({ version }) => version)])
}

/** Of a deployment, as far as it is in use. */
function sourcesInUse(row: DeploymentRow): Source[] {
  const used = versionsInUse(row)
  return row.spec.versions
    .filter(({ id }) => used.has(id))
    .flatMap(({ sources }) => (sources === undefined ? [] : Object.values(sources)))
}

export function usesOfDeployments(store: Store): UsesIn {
  return async (project) => {
    const rows = await deploymentNouns(store).all({ project })
    return rows.flatMap((row) =>
      sourcesInUse(row).map(({ checkpoint, model }) => ({
        ...{ by: `the deployment ${row.name}`, checkpoint },
        ...(model !== undefined && { model }),
      })),
    )
  }
}

/** Checkpoints that deployments of a cluster need there. */
export async function checkpointsUsedOn(store: Store, cluster: string): Promise<Set<string>> {
  const where: Condition = (is) => is.and([is('cluster', '=', cluster)])
  const rows = await deploymentNouns(store).all({ where })
  return new Set(rows.flatMap((row) => sourcesInUse(row).map(({ checkpoint }) => checkpoint)))
}

/** Messages about deployments go through credentials. */
export function credentialsOfDeployments(store: Store): CredentialUsesIn {
  return async (project) =>
    (await deploymentNouns(store).all({ project })).flatMap(({ id, name, spec }) =>
      spec.notify == null ? [] : [{ credential: spec.notify.slack, by: 'deployment', id, name }],
    )
}
