import * as api from '../../api/control/machine-endpoints.ts'
import { Refused } from '../../api/control/problem.ts'
import { ownValue } from '../../base/own.ts'
import { isGone, listServers } from '../servers/servers.ts'
import type { RouteModule } from '../service/routes.ts'
import type { Store } from '../store/store.ts'
import { giveUpCluster } from './gone.ts'
import {
  createCluster,
  deleteCluster,
  deleteQuota,
  devicesUsed,
  editCluster,
  findCluster,
  listClusters,
  listQuotas,
  setQuota,
} from './machines.ts'
import type { ClusterRow, QuotaRow } from './rows.ts'

type Used = Map<string, Record<string, number>>

export interface MachineRouteOptions {
  /** Lets waiting jobs have what became free. */
  readonly wake: () => void
  /** Takes what else there is of a cluster that was given up; returns how many deployments. */
  readonly moveDeployments: (cluster: string) => Promise<number>
}

export function machineRoutes({ wake, moveDeployments }: MachineRouteOptions): RouteModule {
  return (serve, { store }) => {
    serve(api.listClusters, async () => {
      const view = await clusterViews(store)
      return { items: (await listClusters(store)).map(view) }
    })
    serve(api.createCluster, async ({ body, audit }) => {
      const { name, ...spec } = body
      const row = await createCluster(store, name, spec)
      if (row === undefined)
        throw new Refused('name_taken', `There is a cluster ${name} already.`, {
          fix: `ropeway cluster edit ${name} changes it.`,
        })
      await audit('cluster.create', row.id, { ...body })
      wake()
      return (await clusterViews(store))(row)
    })
    serve(api.viewCluster, async ({ params }) =>
      (await clusterViews(store))(await findCluster(store, params.cluster)),
    )
    serve(api.deleteCluster, async ({ params, audit }) => {
      const row = await deleteCluster(store, params.cluster)
      await audit('cluster.delete', row.id, { name: row.name })
    })
    serve(api.editCluster, async ({ params, body: { version, ...body }, audit }) => {
      const given = Object.fromEntries(Object.entries(body).filter(([, value]) => value !== undefined))
      const row = await editCluster(store, params.cluster, given, version)
      await audit('cluster.edit', row.id, given)
      wake()
      return (await clusterViews(store))(row)
    })
    serve(api.giveUpCluster, async ({ params: { cluster }, audit }) => {
      const moved = await store.transaction(async () => {
        const { id } = await findCluster(store, cluster)
        const jobs = await giveUpCluster(store, cluster)
        const deployments = await moveDeployments(cluster)
        await audit('cluster.give_up', id, { jobs, deployments })
        return { jobs, deployments }
      })
      wake()
      return moved
    })
    serve(api.listQuotas, async ({ project }) => {
      const used = await devicesUsed(store, 'project_id')
      return { items: (await listQuotas(store, project.id)).map((row) => viewOfQuota(row, used)) }
    })
    serve(api.setQuota, async ({ project, params, body, audit }) => {
      const row = await setQuota(store, project.id, params.device, body.devices)
      await audit('quota.set', row.id, { device: params.device, devices: body.devices })
      wake()
      return viewOfQuota(row, await devicesUsed(store, 'project_id'))
    })
    serve(api.deleteQuota, async ({ project, params, audit }) => {
      if (!(await deleteQuota(store, project.id, params.device)))
        throw new Refused('not_found', `The project has no quota for ${params.device}.`)
      await audit('quota.delete', project.id, { device: params.device })
      wake()
    })
  }
}

/** How a cluster is shown, with what is used of it and when its server was seen. */
async function clusterViews(store: Store) {
  const used: Used = await devicesUsed(store, 'cluster')
  const servers = new Map((await listServers(store)).map((server) => [server.cluster, server]))
  const nowMs = store.clock.unixMs()
  return ({ id, name, version, spec }: ClusterRow) => {
    const server = servers.get(name)
    const seen = {
      last_seen_at: server?.seen_at ?? null,
      gone: server !== undefined && isGone(server, nowMs),
    }
    return { id, name, version, ...spec, used: used.get(name) ?? {}, ...seen }
  }
}

function viewOfQuota({ id, name, version, project_id, devices }: QuotaRow, used: Used) {
  return {
    id,
    version,
    devices,
    device: name,
    project: project_id,
    used: ownValue(used.get(project_id) ?? {}, name) ?? 0,
  }
}
