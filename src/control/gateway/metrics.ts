import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { Clock } from '../../base/clock.ts'
import type { Fleet } from './replicas.ts'
import type { ShadowOutcome } from './shadow-outcome.ts'
import { Window, type WindowSummary } from './windows.ts'

/** How a request ended at the gateway. */
export type Outcome = 'ok' | 'refused' | 'failed' | 'gone'

/** Counters of one version since the gateway began; what a decision about it reads. */
export interface VersionCounters {
  requests: number
  /** Of them, those that failed: not those that a client got wrong. */
  failures: number
}

/** Whose time it was. */
export interface Whose {
  readonly deployment: string
  readonly version: string
  readonly replica: string
}

/** Latencies of a deployment, a version or a replica over a window. */
export interface LatencyReport {
  firstTokenMs: WindowSummary | undefined
  perTokenMs: WindowSummary | undefined
  /** From arrival until a replica took the request. */
  queueMs: WindowSummary | undefined
}

const secondsBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120]

interface Windows {
  firstToken: Window
  perToken: Window
  queue: Window
}

/** What Prometheus scrapes of the gateway, and windows for people and for decisions. */
export class GatewayMetrics {
  readonly contentType = Registry.PROMETHEUS_CONTENT_TYPE
  readonly #clock: Clock
  readonly #registry = new Registry()
  readonly #requests: Counter<'deployment' | 'version' | 'outcome'>
  readonly #tries: Counter<'deployment' | 'kind'>
  readonly #firstToken: Histogram<'deployment'>
  readonly #perToken: Histogram<'deployment'>
  readonly #queue: Histogram<'deployment'>
  readonly #inFlight: Gauge<'deployment'>
  readonly #ejections: Counter
  readonly #shadows: Counter<'deployment' | 'version' | 'outcome'>
  readonly #windows = new Map<string, Windows>()
  readonly #counters = new Map<string, VersionCounters>()

  constructor(clock: Clock) {
    this.#clock = clock
    const registers = [this.#registry]
    const histogram = (name: string, help: string) =>
      new Histogram({ name, help, labelNames: ['deployment'], buckets: secondsBuckets, registers })
    this.#requests = new Counter({
      name: 'ropeway_gateway_requests_total',
      help: 'Requests by outcome.',
      labelNames: ['deployment', 'version', 'outcome'],
      registers,
    })
    this.#tries = new Counter({
      name: 'ropeway_gateway_retries_total',
      help: 'Requests sent again: retry before any text, failover behind some.',
      labelNames: ['deployment', 'kind'],
      registers,
    })
    this.#firstToken = histogram(
      'ropeway_gateway_time_to_first_token_seconds',
      'From arrival to the first text.',
    )
    this.#perToken = histogram(
      'ropeway_gateway_time_per_output_token_seconds',
      'Mean of one answer behind its first text.',
    )
    this.#queue = histogram('ropeway_gateway_queue_seconds', 'From arrival until a replica took the request.')
    this.#inFlight = new Gauge({
      name: 'ropeway_gateway_requests_in_flight',
      help: 'Requests of clients that are being answered.',
      labelNames: ['deployment'],
      registers,
    })
    this.#ejections = new Counter({
      name: 'ropeway_gateway_ejections_total',
      help: 'Times that a replica was left alone for a while after failures.',
      registers,
    })
    this.#shadows = new Counter({
      name: 'ropeway_gateway_shadow_total',
      help: 'Copies of requests by what became of them beside the answer that the client got.',
      labelNames: ['deployment', 'version', 'outcome'],
      registers,
    })
  }

  shadowed(deployment: string, version: string, outcome: ShadowOutcome): void {
    this.#shadows.inc({ deployment, version, outcome })
    if (outcome !== 'skipped') this.#count(deployment, version, outcome === 'failed')
  }

  began(deployment: string): void {
    this.#inFlight.inc({ deployment })
  }

  ended(deployment: string, version: string, outcome: Outcome): void {
    this.#inFlight.dec({ deployment })
    this.#requests.inc({ deployment, version, outcome })
    // Clients that leave and clients that ask wrongly say nothing about a version.
    if (outcome === 'ok' || outcome === 'failed') this.#count(deployment, version, outcome === 'failed')
  }

  #count(deployment: string, version: string, isFailure: boolean): void {
    const id = `${deployment}:${version}`
    const counters = this.#counters.get(id) ?? { requests: 0, failures: 0 }
    counters.requests++
    if (isFailure) counters.failures++
    this.#counters.set(id, counters)
  }

  sentAgain(deployment: string, kind: 'retry' | 'failover'): void {
    this.#tries.inc({ deployment, kind })
  }

  ejected(): void {
    this.#ejections.inc()
  }

  taken(whose: Whose, ms: number): void {
    this.#queue.observe({ deployment: whose.deployment }, ms / 1000)
    for (const { queue } of this.#windowsOf(whose)) queue.observe(ms)
  }

  firstText(whose: Whose, ms: number): void {
    this.#firstToken.observe({ deployment: whose.deployment }, ms / 1000)
    for (const { firstToken } of this.#windowsOf(whose)) firstToken.observe(ms)
  }

  /** Of a copy that nobody hears: it counts for its version and replica, not for the deployment. */
  shadowFirstText(whose: Whose, ms: number): void {
    for (const { firstToken } of this.#windowsOf(whose).slice(1)) firstToken.observe(ms)
  }

  /** `tokens` behind the first text took `ms`. */
  laterTokens(whose: Whose, tokens: number, ms: number): void {
    if (tokens <= 0) return
    this.#perToken.observe({ deployment: whose.deployment }, ms / 1000 / tokens)
    for (const { perToken } of this.#windowsOf(whose)) perToken.observe(ms / tokens)
  }

  /** Forgets what is in no fleet any more. */
  retain({ deployments }: Fleet): void {
    const known = new Set(
      deployments.flatMap(({ name, versions }) => [
        name,
        ...versions.map(({ id }) => `${name}:${id}`),
        ...versions.flatMap(({ replicas }) => replicas.map(({ id }) => replicaKey(id))),
      ]),
    )
    for (const id of this.#windows.keys()) if (!known.has(id)) this.#windows.delete(id)
    for (const id of this.#counters.keys()) if (!known.has(id)) this.#counters.delete(id)
  }

  counters(deployment: string, version: string): Readonly<VersionCounters> {
    return this.#counters.get(`${deployment}:${version}`) ?? { requests: 0, failures: 0 }
  }

  latency(deployment: string, windowMs: number, version?: string): LatencyReport {
    return this.#latency(version === undefined ? deployment : `${deployment}:${version}`, windowMs)
  }

  replicaLatency(replica: string, windowMs: number): LatencyReport {
    return this.#latency(replicaKey(replica), windowMs)
  }

  #latency(id: string, windowMs: number): LatencyReport {
    const windows = this.#windows.get(id)
    return {
      firstTokenMs: windows?.firstToken.summary(windowMs),
      perTokenMs: windows?.perToken.summary(windowMs),
      queueMs: windows?.queue.summary(windowMs),
    }
  }

  async render(): Promise<string> {
    return await this.#registry.metrics()
  }

  /** Of the deployment as a whole, of its version, and of the replica. */
  #windowsOf({ deployment, version, replica }: Whose): Windows[] {
    return [deployment, `${deployment}:${version}`, replicaKey(replica)].map((id) => {
      let windows = this.#windows.get(id)
      if (windows === undefined) {
        windows = {
          firstToken: new Window(this.#clock),
          perToken: new Window(this.#clock),
          queue: new Window(this.#clock),
        }
        this.#windows.set(id, windows)
      }
      return windows
    })
  }
}

/** No deployment's name begins so. */
function replicaKey(replica: string): string {
  return `\0${replica}`
}
