/** Other ways to ask for a chat: each body becomes a chat's, and its answer is worded from the chat's. */
import type { z } from 'zod'
import type { RequestLimits } from './limits.ts'
import { chatOfMessages, messagesRequest } from './messages.ts'
import { MessagesAnswer, messagesRefusal } from './messages-answer.ts'
import { chatOfResponses, responsesRequest } from './responses.ts'
import { ResponsesAnswer } from './responses-answer.ts'

export interface Dialect {
  readonly path: '/v1/responses' | '/v1/messages'
  readonly schema: z.ZodType
  /** Of a body as the schema reads it. */
  asked(body: unknown): { body: Record<string, unknown>; answer: ResponsesAnswer | MessagesAnswer }
  /** The body of a refusal before anything could be asked. */
  refusal(problem: { error: { message: string } }, status: number): object
}

function dialect<Schema extends z.ZodType>(
  path: Dialect['path'],
  schema: Schema,
  asked: (body: z.output<Schema>) => ReturnType<Dialect['asked']>,
  refusal: Dialect['refusal'],
): Dialect {
  return { path, schema, asked: (body) => asked(body as z.output<Schema>), refusal }
}

export function dialects(limits: RequestLimits): readonly Dialect[] {
  return [
    dialect(
      '/v1/responses',
      responsesRequest(limits),
      (body) => ({ body: chatOfResponses(body), answer: new ResponsesAnswer(body) }),
      (problem) => problem,
    ),
    dialect(
      '/v1/messages',
      messagesRequest(limits),
      (body) => ({ body: chatOfMessages(body), answer: new MessagesAnswer(body) }),
      messagesRefusal,
    ),
  ]
}
