import * as api from '../../api/control/deployments.ts'
import { Refused } from '../../api/control/problem.ts'
import type { DeploymentReport } from '../gateway/report.ts'
import { type LoggedRequest, type RequestLog, trainingLine } from '../gateway/request-log.ts'
import type { Launcher } from '../launchers/launcher.ts'
import { OnAnotherServer } from '../servers/elsewhere.ts'
import { pageAnswer, pageAsked } from '../service/pages.ts'
import type { RouteModule } from '../service/routes.ts'
import { eventsOf } from '../store/events.ts'
import { type Deployments, viewOf as viewOfRow } from './deployments.ts'
import { type DeploymentRow, deploymentOf } from './rows.ts'

export interface DeploymentRouteParts {
  readonly deployments: Deployments
  /** The one of this server: logs and metrics of others' are theirs to give. */
  readonly cluster: string
  readonly launcher: Pick<Launcher, 'logs'>
  readonly requestLog: RequestLog
  /** Refuses what the project may not spend any more. */
  readonly checkBudget?: (project: string) => Promise<void>
  /** Where the gateway of this server is, as clients reach it; null while it does not listen. */
  readonly address: () => string | null
  /** Of the gateway in this server; undefined while it does not know the deployment yet. */
  readonly report: (name: string, windowMs: number) => DeploymentReport | undefined
}

const logBytesMax = 256 * 1024

export const deploymentRoutes =
  ({
    deployments,
    cluster,
    launcher,
    requestLog,
    checkBudget,
    report,
    address,
  }: DeploymentRouteParts): RouteModule =>
  (serve, { store }) => {
    const viewOf = (row: DeploymentRow, project: string) => viewOfRow(row, project, address())
    const rowOf = async (project: { id: string }, typed: string): Promise<DeploymentRow> => {
      const rows = await deployments.nouns.find(project.id, typed, 2)
      if (rows.length === 1) return rows[0]!
      throw rows.length === 0
        ? new Refused('not_found', `There is no deployment ${typed} in this project.`)
        : new Refused('conflict', `${typed} is the beginning of several deployments.`, {
            fix: 'Give more of the name.',
          })
    }
    const rowHere = async (project: { id: string }, typed: string): Promise<DeploymentRow> => {
      const row = await rowOf(project, typed)
      if (row.cluster !== cluster) throw new OnAnotherServer(row.cluster)
      return row
    }
    serve(api.listDeployments, async ({ project, query }) =>
      pageAnswer(
        await deployments.nouns.list({ project: project.id, descending: true, ...pageAsked(query) }),
        (row) => viewOf(row, project.name),
      ),
    )
    serve(api.createDeployment, async ({ project, body, audit }) =>
      store.transaction(async () => {
        await checkBudget?.(project.id)
        const row = await deployments.create(project.id, body)
        await audit('deployment.create', row.id, { name: row.name, model: body.version.model })
        return viewOf(row, project.name)
      }),
    )
    serve(api.showDeployment, async ({ project, params }) =>
      viewOf(await rowOf(project, params.deployment), project.name),
    )
    serve(api.updateDeployment, async ({ project, params, body, audit }) => {
      const { id, spec } = await rowOf(project, params.deployment)
      return await store.transaction(async () => {
        if (takesMore(spec.scaling, body)) await checkBudget?.(project.id)
        const row = await deployments.update(id, body)
        await audit('deployment.edit', id, { fields: Object.keys(body) })
        return viewOf(row, project.name)
      })
    })
    serve(api.rollbackDeployment, async ({ project, params, body, audit }) => {
      const { id } = await rowOf(project, params.deployment)
      return await store.transaction(async () => {
        const row = await deployments.rollback(id, body.version)
        await audit('deployment.rollback', id, { to: row.spec.target })
        return viewOf(row, project.name)
      })
    })
    serve(api.promoteDeployment, async ({ project, params, audit }) => {
      const { id } = await rowOf(project, params.deployment)
      return await store.transaction(async () => {
        const row = await deployments.promote(id)
        await audit('deployment.promote', id, { version: row.spec.target })
        return viewOf(row, project.name)
      })
    })
    serve(api.deleteDeployment, async ({ project, params, audit }) => {
      const { id, name } = await rowOf(project, params.deployment)
      await store.transaction(async () => {
        await deployments.delete(id)
        await audit('deployment.delete', id, { name })
      })
    })
    serve(api.deploymentEvents, async ({ project, params, query }) => {
      const { id } = await rowOf(project, params.deployment)
      const page = await eventsOf(store, id, { descending: true, ...pageAsked(query) })
      return pageAnswer(page, ({ id, at, kind, message }) => ({ id, at, kind, message }))
    })
    serve(api.replicaLogs, async ({ project, params, query }) => {
      const { id } = await rowHere(project, params.deployment)
      const { replica } = params
      if (!/^dep_[a-z0-9]+\.\d+$/.test(replica) || deploymentOf(replica) !== id)
        throw new Refused('not_found', `There is no replica ${replica} of this deployment.`)
      const { cursor } = query
      const asked = { member: 0, bytesMax: logBytesMax, ...(cursor !== undefined && { cursor }) }
      const page = await launcher.logs(replica, asked)
      const lines = page.lines.map(({ atMs, stream, text }) => ({ at: atMs, stream, text }))
      return { lines, cursor: page.cursor, complete: page.complete }
    })
    serve(api.deploymentMetrics, async ({ project, params, query }) => {
      const { name } = await rowHere(project, params.deployment)
      const found = report(name, query.window * 1000)
      if (found === undefined)
        throw new Refused('unavailable', 'The gateway of this server does not know it yet.')
      return { ...found, versions: [...found.versions], replicas: [...found.replicas] }
    })
    serve(api.loggedHours, async ({ project, params }) => {
      const { name, created_at } = await rowHere(project, params.deployment)
      return { hours: requestLog.hours(name, created_at) }
    })
    serve(api.downloadRequests, async ({ project, params, query }) => {
      const { name, created_at } = await rowHere(project, params.deployment)
      await requestLog.flush()
      const { from, to } = query
      const hours = { ...(from !== undefined && { from }), ...(to !== undefined && { to }) }
      const logged = requestLog.read(name, { ...hours, sinceMs: created_at })
      return query.as === 'dataset' ? trainingLines(logged) : logged
    })
  }

/** A new version runs beside the one before; less, and a way back, are for who has no budget left, too. */
function takesMore(now: api.Scaling, { version, scaling }: api.DeploymentUpdate): boolean {
  if (version !== undefined) return true
  return scaling !== undefined && (scaling.min > now.min || scaling.max > now.max)
}

async function* trainingLines(logged: AsyncIterable<LoggedRequest>): AsyncGenerator<object> {
  for await (const one of logged) {
    const line = trainingLine(one)
    if (line !== undefined) yield line
  }
}
