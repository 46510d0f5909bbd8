/** Other ways to ask for a chat: each body becomes a chat's, and its answer is worded from the chat's. */
import type { z } from 'zod'
import type { ChatWording } from './chat-wording.ts'
import type { RequestLimits } from './limits.ts'
import { chatOfMessages, fieldOfMessages, messagesRequest } from './messages.ts'
import { MessagesAnswer, messagesRefusal } from './messages-answer.ts'
import { chatOfResponses, fieldOfResponses, responsesRequest } from './responses.ts'
import { ResponsesAnswer } from './responses-answer.ts'

/** A chat's body that asks for the same, and what words the answer. */
export interface AskedAsChat {
  readonly body: Record<string, unknown>
  readonly answer: ChatWording
}

export interface Dialect {
  readonly path: '/v1/responses' | '/v1/messages'
  readonly schema: z.ZodType
  /** Of a body as the schema reads it. */
  asked(body: unknown): AskedAsChat
  /** The body of a refusal. */
  refusal(problem: { error: { message: string } }, status: number): object
  /** What its body calls a field of the chat's. */
  field(param: string): string
}

function dialect<Schema extends z.ZodType>(
  schema: Schema,
  asked: (body: z.output<Schema>) => AskedAsChat,
  others: Pick<Dialect, 'path' | 'refusal' | 'field'>,
): Dialect {
  return { schema, asked: (body) => asked(body as z.output<Schema>), ...others }
}

export function dialects(limits: RequestLimits): readonly Dialect[] {
  return [
    dialect(
      responsesRequest(limits),
      (body) => ({ body: chatOfResponses(body), answer: new ResponsesAnswer(body) }),
      { path: '/v1/responses', refusal: (problem) => problem, field: fieldOfResponses },
    ),
    dialect(
      messagesRequest(limits),
      (body) => ({ body: chatOfMessages(body), answer: new MessagesAnswer() }),
      { path: '/v1/messages', refusal: messagesRefusal, field: fieldOfMessages },
    ),
  ]
}
