import type { Exchange } from './exchange.ts'
import { Problem } from './problem.ts'

/** `caller`: who asks, as the gate before the routes found out. */
export type Handler = (exchange: Exchange, caller: string) => Promise<void>

export interface Route {
  method: 'GET' | 'POST' | 'DELETE'
  /** Segments that begin with ':' match one segment each and name it. */
  path: string
  handle: Handler
  /** Answers without a key, to whoever can reach the port. */
  open?: boolean
}

/** Finds the route of a request, or throws 404 or 405 (with `Allow`). */
export class Router {
  readonly #routes: readonly { route: Route; segments: readonly string[] }[]

  constructor(routes: readonly Route[]) {
    this.#routes = routes.map((route) => ({ route, segments: route.path.split('/') }))
  }

  find(method: string, path: string): { route: Route; parameters: Record<string, string> } {
    const matches = this.#routes.flatMap(({ route, segments }) => {
      const parameters = match(segments, path)
      return parameters === undefined ? [] : [{ route, parameters }]
    })
    if (matches.length === 0) throw new Problem(404, 'unknown_path', `There is nothing at ${method} ${path}.`)
    const wanted = method === 'HEAD' ? 'GET' : method
    const found = matches.find(({ route }) => route.method === wanted)
    if (found !== undefined) return found
    const allow = matches.map(({ route }) => route.method).join(', ')
    throw new Problem(405, 'method_not_allowed', `${path} takes ${allow}.`, { headers: { allow } })
  }
}

function match(segments: readonly string[], path: string): Record<string, string> | undefined {
  const parts = path.split('/')
  if (parts.length !== segments.length) return undefined
  const parameters: Record<string, string> = {}
  for (const [index, segment] of segments.entries()) {
    const part = parts[index]!
    if (!segment.startsWith(':')) {
      if (segment !== part) return undefined
      continue
    }
    const value = decoded(part)
    if (value === undefined || value === '') return undefined
    parameters[segment.slice(1)] = value
  }
  return parameters
}

function decoded(part: string): string | undefined {
  try {
    return decodeURIComponent(part)
  } catch (error) {
    if (error instanceof URIError) return undefined
    throw error
  }
}
