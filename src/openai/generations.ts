import type { Usage } from '../api/completions.ts'
import type { Clock } from '../base/clock.ts'
import type { Exchange } from '../http/exchange.ts'
import type { Problem } from '../http/problem.ts'
import type { EngineClient } from '../serve/messages.ts'
import type { Finish } from '../serve/request.ts'
import { Generation, type GenerationParts, type Piece } from './generation.ts'
import type { Metrics } from './metrics.ts'
import { finishProblem, refusalProblem, unavailable } from './refusals.ts'

/** What generations need of the server around them. */
export interface GenerationHost {
  engine: EngineClient
  metrics: Metrics
  clock: Clock
}

/**
 * All generations of one HTTP request: every prompt times every choice. They are taken together or not at
 * all, and none outlives the client.
 */
export class Generations {
  readonly #generations: readonly Generation[]
  readonly #host: GenerationHost
  readonly #signal: AbortSignal
  readonly #promptField: string
  readonly #choices: number
  #pieces: Piece[] = []
  #failure: Problem | undefined
  #unsettled = 0
  #wake: (() => void) | undefined

  /**
   * `parts` holds `choices` generations for each prompt, in order. `promptField` is what the endpoint calls
   * its prompt.
   */
  constructor(
    parts: readonly GenerationParts[],
    request: { exchange: Exchange; promptField: string; choices: number },
    host: GenerationHost,
  ) {
    const arrivalMs = host.clock.nowMs()
    this.#host = host
    this.#signal = request.exchange.signal
    this.#promptField = request.promptField
    this.#choices = request.choices
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
    if (!this.#host.engine.accepting) throw unavailable()
    if (this.#signal.aborted) return
    this.#signal.addEventListener('abort', () => this.#cancel(), { once: true })
    this.#unsettled = this.#generations.length
    const admissions = await Promise.allSettled(this.#generations.map((generation) => generation.submit()))
    for (const result of admissions) {
      const refused = result.status === 'rejected' || !result.value.ok
      if (!refused) continue
      this.#unsettled--
      this.#fail(
        result.status === 'fulfilled' && !result.value.ok
          ? refusalProblem(result.value, this.#promptField)
          : unavailable(),
      )
    }
    if (this.#failure !== undefined) throw this.#failure
  }

  /**
   * Pieces of all choices as they come, until the engine is through with every one of them. Ends early when
   * the client is gone; throws a {@link Problem} when a generation fails.
   */
  async *pieces(): AsyncGenerator<Piece, void, undefined> {
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
  }

  /** Known once {@link pieces} has ended. A prompt counts once, however many choices it got. */
  usage(): Usage {
    let promptTokens = 0
    let cachedTokens = 0
    for (let first = 0; first < this.#generations.length; first += this.#choices) {
      const choices = this.#generations.slice(first, first + this.#choices)
      promptTokens += choices[0]!.request.prompt.length
      // Later choices find the prompt of the first one in the cache; what none had to compute was cached.
      cachedTokens += Math.min(...choices.map((generation) => generation.cachedTokens))
    }
    const completionTokens = this.#generations.reduce((sum, { tokenCount }) => sum + tokenCount, 0)
    return {
      prompt_tokens: promptTokens,
      completion_tokens: completionTokens,
      total_tokens: promptTokens + completionTokens,
      prompt_tokens_details: { cached_tokens: cachedTokens },
    }
  }

  #deliver(piece: Piece): void {
    this.#pieces.push(piece)
    this.#wake?.()
  }

  #settle(unexpected: Finish | undefined): void {
    this.#unsettled--
    if (unexpected !== undefined) this.#fail(finishProblem(unexpected))
    this.#wake?.()
  }

  #fail(problem: Problem): void {
    this.#failure ??= problem
    this.#cancel()
  }

  #cancel(): void {
    for (const generation of this.#generations) generation.cancel()
    this.#wake?.()
  }
}
