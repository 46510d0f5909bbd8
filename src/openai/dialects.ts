import { dialects } from '../api/dialects.ts'
import { refusedAs } from '../http/rewording.ts'
import type { Handler, Route } from '../http/router.ts'
import { type Endpoint, parseBody } from './endpoint.ts'

/** Other ways to ask for a chat: asked of the chat's own handler, and answered in their words. */
export function dialectRoutes({ limits }: Endpoint, chat: Handler): readonly Route[] {
  return dialects(limits).map(({ path, schema, asked, refusal }) => ({
    method: 'POST',
    path,
    handle: async (exchange, tenant) => {
      exchange.asked = { answer: refusedAs(refusal) }
      exchange.asked = asked(await parseBody(exchange, schema, limits))
      await chat(exchange, tenant)
    },
  }))
}
