import type { Exchange } from '../http/exchange.ts'
import { Problem } from '../http/problem.ts'
import type { Route } from '../http/router.ts'

interface Cancellable {
  cancel(): void
}

/**
 * Requests that gateways may end before their time. Cutting the connection would end them too, but then the gateway
 * would never hear what they had used: a cancelled one ends like any other, with usage.
 */
export class Calls {
  readonly #open = new Map<string, Cancellable>()

  /** Until the returned call. A second attempt under one name takes the place of the first. */
  open(call: string, request: Cancellable): () => void {
    this.#open.set(call, request)
    return () => {
      if (this.#open.get(call) === request) this.#open.delete(call)
    }
  }

  /** Whether there is such a request. */
  cancel(call: string): boolean {
    const request = this.#open.get(call)
    request?.cancel()
    return request !== undefined
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
