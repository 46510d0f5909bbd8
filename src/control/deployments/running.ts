import type { Logger } from '../../base/log.ts'
import type { GatewayMetrics } from '../gateway/metrics.ts'
import type { ReplicaTable } from '../gateway/replicas.ts'
import { Upstreams } from '../gateway/upstream.ts'
import type { Launcher } from '../launchers/launcher.ts'
import type { Store } from '../store/store.ts'
import { Deployments } from './deployments.ts'
import { noteWanted } from './due.ts'
import { FleetFeed } from './fleet-feed.ts'
import { type AskReplica, Gatekeeper, textOf } from './gatekeeper.ts'
import { metricsProbe } from './probe.ts'
import { type DeploymentLoopOptions, endOrphans, lookedAtMax, reconcileDeployments } from './reconcile.ts'
import { type ReplicaRequestOptions, ReplicaRequests, servedName } from './replica-requests.ts'
import type { Sources } from './sources.ts'
import type { VersionRecord } from './verdict.ts'

export interface RunningOptions extends ReplicaRequestOptions {
  readonly store: Store
  readonly launcher: Launcher
  /** The name under which rows know the launcher. */
  readonly cluster: string
  readonly sources: Sources
  /** Filled from the rows. */
  readonly table: ReplicaTable
  readonly log: Logger
}

/** Between rounds when nobody wakes the loop. */
const roundMs = 500
const sweepMs = 60_000
/** The window by which a version's latency is judged. */
const recordWindowMs = 300_000
const gateAnswerMs = 120_000

/** Deployments as they run in one server: the loop, the table of the gateway, and what users do. */
export class RunningDeployments {
  readonly deployments: Deployments
  readonly requests: ReplicaRequests
  readonly #options: RunningOptions
  readonly #upstreams = new Upstreams()
  readonly #feed: FleetFeed
  readonly #loop: DeploymentLoopOptions
  readonly #timers: NodeJS.Timeout[] = []
  #metrics: GatewayMetrics | undefined
  #round: Promise<void> | undefined
  #again = false
  #isStarted = false
  #isClosed = false

  constructor(options: RunningOptions) {
    const { store, launcher, table, log } = options
    this.#options = options
    this.requests = new ReplicaRequests(options)
    this.#feed = new FleetFeed(store, table, this.requests, options.cluster)
    this.deployments = new Deployments(store, options.cluster, options.sources, () => this.wake())
    const onTrouble = (deployment: string, error: unknown) =>
      log.warn({ err: error, deployment }, 'a look went wrong')
    this.#loop = {
      ...{ store, launcher, cluster: options.cluster, requests: this.requests, onTrouble },
      owner: store.ids.next('loop'),
      probe: metricsProbe(this.#upstreams),
      gatekeeper: new Gatekeeper(store, askThrough(this.#upstreams, this.requests), onTrouble),
      records: (name, version) => this.#record(name, version),
    }
  }

  /** Fills the table once, then keeps going. `metrics` are those of the gateway over the table. */
  async start(metrics: GatewayMetrics): Promise<void> {
    this.#metrics = metrics
    await this.#feed.read()
    this.#isStarted = true
    this.#timers.push(setInterval(() => this.wake(), roundMs))
    this.#timers.push(setInterval(() => void this.#sweep(), sweepMs))
    this.wake()
  }

  /** Something has changed: look now; before the start there is nobody who looks. */
  wake(): void {
    if (!this.#isStarted) return
    this.#again = true
    this.#round ??= this.#rounds().finally(() => {
      this.#round = undefined
    })
  }

  /** For the gateway: a request waits for a deployment. */
  wanted(name: string): { progress: () => string } {
    const note = async () => {
      await noteWanted(this.#options.store, name)
      this.wake()
    }
    void note().catch((error: unknown) => this.#loop.onTrouble(name, error))
    return { progress: () => this.#progressOf(name) }
  }

  /** Reads the rows into the table now. */
  async refresh(): Promise<void> {
    await this.#feed.read()
  }

  async close(): Promise<void> {
    this.#isClosed = true
    for (const timer of this.#timers) clearInterval(timer)
    await this.#round
    await this.#loop.gatekeeper.idle()
    this.#upstreams.close()
  }

  async #rounds(): Promise<void> {
    while (this.#again && !this.#isClosed) {
      this.#again = false
      try {
        // Full rounds follow one another: there may be more that are due.
        while ((await reconcileDeployments(this.#loop)) === lookedAtMax && !this.#isClosed);
        await this.#feed.read()
      } catch (error) {
        this.#options.log.error({ err: error }, 'a round of deployments failed')
      }
    }
  }

  async #sweep(): Promise<void> {
    try {
      await endOrphans(this.#loop)
    } catch (error) {
      this.#options.log.warn({ err: error }, 'runs that nobody knows could not be looked for')
    }
  }

  #record(name: string, version: string): VersionRecord {
    if (this.#metrics === undefined) return { requests: 0, failures: 0, firstTokenP90Ms: undefined }
    const { firstTokenMs } = this.#metrics.latency(name, recordWindowMs, version)
    return { ...this.#metrics.counters(name, version), firstTokenP90Ms: firstTokenMs?.p90 }
  }

  #progressOf(name: string): string {
    const found = this.#options.table.current.deployments.find((deployment) => deployment.name === name)
    const replicas = found?.versions.flatMap((version) => version.replicas) ?? []
    return replicas.length === 0 ? 'a replica starts' : `${replicas.length} replicas load their weights`
  }
}

function askThrough(upstreams: Upstreams, requests: ReplicaRequests): AskReplica {
  return async ({ id, url = '' }, path, body) => {
    const bytes = Buffer.from(JSON.stringify({ ...body, model: servedName, stream: false }))
    const replica = { id, url, key: requests.keyOf(id), state: 'ready' as const }
    const signal = AbortSignal.timeout(gateAnswerMs)
    const response = await upstreams.post(replica, path, bytes, { headers: {}, signal, whole: true })
    return textOf(await upstreams.text(response))
  }
}
