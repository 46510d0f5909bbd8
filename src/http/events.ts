import type { Exchange } from './exchange.ts'
import type { Problem } from './problem.ts'
import type { NamedEvent } from './rewording.ts'

/**
 * Server-sent events to one client (WHATWG HTML, "Server-sent events"; data-only, as OpenAI streams).
 *
 * The writer never waits for the client: whoever produces goes on, and a client that leaves more than
 * `unreadBytesMax` unread is cut. Cutting aborts the exchange's signal, which is how the producer hears of it.
 */
export class EventStream {
  readonly #exchange: Exchange
  readonly #unreadBytesMax: number
  /** None where the answer was over before it began: nothing would end it. */
  readonly #keepAlive: NodeJS.Timeout | undefined

  constructor(
    exchange: Exchange,
    limits: { unreadBytesMax: number; keepAliveMs: number },
    headers: Readonly<Record<string, string>> = {},
  ) {
    const { response } = exchange
    this.#exchange = exchange
    this.#unreadBytesMax = limits.unreadBytesMax
    // The client left before anybody had something to say to it; its 'close' was then, and comes no more.
    if (response.destroyed) return
    response.writeHead(200, {
      ...headers,
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no',
    })
    response.flushHeaders()
    this.#keepAlive = setInterval(() => this.#write(': still here\n\n'), limits.keepAliveMs).unref()
    response.once('close', () => clearInterval(this.#keepAlive))
  }

  send(data: unknown): void {
    this.#keepAlive?.refresh()
    const answer = this.#exchange.asked?.answer
    if (answer === undefined) this.#write(`data: ${JSON.stringify(data)}\n\n`)
    else this.#name(answer.chunk(data as object))
  }

  /** One line that readers of events skip. */
  comment(text: string): void {
    this.#keepAlive?.refresh()
    this.#write(`: ${text}\n\n`)
  }

  /** The last event of a stream that went well. */
  done(): void {
    const answer = this.#exchange.asked?.answer
    if (answer === undefined) this.#write('data: [DONE]\n\n')
    else this.#name(answer.done())
    this.#end()
  }

  /** `beside`: what stands beside the error in the last event. */
  fail(problem: Problem, beside: object = {}): void {
    const answer = this.#exchange.asked?.answer
    if (answer === undefined) this.#write(`data: ${JSON.stringify({ ...problem.body, ...beside })}\n\n`)
    else this.#name(answer.failed(problem.body))
    this.#end()
  }

  #name(events: readonly NamedEvent[]): void {
    for (const { event, data } of events) this.#write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`)
  }

  #end(): void {
    clearInterval(this.#keepAlive)
    if (!this.#exchange.response.destroyed) this.#exchange.end()
  }

  #write(text: string): void {
    const { response } = this.#exchange
    if (response.destroyed) return
    response.write(text)
    if (response.writableLength > this.#unreadBytesMax) response.destroy()
  }
}
