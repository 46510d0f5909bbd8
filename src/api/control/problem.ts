import { z } from 'zod'
import type { Failure } from '../../base/errors.ts'

/** What the service refuses with: the HTTP status, and what it means to a shell. */
export const problemCodes = {
  invalid_request: { status: 400, failure: 'usage' },
  unauthenticated: { status: 401, failure: 'auth' },
  second_factor_required: { status: 401, failure: 'auth' },
  forbidden: { status: 403, failure: 'auth' },
  quota_exceeded: { status: 403, failure: 'conflict' },
  budget_exhausted: { status: 402, failure: 'conflict' },
  not_found: { status: 404, failure: 'not_found' },
  conflict: { status: 409, failure: 'conflict' },
  name_taken: { status: 409, failure: 'conflict' },
  in_use: { status: 409, failure: 'conflict' },
  expired: { status: 410, failure: 'not_found' },
  too_large: { status: 413, failure: 'usage' },
  unsupported_media: { status: 415, failure: 'usage' },
  rate_limited: { status: 429, failure: 'failed' },
  limit_reached: { status: 429, failure: 'failed' },
  internal: { status: 500, failure: 'failed' },
  unavailable: { status: 503, failure: 'unreachable' },
  timed_out: { status: 504, failure: 'timed_out' },
  disk_full: { status: 507, failure: 'failed' },
} as const satisfies Record<string, { status: number; failure: Failure }>

export type ProblemCode = keyof typeof problemCodes

/** The body of every refusal. */
export const problemBody = z.object({
  error: z.object({
    code: z.string(),
    /** What happened and why. */
    message: z.string(),
    /** What to do about it. */
    fix: z.string().nullable(),
    /** The field that was wrong, as a path. */
    param: z.string().nullable(),
    request_id: z.string(),
  }),
})

export type ProblemBody = z.output<typeof problemBody>

/** An expected refusal on its way to whoever asked. Thrown by handlers, and by the client that reads one. */
export class Refused extends Error {
  override name = 'Refused'
  readonly code: ProblemCode
  readonly fix: string | undefined
  readonly param: string | undefined

  /** `message` says what and why, `fix` what to do. */
  constructor(code: ProblemCode, message: string, details: { fix?: string; param?: string } = {}) {
    super(message)
    this.code = code
    this.fix = details.fix
    this.param = details.param
  }
}
