import { assert } from '../../src/base/assert.ts'
import { uniformAt } from '../../src/base/random.ts'
import type { EngineClient, EngineGauges, EngineInfo } from '../../src/serve/messages.ts'
import type {
  Admission,
  EngineRequest,
  Finish,
  QueueEstimate,
  RequestProgress,
  TokenLogprob,
} from '../../src/serve/request.ts'

/** What the engine says to one request. */
export interface Script {
  /** Goes through once, then the request stops (or reaches its maxTokens before). */
  tokens: readonly number[]
  /** Iterations that the prompt takes before the first token. */
  promptIterations?: number
  tokensPerIteration?: number
  end?: Partial<Finish>
}

interface Running {
  request: EngineRequest
  script: Script
  listener: (progress: RequestProgress) => void
  said: number
  iteration: number
  cancelled: boolean
}

/**
 * An engine that reads its part from a script: the border of the real one without a model behind it.
 * `pace` auto iterates by itself while there is work; manual waits for {@link iterate}.
 */
export class ScriptedEngine implements EngineClient {
  readonly submitted: EngineRequest[] = []
  readonly cancelled: string[] = []
  accepting = true
  info: EngineInfo
  pace: 'auto' | 'manual' = 'auto'
  script: (request: EngineRequest) => Script
  estimate: (id: string) => QueueEstimate | undefined = () => undefined
  admission: (request: EngineRequest) => Admission | Promise<Admission> = () => ({ ok: true })
  readonly #running = new Map<string, Running>()
  #waiters: { condition: () => boolean; resolve: () => void }[] = []
  #iterations = 0
  #isScheduled = false

  constructor(info: EngineInfo, script: (request: EngineRequest) => Script) {
    this.info = info
    this.script = script
  }

  get runningCount(): number {
    return this.#running.size
  }

  async submit(request: EngineRequest, listener: (progress: RequestProgress) => void): Promise<Admission> {
    this.submitted.push(request)
    this.#changed()
    const admission = await this.admission(request)
    const answer = request.pooling === undefined ? request.maxTokens : 0
    const late = request.prompt.length + answer > this.info.contextMax
    if (admission.ok && late) return { ok: false, code: 'context_too_long' }
    if (admission.ok && request.prompt.length === 0) return { ok: false, code: 'empty_prompt' }
    if (admission.ok && request.prompt.some((token) => token >= this.info.vocabularySize)) {
      return { ok: false, code: 'token_out_of_range' }
    }
    if (admission.ok) {
      const script = this.script(request)
      // What an earlier life of it said is not said again.
      const said = request.generated?.length ?? 0
      this.#running.set(request.id, { request, script, listener, said, iteration: 0, cancelled: false })
      this.#schedule()
    }
    this.#changed()
    return admission
  }

  cancel(id: string): void {
    this.cancelled.push(id)
    const running = this.#running.get(id)
    if (running !== undefined) running.cancelled = true
    this.#schedule()
    this.#changed()
  }

  /** One iteration: the next tokens of everything that runs. */
  iterate(): void {
    this.#iterations++
    for (const running of [...this.#running.values()]) {
      const progress = advance(running)
      if (progress.finish !== undefined) this.#running.delete(running.request.id)
      running.listener(progress)
    }
    this.#changed()
  }

  /** Resolves as soon as `condition` holds. */
  async until(condition: () => boolean): Promise<void> {
    if (condition()) return
    await new Promise<void>((resolve) => this.#waiters.push({ condition, resolve }))
  }

  async gauges(): Promise<EngineGauges> {
    return {
      running: this.#running.size,
      waiting: 0,
      blocksFree: 10,
      blocksCached: 2,
      blocksHeld: this.#running.size,
      iterations: this.#iterations,
      promptTokens: 7,
      cachedTokens: 3,
      generatedTokens: 11,
      preemptions: 0,
      computeMs: 1500,
      hostMs: 20,
    }
  }

  async queue(id: string): Promise<QueueEstimate | undefined> {
    return this.estimate(id)
  }

  async close(): Promise<void> {
    this.accepting = false
  }

  #schedule(): void {
    if (this.#isScheduled || this.#running.size === 0) return
    // Cancelled requests leave at the next iteration, also when the pace is manual.
    const isDue = this.pace === 'auto' || [...this.#running.values()].some(({ cancelled }) => cancelled)
    if (!isDue) return
    this.#isScheduled = true
    setImmediate(() => {
      this.#isScheduled = false
      this.iterate()
      this.#schedule()
    })
  }

  #changed(): void {
    const ready = this.#waiters.filter(({ condition }) => condition())
    this.#waiters = this.#waiters.filter((waiter) => !ready.includes(waiter))
    for (const { resolve } of ready) resolve()
  }
}

function advance(running: Running): RequestProgress {
  const { request, script } = running
  running.iteration++
  if (running.cancelled)
    return { id: request.id, tokens: [], finish: finishOf(running, { reason: 'aborted' }) }
  const progress: RequestProgress = { id: request.id, tokens: [] }
  if (running.iteration === 1 && request.promptLogprobs === true) {
    progress.promptLogprobs = request.prompt.map((token, index) =>
      index === 0 ? null : logprobOf(token, request),
    )
  }
  if (running.iteration <= (script.promptIterations ?? 1)) return progress
  if (request.pooling !== undefined) {
    const finish = finishOf(running, { reason: 'stop' })
    return { ...progress, embedding: embeddingOf(request), finish }
  }
  const end = Math.min(running.said + (script.tokensPerIteration ?? 1), request.maxTokens)
  const tokens = script.tokens.slice(running.said, end)
  running.said += tokens.length
  progress.tokens = tokens
  if (request.logprobs !== undefined) progress.logprobs = tokens.map((token) => logprobOf(token, request))
  if (running.said >= script.tokens.length) {
    progress.finish = finishOf(running, { reason: 'stop', ...script.end })
  } else if (running.said >= request.maxTokens) {
    progress.finish = finishOf(running, { reason: 'length' })
  }
  return progress
}

/** Three of four numbers say which tokens, the last how many; of length 1. */
function embeddingOf({ prompt }: EngineRequest): Float32Array {
  const values = [0, 1, 2].map((part) => prompt.filter((token) => token % 3 === part).length + 1)
  const length = Math.hypot(...values, prompt.length)
  return Float32Array.from([...values, prompt.length], (value) => value / length)
}

function logprobOf(token: number, request: EngineRequest): TokenLogprob {
  const top = Array.from({ length: request.logprobs ?? 0 }, (_, rank) => ({
    token: token + rank,
    logprob: -0.25 - rank,
  }))
  return { token, logprob: -0.25, top }
}

function finishOf(running: Running, end: Partial<Finish> & Pick<Finish, 'reason'>): Finish {
  assert(running.iteration > 0, 'a request ends in an iteration')
  return {
    promptTokens: running.request.prompt.length,
    cachedTokens: Math.min(2, running.request.prompt.length),
    generatedTokens: running.said,
    timing: { queueMs: 0, promptMs: 1, decodeMs: 1, waitingForBudgetMs: 0, preemptedMs: 0 },
    ...end,
  }
}

/** Lower-case letters and spaces, as byte tokens; a pure function of the prompt, or of the seed when warm. */
export function babble(request: EngineRequest): Script {
  const seed =
    request.sampling.temperature === 0
      ? request.prompt.reduce((sum, token) => (sum * 31 + token) % 65_536, 7)
      : request.sampling.seed
  const letters = 'etaoin shrdlu'
  const tokens = Array.from({ length: request.maxTokens + 1 }, (_, index) =>
    letters.charCodeAt(Math.floor(uniformAt(seed, index) * letters.length)),
  )
  return { tokens }
}
