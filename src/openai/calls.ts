import type { Exchange } from '../http/exchange.ts'
import { Problem } from '../http/problem.ts'
import type { Route } from '../http/router.ts'

interface Running {
  /** Ends it as if it had said all it had to say. */
  cancel(): void
  /** Ends it with an error. */
  abort(): void
}

/**
 * Requests that may be ended before their time. Those of gateways have names: cutting the connection would end them
 * too, but then the gateway would never hear what they had used. A cancelled one ends like any other, with usage.
 */
export class Calls {
  readonly #running = new Set<Running>()
  readonly #named = new Map<string, Running>()
  #isOver = false

  /** Nothing is to begin any more. */
  get isOver(): boolean {
    return this.#isOver
  }

  /** Until the returned call. A second attempt under one name takes the place of the first. */
  open(call: string | undefined, request: Running): () => void {
    this.#running.add(request)
    if (call !== undefined) this.#named.set(call, request)
    return () => {
      this.#running.delete(request)
      if (call !== undefined && this.#named.get(call) === request) this.#named.delete(call)
    }
  }

  /** Whether there is such a request. */
  cancel(call: string): boolean {
    const request = this.#named.get(call)
    request?.cancel()
    return request !== undefined
  }

  /** Time is up for all of them. */
  endAll(): void {
    this.#isOver = true
    for (const request of [...this.#running]) request.abort()
  }
}

/** What the gateway calls a request of its own. */
export function callOf(exchange: Exchange, isGateway: (exchange: Exchange) => boolean): string | undefined {
  const call = exchange.header('x-ropeway-call')
  return call !== undefined && /^[\w.:-]{1,128}$/.test(call) && isGateway(exchange) ? call : undefined
}

export function callRoute(calls: Calls, isGateway: (exchange: Exchange) => boolean): Route {
  return {
    method: 'DELETE',
    path: '/v1/calls/:call',
    handle: async (exchange) => {
      if (!isGateway(exchange))
        throw new Problem(403, 'gateway_only', 'Only a gateway key may cancel a call.')
      if (!calls.cancel(exchange.parameters.call!))
        throw new Problem(404, 'unknown_call', 'No such call runs here.')
      exchange.json(200, { cancelled: true })
    },
  }
}
