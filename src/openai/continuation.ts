import type { Continuation, GenerationFields } from '../api/fields.ts'
import type { Exchange } from '../http/exchange.ts'
import { Problem } from '../http/problem.ts'
import type { Endpoint } from './endpoint.ts'
import type { GenerationParts } from './generation.ts'

/**
 * Where the choices of a request go on that began on another server; undefined for a request that begins here.
 * With the same model, prompt and seed the tokens are those that the other server would have gone on with.
 */
export function continuationsOf(
  body: GenerationFields,
  exchange: Exchange,
  { isGateway, engine }: Endpoint,
): readonly (Continuation | null)[] | undefined {
  const asked = body.ropeway_continue
  if (asked === undefined) return undefined
  const refuse = (code: string, message: string): Problem =>
    new Problem(400, code, `ropeway_continue: ${message}`, { param: 'ropeway_continue' })
  if (!isGateway(exchange)) throw refuse('unknown_parameter', 'Unknown field.')
  if (body.stream !== true) throw refuse('invalid_value', 'Only with stream: true.')
  const { vocabularySize } = engine.info
  if (asked.some((choice) => choice?.tokens.some((token) => token >= vocabularySize))) {
    throw refuse('token_out_of_range', `The vocabulary ends at token ${vocabularySize - 1}.`)
  }
  return asked
}

/** `echoed`: code units of the prompt that the client got in front of its text. */
export function continued(
  part: GenerationParts,
  continuation: Continuation | null | undefined,
  echoed: number,
): GenerationParts {
  if (continuation == null) return part
  const { characters, finished = false } = continuation
  const { promptLogprobs: _, ...request } = part.request
  // The last token of a whole answer is generated again, so that the engine says how it ends.
  const tokens = finished ? continuation.tokens : continuation.tokens.slice(0, request.maxTokens - 1)
  const earlier = part.transcript.resume(tokens, characters - echoed)
  return { ...part, earlier, finished, request: { ...request, generated: tokens } }
}
