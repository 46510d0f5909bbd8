import { Problem } from '../http/problem.ts'
import type { Admission, FailureCode, Finish, Refusal } from '../serve/request.ts'

interface RefusalAnswer {
  status: 400 | 404 | 409 | 429 | 500 | 503
  /** The code that OpenAI uses where it has one. */
  code: string
  /** Whether the prompt's own field is to blame, which completions and chat name differently. */
  blames: 'prompt' | 'nothing'
  message: string
}

/** What a client sees of each refusal. A code that the engine gains does not compile before it is decided here. */
export const refusals = {
  empty_prompt: { status: 400, code: 'empty_prompt', blames: 'prompt', message: 'The prompt has no tokens.' },
  context_too_long: {
    status: 400,
    code: 'context_length_exceeded',
    blames: 'prompt',
    message: 'The prompt and the tokens asked for exceed the model context.',
  },
  token_out_of_range: {
    status: 400,
    code: 'token_out_of_range',
    blames: 'prompt',
    message: 'A token id lies outside the vocabulary.',
  },
  cache_too_small: {
    status: 400,
    code: 'cache_too_small',
    blames: 'prompt',
    message: 'The prompt and the tokens asked for exceed the memory that this server has for one request.',
  },
  queue_full: {
    status: 429,
    code: 'queue_full',
    blames: 'nothing',
    message: 'Too many requests are waiting.',
  },
  duplicate_id: {
    status: 409,
    code: 'duplicate_id',
    blames: 'nothing',
    message: 'A request with this id is under way.',
  },
  shutting_down: {
    status: 503,
    code: 'shutting_down',
    blames: 'nothing',
    message: 'The server is shutting down.',
  },
  unknown_adapter: {
    status: 404,
    code: 'model_not_found',
    blames: 'nothing',
    message: 'There is no such adapter here (any more); GET /v1/models lists those there are.',
  },
  constraint_impossible: {
    status: 400,
    code: 'unsupported_parameter',
    blames: 'nothing',
    message: 'The tokens of this model cannot write what response_format asks for.',
  },
  constraint_unavailable: {
    status: 500,
    code: 'constraint_unavailable',
    blames: 'nothing',
    message:
      "The tokenizer's files of this model cannot be read any more, so no answer can be held to a form: put its folder back. Requests without response_format and tools go on.",
  },
} as const satisfies { [Code in Refusal]: RefusalAnswer }

/** `promptField`: what the endpoint calls its prompt. */
export function refusalProblem(admission: Admission & { ok: false }, promptField: string): Problem {
  const { status, code, blames, message } = refusals[admission.code]
  if (status === 429 || status === 503) return retryLater(status, code, message, admission.retryAfterMs)
  return new Problem(status, code, message, { param: blames === 'prompt' ? promptField : undefined })
}

export function contextTooLong(promptField: string, facts: string): Problem {
  const { status, code } = refusals.context_too_long
  return new Problem(status, code, facts, { param: promptField })
}

/** What a client sees of a request that was taken and then failed. */
const failures = {
  queue_timeout: { status: 429, message: 'The request waited too long for its turn.' },
  device: { status: 500, message: 'The device failed while it computed this request.' },
  numerics: { status: 500, message: 'The model computed values that are not numbers.' },
} as const satisfies { [Code in FailureCode]: { status: 429 | 500; message: string } }

/** `finish`: one that nobody asked for, of reason failed or aborted. */
export function finishProblem(finish: Pick<Finish, 'reason' | 'code' | 'retryAfterMs'>): Problem {
  if (finish.reason === 'aborted')
    return retryLater(503, 'aborted', 'The server ended this request before it was complete.')
  const code = finish.code ?? 'device'
  const { status, message } = failures[code]
  if (status === 429) return retryLater(status, code, message, finish.retryAfterMs)
  return new Problem(status, code, message)
}

export function shuttingDown(): Problem {
  return refusalProblem({ ok: false, code: 'shutting_down' }, '')
}

export function unavailable(): Problem {
  return retryLater(
    503,
    'engine_unavailable',
    'The model is not ready: it is loading, or its engine stopped.',
  )
}

export function tooManySchemas(): Problem {
  return retryLater(429, 'queue_full', 'Too many schemas are waiting to be read.')
}

/** The wait stands in the message too: an error inside a stream comes too late for headers. */
function retryLater(status: 429 | 503, code: string, message: string, ms = 0): Problem {
  // The header counts whole seconds; zero would invite a loop.
  const seconds = Math.max(1, Math.ceil(ms / 1000))
  return new Problem(status, code, `${message} Retry in ${seconds} s.`, {
    headers: { 'retry-after': String(seconds) },
  })
}
