import type { Usage, UsageTiming } from '../api/completions.ts'
import type { Clock } from '../base/clock.ts'
import type { Exchange } from '../http/exchange.ts'
import { type Problem, problemOf } from '../http/problem.ts'
import type { EngineClient } from '../serve/messages.ts'
import type { Admission, Finish, QueueEstimate, RequestTiming } from '../serve/request.ts'
import type { Calls } from './calls.ts'
import { Generation, type GenerationParts, type Piece } from './generation.ts'
import type { Metrics } from './metrics.ts'
import { finishProblem, refusalProblem, unavailable } from './refusals.ts'
import type { UsageLog } from './usage-log.ts'

/** What generations need of the server around them. */
export interface GenerationHost {
  engine: EngineClient
  metrics: Metrics
  clock: Clock
  usageLog: UsageLog | undefined
  calls: Calls
}

/** The HTTP request that the generations answer. */
export interface GenerationRequest {
  exchange: Exchange
  /** What the endpoint calls its prompt. */
  promptField: string
  /** Generations for each prompt. */
  choices: number
  tenant: string
  model: string
  /** What a gateway calls it; by this name it may be cancelled. */
  call: string | undefined
  /** So many are in the engine at a time, the others follow as these end; all of them when absent. */
  atOnce?: number
}

/**
 * All generations of one HTTP request: every prompt times every choice. They are taken together or not at
 * all (those that are to be there at once), and none outlives the client.
 */
export class Generations {
  readonly #generations: readonly Generation[]
  readonly #host: GenerationHost
  readonly #signal: AbortSignal
  readonly #request: GenerationRequest
  readonly #choices: number
  readonly #continued: number
  #pieces: Piece[] = []
  #failure: Problem | undefined
  #unsettled = 0
  /** How many were given to the engine. */
  #given = 0
  #wake: (() => void) | undefined
  #queue: QueueEstimate | undefined
  #adapter: string | undefined
  #isTaken = false
  #isCancelled = false
  /** Nothing more is given to the engine. */
  #isClosed = false
  #isRecorded = false
  #close: () => void = () => {}

  /** `parts` holds `choices` generations for each prompt, in order. */
  constructor(parts: readonly GenerationParts[], request: GenerationRequest, host: GenerationHost) {
    const arrivalMs = host.clock.nowMs()
    this.#host = host
    this.#signal = request.exchange.signal
    this.#request = request
    this.#choices = request.choices
    this.#continued = parts.reduce((sum, part) => sum + (part.request.generated?.length ?? 0), 0)
    this.#generations = parts.map(
      (part) =>
        new Generation(part, {
          ...host,
          arrivalMs,
          deliver: (piece) => this.#deliver(piece),
          settle: (unexpected) => this.#settle(unexpected),
        }),
    )
  }

  /** Resolves when the engine has taken all of them; throws the {@link Problem} of the first that it refuses. */
  async start(): Promise<void> {
    const { engine, calls } = this.#host
    if (!engine.accepting) throw unavailable()
    if (calls.isOver) throw finishProblem({ reason: 'aborted' })
    if (this.#signal.aborted) return
    this.#signal.addEventListener('abort', () => this.#cancel(), { once: true })
    this.#unsettled = this.#generations.length
    const { call, atOnce } = this.#request
    this.#close = calls.open(call, this)
    const begun = this.#generations.slice(0, atOnce)
    this.#given = begun.length
    const admissions = await Promise.allSettled(begun.map((generation) => generation.submit()))
    for (const result of admissions) this.#admitted(result)
    if (this.#failure !== undefined) {
      this.#close()
      throw this.#failure
    }
    this.#isTaken = true
    this.#record()
    const [first] = admissions
    if (first?.status !== 'fulfilled' || !first.value.ok) return
    this.#queue = first.value.queue
    this.#adapter = first.value.adapter
  }

  #admitted(result: PromiseSettledResult<Admission>): void {
    if (result.status === 'fulfilled' && result.value.ok) return
    this.#unsettled--
    this.#fail(
      result.status === 'fulfilled' && !result.value.ok
        ? refusalProblem(result.value, this.#request.promptField)
        : unavailable(),
    )
  }

  /** Gives the engine the next of those that wait here for others to end. */
  async #giveNext(): Promise<void> {
    const next = this.#generations[this.#given]
    if (this.#isClosed || next === undefined) return
    this.#given++
    const [result] = await Promise.allSettled([next.submit()])
    this.#admitted(result)
    this.#record()
    this.#wake?.()
  }

  /** Where the first generation stood when it was taken: the others of the request wait behind it. */
  get queue(): QueueEstimate | undefined {
    return this.#queue
  }

  /** The version of the adapter that computes all of them; undefined for the model alone. */
  get adapter(): string | undefined {
    return this.#adapter
  }

  /** The same as of now; undefined when it does not wait. */
  async queueNow(): Promise<QueueEstimate | undefined> {
    return await this.#host.engine.queue(this.#generations[0]!.request.id)
  }

  /** Whether anything has come of the first generation. */
  get hasProgress(): boolean {
    return this.#generations[0]!.hasProgress
  }

  /**
   * Pieces of all choices as they come, until the engine is through with every one of them. Ends early when
   * the client is gone; throws a {@link Problem} when a generation fails. Who leaves before that has failed.
   */
  async *pieces(): AsyncGenerator<Piece, void, undefined> {
    try {
      while (!this.#signal.aborted) {
        const pieces = this.#pieces
        this.#pieces = []
        yield* pieces
        if (this.#pieces.length > 0) continue
        if (this.#failure !== undefined) throw this.#failure
        if (this.#unsettled === 0) return
        await new Promise<void>((resolve) => {
          this.#wake = resolve
        })
      }
    } finally {
      // Nobody takes what is left: the engine shall not compute it, nor the client pay for an answer.
      if (this.#unsettled > 0 && !this.#signal.aborted) this.#fail(problemOf(undefined))
    }
  }

  /** Of all prompts that came to the engine; known from the start where all come at once. */
  get promptTokens(): number {
    const firsts = this.#generations.slice(0, this.#given).filter((_, index) => index % this.#choices === 0)
    return firsts.reduce((sum, { request }) => sum + request.prompt.length, 0)
  }

  /** Ends all of them as if they had said all they had to say; {@link pieces} ends when the engine has let go. */
  cancel(): void {
    this.#isCancelled = true
    this.#cancel()
  }

  /** Ends all of them now: the server has no more time for them, and the client is told so. */
  abort(): void {
    this.#fail(finishProblem({ reason: 'aborted' }))
  }

  /** Known once {@link pieces} has ended. A prompt counts once, however many choices it got. */
  usage(explain = false): Usage {
    const { promptTokens } = this
    let cachedTokens = 0
    for (let first = 0; first < this.#given; first += this.#choices) {
      const choices = this.#generations.slice(first, first + this.#choices)
      // Later choices find the prompt of the first one in the cache; what none had to compute was cached.
      cachedTokens += Math.min(...choices.map((generation) => generation.cachedTokens))
    }
    const completionTokens = this.#generations.reduce((sum, { tokenCount }) => sum + tokenCount, 0)
    return {
      prompt_tokens: promptTokens,
      completion_tokens: completionTokens,
      total_tokens: promptTokens + completionTokens,
      prompt_tokens_details: { cached_tokens: cachedTokens },
      ...(explain && { ropeway_timing: this.#longest() }),
    }
  }

  #longest(): UsageTiming {
    const timings = this.#generations.flatMap(({ timing }) =>
      timing === undefined ? [] : [explained(timing)],
    )
    // A request whose choices all ended on another server took no time here.
    const none = explained({ queueMs: 0, promptMs: 0, decodeMs: 0, waitingForBudgetMs: 0, preemptedMs: 0 })
    return timings.reduce((longest, timing) => (timing.total_ms > longest.total_ms ? timing : longest), none)
  }

  #deliver(piece: Piece): void {
    this.#pieces.push(piece)
    this.#wake?.()
  }

  #settle(unexpected: Finish | undefined): void {
    this.#unsettled--
    if (unexpected !== undefined) this.#fail(finishProblem(unexpected))
    void this.#giveNext()
    this.#record()
    this.#wake?.()
  }

  /** Once, when the engine holds nothing of them any more: before the client can see the end of its answer. */
  #record(): void {
    if (!this.#isTaken || this.#unsettled > 0 || this.#isRecorded) return
    this.#isRecorded = true
    this.#close()
    const { exchange, tenant, model, call } = this.#request
    const outcome =
      this.#failure !== undefined ? 'failed' : this.#isCancelled || this.#signal.aborted ? 'cancelled' : 'ok'
    const head = { request: exchange.id, tenant, model, ...(call !== undefined && { call }) }
    this.#host.usageLog?.write(head, outcome, this.usage(), this.#continued)
  }

  #fail(problem: Problem): void {
    this.#failure ??= problem
    this.#cancel()
  }

  #cancel(): void {
    // Those that wait here for their turn never get it.
    if (!this.#isClosed) this.#unsettled -= this.#generations.length - this.#given
    this.#isClosed = true
    for (const generation of this.#generations.slice(0, this.#given)) generation.cancel()
    this.#wake?.()
  }
}

function explained(timing: RequestTiming): UsageTiming {
  const { queueMs, promptMs, decodeMs, waitingForBudgetMs, preemptedMs } = timing
  return {
    queue_ms: queueMs,
    prompt_ms: promptMs,
    decode_ms: decodeMs,
    waiting_for_budget_ms: waitingForBudgetMs,
    preempted_ms: preemptedMs,
    total_ms: queueMs + promptMs + decodeMs + waitingForBudgetMs + preemptedMs,
  }
}
