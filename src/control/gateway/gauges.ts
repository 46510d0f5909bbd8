import type { ReplicaTable } from './replicas.ts'
import type { ReplicaGauges, Roster } from './roster.ts'
import { ReplicaLost, type Upstreams } from './upstream.ts'

/** Replicas that are asked at once. */
const asksMax = 32
const askMs = 2000

/** Asks ready replicas now and then how many requests they have, which others than this gateway may have sent. */
export class GaugePoller {
  readonly #table: ReplicaTable
  readonly #roster: Roster
  readonly #upstreams: Upstreams
  readonly #timer: NodeJS.Timeout
  readonly #closed = new AbortController()
  #asking = false

  constructor(table: ReplicaTable, roster: Roster, upstreams: Upstreams, everyMs: number) {
    this.#table = table
    this.#roster = roster
    this.#upstreams = upstreams
    this.#timer = setInterval(() => void this.ask(), everyMs).unref()
  }

  /** One round; a round that takes longer than the interval is not overtaken. */
  async ask(): Promise<void> {
    if (this.#asking) return
    this.#asking = true
    const { deployments } = this.#table.current
    const replicas = deployments.flatMap(({ versions }) => versions.flatMap((version) => version.replicas))
    const waiting = replicas.filter(({ state }) => state === 'ready')
    const worker = async () => {
      for (let replica = waiting.pop(); replica !== undefined; replica = waiting.pop()) {
        try {
          const signal = AbortSignal.any([this.#closed.signal, AbortSignal.timeout(askMs)])
          const gauges = gaugesIn(await this.#upstreams.get(replica, '/metrics', signal))
          if (gauges !== undefined) this.#roster.heard(replica.id, gauges)
        } catch (error) {
          // No gauges: the choice goes by what we know ourselves. Requests find out whether it is alive.
          if (!(error instanceof ReplicaLost)) throw error
        }
      }
    }
    await Promise.all(Array.from({ length: asksMax }, worker))
    this.#asking = false
  }

  close(): void {
    clearInterval(this.#timer)
    this.#closed.abort()
  }
}

/** What an engine says of itself, in Prometheus' text format; undefined where it says nothing of its requests. */
export function gaugesIn(metrics: string): ReplicaGauges | undefined {
  const values = new Map<string, number>()
  for (const [, name, state, value] of metrics.matchAll(
    /^ropeway_(requests|cache_blocks)\{state="(\w+)"\} (\d+)$/gm,
  ))
    values.set(`${name} ${state}`, Number(value))
  const [running, waiting] = [values.get('requests running'), values.get('requests waiting')]
  if (running === undefined && waiting === undefined) return undefined
  return {
    ...{ running: running ?? 0, waiting: waiting ?? 0 },
    cacheBlocks: {
      free: values.get('cache_blocks free') ?? 0,
      cached: values.get('cache_blocks cached') ?? 0,
      held: values.get('cache_blocks held') ?? 0,
    },
  }
}
