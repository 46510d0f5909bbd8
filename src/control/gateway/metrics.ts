import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { Clock } from '../../base/clock.ts'
import { Window, type WindowSummary } from './windows.ts'

/** How a request ended at the gateway. */
export type Outcome = 'ok' | 'refused' | 'failed' | 'gone'

/** Counters of one version since the gateway began; what a decision about it reads. */
export interface VersionCounters {
  requests: number
  /** Of them, those that failed: not those that a client got wrong. */
  failures: number
}

/** What `deployments metrics` shows of one deployment or version over a window. */
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
  }

  began(deployment: string): void {
    this.#inFlight.inc({ deployment })
  }

  ended(deployment: string, version: string, outcome: Outcome): void {
    this.#inFlight.dec({ deployment })
    this.#requests.inc({ deployment, version, outcome })
    const id = `${deployment}:${version}`
    const counters = this.#counters.get(id) ?? { requests: 0, failures: 0 }
    // Clients that leave and clients that ask wrongly say nothing about a version.
    if (outcome === 'ok' || outcome === 'failed') counters.requests++
    if (outcome === 'failed') counters.failures++
    this.#counters.set(id, counters)
  }

  sentAgain(deployment: string, kind: 'retry' | 'failover'): void {
    this.#tries.inc({ deployment, kind })
  }

  ejected(): void {
    this.#ejections.inc()
  }

  taken(deployment: string, version: string, ms: number): void {
    this.#queue.observe({ deployment }, ms / 1000)
    for (const { queue } of this.#windowsOf(deployment, version)) queue.observe(ms)
  }

  firstText(deployment: string, version: string, ms: number): void {
    this.#firstToken.observe({ deployment }, ms / 1000)
    for (const { firstToken } of this.#windowsOf(deployment, version)) firstToken.observe(ms)
  }

  /** `tokens` behind the first text took `ms`. */
  laterTokens(deployment: string, version: string, tokens: number, ms: number): void {
    if (tokens <= 0) return
    this.#perToken.observe({ deployment }, ms / 1000 / tokens)
    for (const { perToken } of this.#windowsOf(deployment, version)) perToken.observe(ms / tokens)
  }

  counters(deployment: string, version: string): Readonly<VersionCounters> {
    return this.#counters.get(`${deployment}:${version}`) ?? { requests: 0, failures: 0 }
  }

  latency(deployment: string, windowMs: number, version?: string): LatencyReport {
    const windows = this.#windows.get(version === undefined ? deployment : `${deployment}:${version}`)
    return {
      firstTokenMs: windows?.firstToken.summary(windowMs),
      perTokenMs: windows?.perToken.summary(windowMs),
      queueMs: windows?.queue.summary(windowMs),
    }
  }

  async render(): Promise<string> {
    return await this.#registry.metrics()
  }

  /** Of the deployment as a whole and of its version. */
  #windowsOf(deployment: string, version: string): Windows[] {
    return [deployment, `${deployment}:${version}`].map((id) => {
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
