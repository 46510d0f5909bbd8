/** Clusters with their devices, and what projects may use of them. */
import type { ClusterSpec } from '../../api/control/machines.ts'
import { UserError } from '../../base/errors.ts'
import { isGone, serverOf } from '../servers/servers.ts'
import { recordEvent } from '../store/events.ts'
import { holdToVersion } from '../store/nouns.ts'
import type { Store } from '../store/store.ts'
import { type ClusterRow, clusterNouns, type JobTables, type QuotaRow, quotaNouns } from './rows.ts'
import { activeStates } from './states.ts'

/** Clusters are the whole service's. */
const noProject = ''
const clustersMax = 500

/** Makes the cluster, or leaves the one of this name as its owner has set it. */
export async function ensureCluster(store: Store, name: string, spec: ClusterSpec): Promise<ClusterRow> {
  const clusters = clusterNouns(store)
  const made = await clusters.insert({ project_id: noProject, name, spec, status: {} })
  const row = made ?? (await clusters.named(noProject, name))!
  if (row.status.awaited !== true) return row
  return (await clusters.change(row.id, () => ({ status: {} })))!
}

/** Made before a server of it is there; until one comes, it gets no jobs. Undefined when there is one of this name. */
export async function createCluster(
  store: Store,
  name: string,
  spec: ClusterSpec,
): Promise<ClusterRow | undefined> {
  return await store.transaction(async () => {
    const status = { awaited: true }
    const made = await clusterNouns(store).insert({ project_id: noProject, name, spec, status })
    if (made === undefined) return undefined
    await recordEvent(store, { subject: made.id, kind: 'cluster.created', message: 'It was made.' })
    return made
  })
}

/** Refused while its server runs, and while jobs have devices of it or wait for it alone. */
export async function deleteCluster(store: Store, name: string): Promise<ClusterRow> {
  return await store.transaction(async () => {
    const row = await findCluster(store, name)
    const server = await serverOf(store, name)
    if (server !== undefined && !isGone(server, store.clock.unixMs()))
      throw new UserError(`The cluster ${name} is in use: its server at ${server.url} runs.`, {
        failure: 'conflict',
        fix: 'Stop that server first.',
      })
    const jobs = await store
      .db<JobTables>()
      .selectFrom('jobs')
      .select('name')
      .where('deleted_at', 'is', null)
      .where((is) =>
        is.or([
          is.and([is('cluster', '=', name), is('state', 'in', [...activeStates])]),
          is.and([is('wanted_cluster', '=', name), is('state', '=', 'waiting')]),
        ]),
      )
      .limit(1)
      .execute()
    if (jobs.length > 0)
      throw new UserError(
        `The cluster ${name} is in use: the job ${jobs[0]!.name} runs there or waits for it.`,
        {
          failure: 'conflict',
          fix: `Let it end first; ropeway cluster edit ${name} --no-open lets no more come.`,
        },
      )
    await clusterNouns(store).change(row.id, () => ({ deleted_at: store.clock.unixMs() }))
    await recordEvent(store, { subject: row.id, kind: 'cluster.deleted', message: 'It was deleted.' })
    return row
  })
}

export async function listClusters(store: Store): Promise<ClusterRow[]> {
  return (await clusterNouns(store).list({ project: noProject, limit: clustersMax })).rows
}

export async function findCluster(store: Store, name: string): Promise<ClusterRow> {
  const row = await clusterNouns(store).named(noProject, name)
  if (row !== undefined) return row
  throw new UserError(`There is no cluster ${name}.`, {
    failure: 'not_found',
    fix: 'ropeway cluster lists them.',
  })
}

/** Of `version` alone, where that is given. */
export async function editCluster(
  store: Store,
  name: string,
  spec: Partial<ClusterSpec>,
  version?: number,
): Promise<ClusterRow> {
  const { id } = await findCluster(store, name)
  return await store.transaction(async () => {
    const changed = await clusterNouns(store).change(id, (row) => {
      holdToVersion(row, version, `the cluster ${name}`)
      return { spec: { ...row.spec, ...spec } }
    })
    await recordEvent(store, {
      subject: id,
      kind: 'cluster.edited',
      message: 'Its devices or its state were set.',
    })
    return changed!
  })
}

/** Devices that jobs have, by `owner` and type. */
export async function devicesUsed(
  store: Store,
  owner: 'cluster' | 'project_id',
): Promise<Map<string, Record<string, number>>> {
  const rows = await store
    .db<JobTables>()
    .selectFrom('jobs')
    .select([`${owner} as owner`, 'device_type'])
    .select(({ fn }) => fn.sum<number>('devices').as('devices'))
    .where('state', 'in', [...activeStates])
    .groupBy([owner, 'device_type'])
    .execute()
  const used = new Map<string, Record<string, number>>()
  for (const row of rows) {
    const key = String(row.owner ?? '')
    used.set(key, { ...used.get(key), [row.device_type]: row.devices })
  }
  return used
}

const quotasMax = 500

export async function listQuotas(store: Store, project: string): Promise<QuotaRow[]> {
  return (await quotaNouns(store).list({ project, limit: quotasMax })).rows
}

/** Sets what a project may use of a device type; running jobs keep what they have. */
export async function setQuota(
  store: Store,
  project: string,
  device: string,
  devices: number,
): Promise<QuotaRow> {
  const quotas = quotaNouns(store)
  return await store.transaction(async () => {
    const made = await quotas.insert({ project_id: project, name: device, devices, spec: {}, status: {} })
    const known = made ?? (await quotas.named(project, device))!
    const row = made ?? (await quotas.change(known.id, () => ({ devices })))!
    await recordEvent(store, {
      subject: row.id,
      project,
      kind: 'quota.set',
      message: `The project may use ${devices} of ${device}.`,
    })
    return row
  })
}

/** Takes the limit away; false when there was none. */
export async function deleteQuota(store: Store, project: string, device: string): Promise<boolean> {
  const quotas = quotaNouns(store)
  return await store.transaction(async () => {
    const row = await quotas.named(project, device)
    if (row === undefined) return false
    await quotas.change(row.id, () => ({ deleted_at: store.clock.unixMs() }))
    await recordEvent(store, {
      subject: row.id,
      project,
      kind: 'quota.deleted',
      message: `The project may use any number of ${device}.`,
    })
    return true
  })
}
