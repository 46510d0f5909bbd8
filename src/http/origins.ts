import { isIP } from 'node:net'
import type { Exchange } from './exchange.ts'
import { Problem } from './problem.ts'

/**
 * Which web pages may talk to this server through somebody's browser.
 *
 * A page on another origin gets nothing unless its origin was allowed ('*' allows all). A server on
 * localhost often has no keys, so a page's own origin is trusted only when it is an address or localhost:
 * a name may have been pointed at this machine to get around the rule (DNS rebinding).
 */
export class Origins {
  readonly #allowed: ReadonlySet<string>

  constructor(allowed: readonly string[] = []) {
    this.#allowed = new Set(allowed)
  }

  /** Throws 403 for a page that may not; sets the headers that let an allowed one read the answer. */
  check(exchange: Exchange): void {
    const origin = exchange.header('origin')
    if (origin === undefined) {
      const site = exchange.header('sec-fetch-site')
      if (site === 'cross-site' || site === 'same-site') throw refusal()
      return
    }
    if (this.#allowed.has('*') || this.#allowed.has(origin)) {
      exchange.response.setHeader('access-control-allow-origin', origin)
      exchange.response.setHeader('vary', 'Origin')
      return
    }
    if (!isOwn(origin, exchange.header('host'))) throw refusal()
  }

  /** Answers the question that browsers ask before a request that is not simple (Fetch standard, CORS preflight). */
  preflight(exchange: Exchange): void {
    exchange.response.writeHead(204, {
      'access-control-allow-methods': 'GET, POST',
      'access-control-allow-headers': exchange.header('access-control-request-headers') ?? 'content-type',
      'access-control-max-age': '600',
    })
    exchange.end()
  }
}

function isOwn(origin: string, host: string | undefined): boolean {
  if (!URL.canParse(origin)) return false
  const url = new URL(origin)
  const name = url.hostname.replace(/^\[|\]$/g, '')
  return url.host === host && (isIP(name) !== 0 || name === 'localhost')
}

function refusal(): Problem {
  return new Problem(403, 'origin_not_allowed', 'Pages of this origin may not use this server.')
}
