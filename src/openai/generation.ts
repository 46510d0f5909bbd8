import type { Clock } from '../base/clock.ts'
import type { EngineClient } from '../serve/messages.ts'
import type {
  Admission,
  EngineRequest,
  Finish,
  RequestProgress,
  RequestTiming,
  TokenLogprob,
} from '../serve/request.ts'
import type { Metrics } from './metrics.ts'
import type { Released, ReleasedToken, Transcript } from './transcript.ts'

/** What one iteration brought to one generation, as far as it may be shown. */
export interface Piece {
  /** Which choice of the answer it belongs to. */
  index: number
  text: string
  tokens: readonly ReleasedToken[]
  /** Log-probabilities of the next prompt tokens, where they were asked for. */
  prompt: readonly (TokenLogprob | null)[]
  /** The tokens behind the text since the last piece; where log-probabilities are reported, those reported. */
  ids: readonly number[]
  /** Of a prompt that is pooled, with its finish. */
  embedding?: Float32Array
  finish?: 'stop' | 'length'
}

export interface GenerationParts {
  index: number
  request: EngineRequest
  transcript: Transcript
  /** The client asked for no token at all; the engine computes one, which is thrown away. */
  promptOnly: boolean
  /** What is certain of the text that another server had. */
  earlier?: string
  /** It ended in an earlier life on another server: nothing is left but to count it. */
  finished?: boolean
}

export interface GenerationPorts {
  engine: EngineClient
  metrics: Metrics
  clock: Clock
  arrivalMs: number
  deliver: (piece: Piece) => void
  /**
   * Called once, when the engine holds nothing of this generation any more; with its finish when that was
   * not one to show and nobody had cancelled.
   */
  settle: (unexpected?: Finish) => void
}

/**
 * One request in the engine and its text. Stop strings end it here: the engine knows tokens only, so it is
 * told to cancel, and its late tokens are dropped.
 */
export class Generation {
  readonly request: EngineRequest
  readonly #parts: GenerationParts
  readonly #ports: GenerationPorts
  /** 'shown': its last piece was delivered. 'cancelled': nobody wants another. */
  #state: 'open' | 'shown' | 'cancelled' = 'open'
  #finish: Finish | undefined
  #lastTokensMs: number | undefined
  #hasProgress = false
  #ids: number[] = []

  constructor(parts: GenerationParts, ports: GenerationPorts) {
    this.request = parts.request
    this.#parts = parts
    this.#ports = ports
  }

  /** Tokens that the answer holds. */
  get tokenCount(): number {
    return this.#parts.transcript.tokenCount
  }

  get cachedTokens(): number {
    // Of a choice that ended elsewhere, nothing was computed here.
    if (this.#parts.finished === true) return this.request.prompt.length
    return this.#finish?.cachedTokens ?? 0
  }

  /** Where the engine spent its time; known once it is settled. */
  get timing(): RequestTiming | undefined {
    return this.#finish?.timing
  }

  /** Whether the engine has said anything of it since it was taken. */
  get hasProgress(): boolean {
    return this.#hasProgress
  }

  async submit(): Promise<Admission> {
    const { engine, metrics, settle } = this.#ports
    if (this.#parts.finished === true) {
      this.#state = 'shown'
      settle()
      return { ok: true }
    }
    const admission = await engine.submit(this.request, (progress) => this.#take(progress))
    if (!admission.ok) metrics.ended(admission.code)
    // A cancel that was sent before the engine knew the request may have found nothing to cancel.
    else if (this.#state === 'cancelled' && this.#finish === undefined) engine.cancel(this.request.id)
    return admission
  }

  cancel(): void {
    if (this.#state !== 'open') return
    this.#state = 'cancelled'
    if (this.#finish === undefined) this.#ports.engine.cancel(this.request.id)
  }

  #take(progress: RequestProgress): void {
    this.#hasProgress = true
    if (this.#state === 'open') this.#show(progress)
    if (progress.finish !== undefined) this.#settle(progress.finish)
  }

  #show(progress: RequestProgress): void {
    this.#measure(progress.tokens.length)
    const { transcript, promptOnly, index } = this.#parts
    const now: Released = promptOnly ? nothing : transcript.push(progress.tokens, progress.logprobs)
    const rest = progress.finish !== undefined && !transcript.stopped ? transcript.flush() : nothing
    const piece: Piece = {
      index,
      text: now.text + rest.text,
      tokens: [...now.tokens, ...rest.tokens],
      prompt: progress.promptLogprobs ?? [],
      ids: [],
    }
    this.#ids.push(...progress.tokens)
    const finish = transcript.stopped ? 'stop' : this.#shownReason(progress.finish)
    if (finish !== undefined) piece.finish = finish
    if (progress.embedding !== undefined) piece.embedding = progress.embedding
    const isEmpty = piece.text === '' && piece.tokens.length === 0 && piece.prompt.length === 0
    if (!isEmpty || finish !== undefined) {
      const all = finish !== undefined || this.request.logprobs === undefined
      piece.ids = this.#ids.splice(0, all ? this.#ids.length : piece.tokens.length)
      this.#ports.deliver(piece)
    }
    if (finish === undefined) return
    this.#state = 'shown'
    this.#ports.metrics.ended(finish, this.#ports.clock.nowMs() - this.#ports.arrivalMs)
    if (progress.finish === undefined) this.#ports.engine.cancel(this.request.id)
  }

  #settle(finish: Finish): void {
    this.#finish = finish
    if (this.#state === 'shown') {
      this.#ports.settle()
      return
    }
    const outcome = finish.reason === 'failed' ? 'failed' : 'aborted'
    this.#ports.metrics.ended(outcome, this.#ports.clock.nowMs() - this.#ports.arrivalMs)
    this.#ports.settle(this.#state === 'open' ? finish : undefined)
  }

  #shownReason(finish: Finish | undefined): 'stop' | 'length' | undefined {
    if (finish?.reason !== 'stop' && finish?.reason !== 'length') return undefined
    return this.#parts.promptOnly ? 'length' : finish.reason
  }

  #measure(tokenCount: number): void {
    if (tokenCount === 0) return
    const { metrics, clock, arrivalMs } = this.#ports
    const nowMs = clock.nowMs()
    if (this.#lastTokensMs === undefined) metrics.firstToken(nowMs - arrivalMs)
    else metrics.nextTokens(tokenCount, nowMs - this.#lastTokensMs)
    this.#lastTokensMs = nowMs
  }
}

const nothing: Released = { text: '', tokens: [] }
