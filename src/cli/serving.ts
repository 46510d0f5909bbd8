/** Deployments as `ropeway up` has them: the gateway on a port of its own, its usage, and what looks after replicas. */
import { existsSync, mkdirSync, readFileSync, realpathSync } from 'node:fs'
import { join, resolve, sep } from 'node:path'
import { scopesAllow } from '../api/control/permissions.ts'
import { UserError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { Sealer } from '../control/credentials/sealer.ts'
import { endReplicas } from '../control/deployments/end-replicas.ts'
import { publicationRoutes } from '../control/deployments/publication-routes.ts'
import { deploymentRoutes } from '../control/deployments/routes.ts'
import type { Source } from '../control/deployments/rows.ts'
import { RunningDeployments } from '../control/deployments/running.ts'
import { localName, ModelSources } from '../control/deployments/sources.ts'
import { checkpointsUsedOn } from '../control/deployments/uses.ts'
import { Ledger } from '../control/gateway/ledger.ts'
import { ReplicaTable } from '../control/gateway/replicas.ts'
import { RequestLog } from '../control/gateway/request-log.ts'
import { Gateway } from '../control/gateway/server.ts'
import { gatewaySurface } from '../control/gateway/surface.ts'
import { keyByHash } from '../control/keys/keys.ts'
import { LocalLauncher } from '../control/launchers/local/local-launcher.ts'
import { type Located, ModelFolders } from '../control/models/model-folders.ts'
import { listProjects } from '../control/projects/projects.ts'
import { noteGateway } from '../control/servers/servers.ts'
import type { ServiceContext } from '../control/service/context.ts'
import { type Loop, startLoop } from '../control/service/loop.ts'
import type { RouteModule } from '../control/service/routes.ts'
import type { Surface } from '../control/service/surface.ts'
import { endLeases } from '../control/store/leases.ts'
import type { Store } from '../control/store/store.ts'
import { checkDeviceBudgets } from '../control/usage/device-budgets.ts'
import { usageRoutes } from '../control/usage/routes.ts'
import { UsageBook } from '../control/usage/usage-book.ts'
import type { DataParts } from './data-parts.ts'
import { modelsFolder } from './home.ts'
import { LateAdapters } from './late-adapters.ts'
import { listen } from './listening.ts'
import { ownCommand } from './own-command.ts'
import type { PublishingParts } from './publishing.ts'
import type { ServerIdentity } from './server-identity.ts'
import { cyan, note } from './terminal.ts'
import { resolveModel } from './text-model.ts'
import { wrapperEntry } from './wrapper-entry.ts'

const usageEveryMs = 2_000
const drainMs = 30_000
const sweepEveryMs = 60_000

/** What it needs of the server's parts. */
export interface ServingParts {
  readonly context: ServiceContext
  readonly folder: string
  readonly server: ServerIdentity
  readonly gateway: { readonly host: string; readonly port: number }
  readonly leavesNothing?: boolean
  readonly data: Pick<DataParts, 'checkpoints' | 'models'>
}

export interface Serving {
  readonly routes: readonly RouteModule[]
  readonly publishing: Pick<PublishingParts, 'publications' | 'table' | 'loads'>
  /** The gateway's own addresses, on the service's too. */
  readonly surface: Surface
  start(): Promise<Loop>
}

/** One of it for each server. */
export function makeServing(parts: ServingParts): Serving {
  const { context, folder, server, gateway: where, data, leavesNothing = false } = parts
  const { store, log } = context
  const table = new ReplicaTable()
  const ledger = new Ledger(join(folder, 'usage'), store.clock)
  const book = new UsageBook(store, ledger)
  const requestLog = new RequestLog(join(folder, 'requests'), store.clock, {
    onFault: (message) => log.error(message),
  })
  const work = join(folder, 'replicas', 'work')
  mkdirSync(work, { recursive: true, mode: 0o700 })
  const launcher = new LocalLauncher({
    root: resolve(folder, 'replicas', 'runs'),
    devices: {},
    wrapper: wrapperEntry(),
    clock: store.clock,
  })
  const late = new LateAdapters(context, folder, data, table)
  const folders = new ModelFolders(data.checkpoints, resolve(folder, 'replicas', 'models'), log)
  const running = new RunningDeployments({
    ...{
      store,
      launcher,
      table,
      log,
      sources: new ModelSources(data.models, data.checkpoints, faultOfLocal),
      locate: (reference: string, source: Source | undefined) =>
        source === undefined ? Promise.resolve(locateLocal(reference)) : folders.locate(source.checkpoint),
      secret: secretOf(context.sealer, folder),
      folder: resolve(work),
      adapterRoot: late.root,
    },
    cluster: server.cluster,
    ropeway: ownCommand(),
  })
  const gateway = new Gateway({
    ...{ table, ledger, log, requestLog, clock: store.clock },
    verify: async (digest) => await callerOf(store, digest, log),
    budgets: () => book.budgets,
    prices: () => book.prices,
    elsewhere: () => book.elsewhere,
    wake: (name) => running.wanted(name),
    late: late.models(running),
    loads: late.loads,
  })
  let address: string | null = null
  const report = (name: string, windowMs: number) => gateway.report(name, windowMs)
  return {
    surface: gatewaySurface(gateway),
    publishing: { publications: late.publications, table, loads: late.loads },
    routes: [
      publicationRoutes(late.publications),
      deploymentRoutes({
        ...{ deployments: running.deployments, cluster: server.cluster, launcher, requestLog, report },
        checkBudget: (project) => checkDeviceBudgets(store, project),
        address: () => address,
      }),
      usageRoutes(() => void book.sync().catch((error: unknown) => log.warn({ err: error }, 'usage'))),
    ],
    start: async () => {
      // No other server works on this cluster, so whoever held one of its deployments is dead.
      await endLeases(running.deployments.nouns, (is) => is.and([is('cluster', '=', server.cluster)]))
      await book.sync()
      const url = await listen(gateway, where)
      await running.start(gateway.metrics)
      address = `${(await noteGateway(store, server.id, new URL(url).port)) ?? url}/v1`
      if (!leavesNothing) note(`Deployments answer at ${cyan(`${url}/v1`)}, with the keys of their projects.`)
      const usage = startLoop({ name: 'usage', everyMs: usageEveryMs, log, pass: () => book.sync() })
      late.start()
      const pass = async () => void (await folders.sweep(() => checkpointsUsedOn(store, server.cluster)))
      const sweep = startLoop({ name: 'model folders', everyMs: sweepEveryMs, log, pass })
      return {
        name: 'deployments',
        wake: () => running.wake(),
        stop: async () => {
          await gateway.close(drainMs)
          await running.close()
          await late.close()
          if (leavesNothing) await endReplicas(store, launcher, server.cluster)
          await sweep.stop()
          await folders.close()
          await usage.stop()
          await book.sync()
          await requestLog.flush()
          ledger.close()
        },
      }
    },
  }
}

/** Whose key it is, for the gateway: a key of one project that may use deployments, and whose person still is in it. */
async function callerOf(store: Store, digest: string, log: Logger) {
  const found = await keyByHash(store, digest, log)
  if (found?.key.project_id == null) return undefined
  const { id, project_id, scopes_json, limits_json } = found.key
  if (!scopesAllow(scopes_json, 'deployment:use')) return undefined
  const { id: person, is_operator } = found.person
  const who = { id: person, isOperator: is_operator === 1, onlyProject: project_id }
  if ((await listProjects(store, who, { limit: 1 })).rows.length === 0) return undefined
  const limits = Object.fromEntries(Object.entries(limits_json).filter(([, limit]) => limit !== undefined))
  return { key: id, project: project_id, limits }
}

/** Folders and files of the models folder, and nothing outside of it. */
function locateLocal(reference: string): Located {
  // Versions from before models were nouns have the bare name.
  const name = localName(reference) ?? reference
  try {
    const root = realpathSync(modelsFolder())
    const path = realpathSync(resolveModel(resolve(root, name)))
    if (path.startsWith(root + sep)) return { ok: true, path }
    return { ok: false, message: `'${name}' lies outside of the models folder.` }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (!(error instanceof UserError) && code !== 'ENOENT') throw error
    return { ok: false, message: `There is no model '${name}' in the models folder.` }
  }
}

function faultOfLocal(name: string): string | undefined {
  const found = locateLocal(name)
  return found.ok ? undefined : found.message
}

/** Servers of one database have one key, so each can speak to the replicas of all that it can reach. */
function secretOf(sealer: Sealer, folder: string): Uint8Array {
  // Replicas that run since before the secret was derived.
  const path = join(folder, 'replicas.key')
  if (existsSync(path)) return Buffer.from(readFileSync(path, 'utf8').trim(), 'hex')
  return sealer.derive('replicas')
}
