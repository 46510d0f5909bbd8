import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { EngineClient, EngineGauges } from '../serve/messages.ts'
import type { Refusal } from '../serve/request.ts'

/** How a generation ended, or why it never began. */
export type Outcome = 'stop' | 'length' | 'aborted' | 'failed' | Refusal

/** Totals that the engine keeps itself; they are shown as it reports them. */
const engineTotals = {
  iterations: ['ropeway_iterations_total', 'Iterations of the engine.', 1],
  promptTokens: ['ropeway_prompt_tokens_total', 'Tokens of accepted prompts.', 1],
  cachedTokens: ['ropeway_cached_tokens_total', 'Prompt tokens taken from the prefix cache.', 1],
  generatedTokens: ['ropeway_generated_tokens_total', 'Tokens generated.', 1],
  preemptions: ['ropeway_preemptions_total', 'Requests that gave their cache back and were recomputed.', 1],
  computeMs: ['ropeway_compute_seconds_total', 'Time in native compute.', 1000],
  hostMs: ['ropeway_host_seconds_total', 'Time of busy iterations outside native compute.', 1000],
  draftMs: ['ropeway_draft_seconds_total', 'Time in the draft model, between iterations.', 1000],
  guessedTokens: ['ropeway_guessed_tokens_total', 'Tokens that speculation guessed.', 1],
  acceptedTokens: ['ropeway_accepted_tokens_total', 'Guessed tokens that the model would have said.', 1],
} as const satisfies Partial<Record<keyof EngineGauges, readonly [string, string, number]>>

type Total = keyof typeof engineTotals

/** Seconds from 1 ms to about two minutes. */
const secondsBuckets = [
  0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120,
]

/** What Prometheus scrapes of one server and its engine. Names follow Prometheus' conventions: base units, _total. */
export class Metrics {
  readonly #registry = new Registry()
  readonly #requests: Counter<'outcome'>
  readonly #answers: Counter<'method' | 'path' | 'status'>
  readonly #firstToken: Histogram
  readonly #perToken: Histogram
  readonly #whole: Histogram
  readonly #requestsNow: Gauge<'state'>
  readonly #blocks: Gauge<'state'>
  readonly #up: Gauge
  readonly #totals: Readonly<Record<Total, Counter>>

  constructor() {
    const registers = [this.#registry]
    const histogram = (name: string, help: string) =>
      new Histogram({ name, help, buckets: secondsBuckets, registers })
    this.#requests = new Counter({
      name: 'ropeway_requests_total',
      help: 'Generations by outcome; a request for n answers counts n times.',
      labelNames: ['outcome'],
      registers,
    })
    this.#answers = new Counter({
      name: 'ropeway_http_answers_total',
      help: 'HTTP answers by route and status.',
      labelNames: ['method', 'path', 'status'],
      registers,
    })
    this.#firstToken = histogram('ropeway_time_to_first_token_seconds', 'From arrival to the first token.')
    this.#perToken = histogram('ropeway_time_per_output_token_seconds', 'Between tokens of one generation.')
    this.#whole = histogram('ropeway_request_seconds', 'From arrival to the end of a generation.')
    this.#requestsNow = new Gauge({
      name: 'ropeway_requests',
      help: 'Requests in the engine now.',
      labelNames: ['state'],
      registers,
    })
    this.#blocks = new Gauge({
      name: 'ropeway_cache_blocks',
      help: 'Blocks of the key-value cache.',
      labelNames: ['state'],
      registers,
    })
    this.#up = new Gauge({ name: 'ropeway_engine_up', help: '1 while the engine takes requests.', registers })
    this.#totals = Object.fromEntries(
      Object.entries(engineTotals).map(([total, [name, help]]) => [
        total,
        new Counter({ name, help, registers }),
      ]),
    ) as Record<Total, Counter>
  }

  readonly contentType = Registry.PROMETHEUS_CONTENT_TYPE

  ended(outcome: Outcome, ms?: number): void {
    this.#requests.inc({ outcome })
    if (ms !== undefined) this.#whole.observe(ms / 1000)
  }

  answered(method: string, path: string, status: number): void {
    this.#answers.inc({ method, path, status })
  }

  firstToken(ms: number): void {
    this.#firstToken.observe(ms / 1000)
  }

  /** `count` tokens that came together, `ms` after the ones before them. */
  nextTokens(count: number, ms: number): void {
    for (let index = 0; index < count; index++) this.#perToken.observe(ms / 1000 / count)
  }

  /** The scrape. An engine that does not answer within `gaugesMs` shows as down; its last totals stay. */
  async render(engine: EngineClient, gaugesMs: number): Promise<string> {
    const gauges = await gaugesOf(engine, gaugesMs)
    this.#up.set(gauges !== undefined && engine.accepting ? 1 : 0)
    if (gauges !== undefined) this.#show(gauges)
    return await this.#registry.metrics()
  }

  #show(gauges: EngineGauges): void {
    this.#requestsNow.set({ state: 'running' }, gauges.running)
    this.#requestsNow.set({ state: 'waiting' }, gauges.waiting)
    this.#blocks.set({ state: 'free' }, gauges.blocksFree)
    this.#blocks.set({ state: 'cached' }, gauges.blocksCached)
    this.#blocks.set({ state: 'held' }, gauges.blocksHeld)
    for (const [total, [, , unit]] of Object.entries(engineTotals)) {
      const counter = this.#totals[total as Total]
      counter.reset()
      counter.inc((gauges[total as Total] ?? 0) / unit)
    }
  }
}

async function gaugesOf(engine: EngineClient, limitMs: number): Promise<EngineGauges | undefined> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), limitMs)
  })
  // A dead engine is a fact to show, not a failure of the scrape.
  const asked = engine.gauges().catch(() => undefined)
  const gauges = await Promise.race([asked, late])
  clearTimeout(timer)
  return gauges
}
