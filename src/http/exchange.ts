import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { goneSignal } from './gone.ts'
import type { Problem } from './problem.ts'
import { type AskedOtherwise, refusalFor } from './rewording.ts'

/** One request and its answer. `signal` aborts when the client is gone before the answer is complete. */
export class Exchange {
  /** The client's own x-request-id when it sent one that is fit for logs, else a new one. */
  readonly id: string
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly signal: AbortSignal
  readonly path: string
  /** Named parts of the path, decoded. */
  parameters: Readonly<Record<string, string>> = {}
  /** Set where another endpoint answers. */
  asked: AskedOtherwise | undefined
  readonly #unreadMs: number

  constructor(request: IncomingMessage, response: ServerResponse, limits: { unreadMs: number }) {
    this.request = request
    this.response = response
    const named = this.header('x-request-id')
    this.id = named !== undefined && /^[\w.:-]{1,128}$/.test(named) ? named : randomUUID()
    this.path = (request.url ?? '/').split('?', 1)[0]!
    this.#unreadMs = limits.unreadMs
    this.signal = goneSignal(response)
    response.setHeader('x-request-id', this.id)
  }

  header(name: string): string | undefined {
    const value = this.request.headers[name]
    return Array.isArray(value) ? value[0] : value
  }

  json(status: number, body: unknown, headers: Readonly<Record<string, string>> = {}): void {
    const answer = status === 200 ? this.asked?.answer : undefined
    const said = answer === undefined ? body : answer.whole(body as object)
    this.text(status, 'application/json; charset=utf-8', JSON.stringify(said), headers)
  }

  text(status: number, type: string, body: string, headers: Readonly<Record<string, string>> = {}): void {
    const bytes = Buffer.from(body)
    this.response.writeHead(status, { ...headers, 'content-type': type, 'content-length': bytes.length })
    this.end(bytes)
  }

  problem(problem: Problem): void {
    const body = this.asked === undefined ? problem.body : refusalFor(this.asked, problem)
    this.json(problem.status, body, problem.headers)
  }

  /** Completes the answer. From here on the connection is cut when the client takes nothing for `unreadMs`. */
  end(bytes?: Uint8Array): void {
    this.response.socket?.setTimeout(this.#unreadMs)
    if (bytes === undefined) this.response.end()
    else this.response.end(bytes)
  }
}
