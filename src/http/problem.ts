/**
 * A failure that becomes an HTTP answer. Its body is the shape that OpenAI's clients parse:
 * `{ error: { message, type, param, code } }`, where `param` names the field that was wrong.
 */
export class Problem extends Error {
  override name = 'Problem'
  readonly status: number
  readonly code: string
  readonly param: string | null
  readonly headers: Readonly<Record<string, string>>

  constructor(
    status: number,
    code: string,
    message: string,
    details: { param?: string | undefined; headers?: Record<string, string> } = {},
  ) {
    super(message)
    this.status = status
    this.code = code
    this.param = details.param ?? null
    this.headers = details.headers ?? {}
  }

  get body(): ProblemBody {
    return {
      error: { message: this.message, type: typeOf(this.status), param: this.param, code: this.code },
    }
  }
}

export interface ProblemBody {
  error: { message: string; type: string; param: string | null; code: string }
}

function typeOf(status: number): string {
  if (status === 429) return 'rate_limit_error'
  return status >= 500 ? 'server_error' : 'invalid_request_error'
}

/** What a client is told of anything thrown: a {@link Problem} as it is, anything else without its details. */
export function problemOf(error: unknown): Problem {
  if (error instanceof Problem) return error
  return new Problem(500, 'internal_error', 'The server failed on this request; its log says why.')
}
