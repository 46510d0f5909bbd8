/** Deployments as `ropeway up` has them: the gateway on a port of its own, its usage, and what looks after replicas. */
import { existsSync, mkdirSync, readFileSync, realpathSync } from 'node:fs'
import { join, resolve, sep } from 'node:path'
import { scopesAllow } from '../api/control/permissions.ts'
import { UserError } from '../base/errors.ts'
import type { Sealer } from '../control/credentials/sealer.ts'
import type { Located } from '../control/deployments/replica-requests.ts'
import { deploymentRoutes } from '../control/deployments/routes.ts'
import { RunningDeployments } from '../control/deployments/running.ts'
import { Ledger } from '../control/gateway/ledger.ts'
import { ReplicaTable } from '../control/gateway/replicas.ts'
import { RequestLog } from '../control/gateway/request-log.ts'
import { Gateway } from '../control/gateway/server.ts'
import { keyByHash } from '../control/keys/keys.ts'
import { LocalLauncher } from '../control/launchers/local/local-launcher.ts'
import { noteGateway } from '../control/servers/servers.ts'
import type { ServiceContext } from '../control/service/context.ts'
import { type Loop, startLoop } from '../control/service/loop.ts'
import type { RouteModule } from '../control/service/routes.ts'
import { endLeases } from '../control/store/leases.ts'
import type { Store } from '../control/store/store.ts'
import { usageRoutes } from '../control/usage/routes.ts'
import { UsageBook } from '../control/usage/usage-book.ts'
import { modelsFolder } from './home.ts'
import { listen } from './listening.ts'
import type { ServerIdentity } from './server-identity.ts'
import { cyan, note } from './terminal.ts'
import { resolveModel } from './text-model.ts'
import { wrapperEntry } from './wrapper-entry.ts'

const usageEveryMs = 2_000
const drainMs = 30_000

/** What it needs of the server's parts. */
export interface ServingParts {
  readonly context: ServiceContext
  readonly folder: string
  readonly server: ServerIdentity
  readonly gateway: { readonly host: string; readonly port: number }
}

export interface Serving {
  readonly routes: readonly RouteModule[]
  start(): Promise<Loop>
}

const made = new WeakMap<ServingParts, Serving>()

/** One of it for each server. */
export function servingOf(parts: ServingParts): Serving {
  let serving = made.get(parts)
  if (serving === undefined) made.set(parts, (serving = makeServing(parts)))
  return serving
}

function makeServing({ context, folder, server, gateway: where }: ServingParts): Serving {
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
  const running = new RunningDeployments({
    ...{
      store,
      launcher,
      table,
      log,
      locate,
      secret: secretOf(context.sealer, folder),
      folder: resolve(work),
    },
    cluster: server.cluster,
    ropeway: [process.execPath, ...loader(), beside('main').pathname],
  })
  const gateway = new Gateway({
    ...{ table, ledger, log, requestLog, clock: store.clock },
    verify: async (digest) => await callerOf(store, digest),
    budgets: () => book.budgets,
    prices: () => book.prices,
    elsewhere: () => book.elsewhere,
    wake: (name) => running.wanted(name),
  })
  const report = (name: string, windowMs: number) => gateway.report(name, windowMs)
  return {
    routes: [
      deploymentRoutes({
        ...{ deployments: running.deployments, cluster: server.cluster, launcher, requestLog, report },
      }),
      usageRoutes(() => void book.sync().catch((error: unknown) => log.warn({ err: error }, 'usage'))),
    ],
    start: async () => {
      // No other server works on this cluster, so whoever held one of its deployments is dead.
      await endLeases(running.deployments.nouns, (is) => is.and([is('cluster', '=', server.cluster)]))
      await book.sync()
      const url = await listen(gateway, where)
      await running.start(gateway.metrics)
      await noteGateway(store, server.id, new URL(url).port)
      note(`Deployments answer at ${cyan(`${url}/v1`)}, with the keys of their projects.`)
      const usage = startLoop({ name: 'usage', everyMs: usageEveryMs, log, pass: () => book.sync() })
      return {
        name: 'deployments',
        wake: () => running.wake(),
        stop: async () => {
          await gateway.close(drainMs)
          await running.close()
          await usage.stop()
          await book.sync()
          await requestLog.flush()
          ledger.close()
        },
      }
    },
  }
}

/** Whose key it is, for the gateway: a key of one project that may use deployments. */
async function callerOf(store: Store, digest: string) {
  const found = await keyByHash(store, digest)
  if (found?.key.project_id == null) return undefined
  const { id, project_id, scopes_json, limits_json } = found.key
  if (!scopesAllow(scopes_json, 'deployment:use')) return undefined
  const limits = Object.fromEntries(Object.entries(limits_json).filter(([, limit]) => limit !== undefined))
  return { key: id, project: project_id, limits }
}

/** Models and adapters are folders or files of the models folder, and nothing outside of it. */
async function locate(_project: string, reference: string): Promise<Located> {
  try {
    const root = realpathSync(modelsFolder())
    const path = realpathSync(resolveModel(resolve(root, reference)))
    if (path.startsWith(root + sep)) return { ok: true, path }
    return { ok: false, message: `'${reference}' lies outside of the models folder.` }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (!(error instanceof UserError) && code !== 'ENOENT') throw error
    return { ok: false, message: `There is no model '${reference}' in the models folder.` }
  }
}

/** Servers of one database have one key, so each can speak to the replicas of all that it can reach. */
function secretOf(sealer: Sealer, folder: string): Uint8Array {
  // Replicas that run since before the secret was derived.
  const path = join(folder, 'replicas.key')
  if (existsSync(path)) return Buffer.from(readFileSync(path, 'utf8').trim(), 'hex')
  return sealer.derive('replicas')
}

/** A file of this folder, in the source tree or in dist. */
function beside(name: string): URL {
  return new URL(`./${name}${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url)
}

function loader(): string[] {
  return import.meta.url.endsWith('.ts') ? ['--import', import.meta.resolve('tsx')] : []
}
