import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { assert } from '../base/assert.ts'
import { Exchange } from './exchange.ts'
import type { HttpLimits } from './limits.ts'
import { Problem, problemOf } from './problem.ts'

export interface HttpServerOptions {
  limits: HttpLimits
  handle: (exchange: Exchange) => Promise<void>
  /** Hears of everything thrown that is not a {@link Problem}: a bug, which the client is told only in general. */
  onError: (error: unknown, exchange: Exchange) => void
}

const lastRefusalsMs = 1000
/** What is ended at the limit has so long to say so. */
const lastAnswersMs = 1000

/** An HTTP/1.1 server that always answers, and that ends without cutting answers off when it may take the time. */
export class HttpServer {
  readonly server: Server
  readonly #options: HttpServerOptions
  readonly #answering = new Set<Exchange>()
  #idle: (() => void) | undefined
  #draining = false

  constructor(options: HttpServerOptions) {
    this.#options = options
    const { limits } = options
    this.server = createServer(
      {
        headersTimeout: limits.headerMs,
        requestTimeout: limits.requestMs,
        keepAliveTimeout: limits.idleMs,
        connectionsCheckingInterval: Math.min(limits.headerMs, 1000),
        // A client machine that lost its power sends no FIN; the kernel's probes find out.
        keepAlive: true,
        keepAliveInitialDelay: 30_000,
      },
      (request, response) => void this.#answer(request, response),
    )
    this.server.maxConnections = limits.connectionsMax
    this.server.on('clientError', refuseBytes)
    this.server.on('connection', (socket) => socket.once('close', () => this.#closeQueued(socket)))
  }

  /** Resolves to the URL that it answers on. Port 0 takes a free one. */
  async listen(port: number, host = '127.0.0.1'): Promise<string> {
    await new Promise<void>((resolve, reject) => {
      this.server.once('error', reject)
      // Thousands may come in one moment; what does not fit into the backlog tries again a second later.
      const backlog = this.#options.limits.connectionsMax
      this.server.listen({ port, host, backlog }, () => {
        this.server.off('error', reject)
        resolve()
      })
    })
    const address = this.server.address() as AddressInfo
    return `http://${address.family === 'IPv6' ? `[${address.address}]` : address.address}:${address.port}`
  }

  /**
   * Gives the answers under way `limitMs` to end, then cuts what is left. Until then it listens on, so that
   * whoever comes meanwhile is told to go elsewhere instead of finding the port dead. `atLimit` ends what is
   * still answered; what this makes them say goes out before the cut.
   */
  async close(limitMs: number, atLimit?: () => void): Promise<void> {
    assert(!this.#draining, 'a server is closed once')
    this.#draining = true
    const isIdle = await this.#untilIdle(limitMs)
    if (!isIdle && atLimit !== undefined) {
      atLimit()
      await this.#untilIdle(lastAnswersMs)
    }
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()))
    // What came in the last moment is being refused; that takes no time, but it is not cut off either.
    if (isIdle) await this.#untilIdle(Math.min(limitMs, lastRefusalsMs))
    this.server.closeAllConnections()
    await closed
  }

  /** Whether all answers were complete before `limitMs` had passed. */
  async #untilIdle(limitMs: number): Promise<boolean> {
    if (this.#answering.size === 0) return true
    return await new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(false), limitMs)
      this.#idle = () => {
        clearTimeout(timer)
        resolve(true)
      }
    })
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const exchange = new Exchange(request, response, this.#options.limits)
    this.#answering.add(exchange)
    if (this.#draining) response.setHeader('connection', 'close')
    response.once('close', () => {
      this.#answering.delete(exchange)
      if (this.#answering.size === 0) this.#idle?.()
    })
    try {
      await this.#options.handle(exchange)
    } catch (error) {
      this.#fail(exchange, error)
    }
  }

  /**
   * Requests may come one behind the other (HTTP/1.1 pipelining). When their connection goes, Node closes the answer that was
   * on it and forgets those that waited for their turn: nobody would hear that their client is gone.
   */
  #closeQueued(socket: Socket): void {
    for (const { request, response } of this.#answering)
      if (request.socket === socket && response.socket === null) closeUnsent(response)
  }

  #fail(exchange: Exchange, error: unknown): void {
    if (!(error instanceof Problem)) this.#options.onError(error, exchange)
    const { response } = exchange
    if (response.destroyed) return
    if (response.headersSent) response.destroy()
    else exchange.problem(problemOf(error))
  }
}

/** Without a connection, Node marks an answer as destroyed and tells nobody. */
function closeUnsent(response: ServerResponse): void {
  response.destroy()
  response.emit('close')
}

/** Answers bytes that are not HTTP; there is no request yet, so the answer is written by hand. */
function refuseBytes(error: NodeJS.ErrnoException, socket: Socket): void {
  if (!socket.writable || error.code === 'ECONNRESET') {
    socket.destroy()
    return
  }
  const [status, code, message] =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? (['431 Request Header Fields Too Large', 'header_too_large', 'The header is too large.'] as const)
      : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? (['408 Request Timeout', 'request_timeout', 'The request took too long to arrive.'] as const)
        : (['400 Bad Request', 'invalid_http', 'The request is not valid HTTP/1.1.'] as const)
  const body = JSON.stringify(new Problem(Number.parseInt(status, 10), code, message).body)
  socket.end(
    `HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-type: application/json; charset=utf-8\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  )
}
