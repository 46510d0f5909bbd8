import { dialects } from '../api/dialects.ts'
import type { Handler, Route } from '../http/router.ts'
import { type Endpoint, parseBody } from './endpoint.ts'

/** Other ways to ask for a chat: asked of the chat's own handler, and answered in their words. */
export function dialectRoutes({ limits }: Endpoint, chat: Handler): readonly Route[] {
  return dialects(limits).map((dialect) => ({
    method: 'POST',
    path: dialect.path,
    handle: async (exchange, tenant) => {
      exchange.asked = { dialect }
      exchange.asked = { dialect, ...dialect.asked(await parseBody(exchange, dialect.schema, limits)) }
      await chat(exchange, tenant)
    },
  }))
}
