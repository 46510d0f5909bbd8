import { chatOfResponses, responsesRequest } from '../api/responses.ts'
import { ResponsesAnswer } from '../api/responses-answer.ts'
import type { Handler } from '../http/router.ts'
import { type Endpoint, parseBody } from './endpoint.ts'

/** POST /v1/responses: asked as a chat, and answered in its own words. */
export function responses({ limits }: Endpoint, chat: Handler): Handler {
  const schema = responsesRequest(limits)
  return async (exchange, tenant) => {
    const body = await parseBody(exchange, schema, limits)
    exchange.asked = { body: chatOfResponses(body), answer: new ResponsesAnswer(body) }
    await chat(exchange, tenant)
  }
}
