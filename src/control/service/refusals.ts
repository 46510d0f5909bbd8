/** What a client is told of anything that was thrown: decided here and nowhere else. */
import type { FastifyError } from 'fastify'
import {
  hasZodFastifySchemaValidationErrors,
  type ZodFastifySchemaValidationError,
} from 'fastify-type-provider-zod'
import { z } from 'zod'
import { type ProblemBody, type ProblemCode, problemCodes, Refused } from '../../api/control/problem.ts'
import { firstIssue } from '../../api/issues.ts'
import { type Failure, isNoRoom, UserError } from '../../base/errors.ts'
import { Problem } from '../../http/problem.ts'

/** Of a body in JSON. */
export const bodyBytesMax = 1 << 20

type Schemas = Readonly<Record<string, unknown>>

export interface Answer {
  readonly status: number
  readonly body: ProblemBody
}

const ofFailure: { readonly [F in Failure]: ProblemCode } = {
  usage: 'invalid_request',
  not_found: 'not_found',
  auth: 'forbidden',
  conflict: 'conflict',
  unreachable: 'unavailable',
  timed_out: 'timed_out',
  failed: 'internal',
  interrupted: 'unavailable',
}

const ofStatus: ReadonlyMap<number, ProblemCode> = new Map([
  [404, 'not_found'],
  [413, 'too_large'],
  [415, 'unsupported_media'],
])

/** `schemas` are those of the route by what they hold (`body`, `querystring` ...), so that a misspelt field is told from. */
export function answerOf(error: unknown, requestId: string, schemas: Schemas = {}): Answer {
  if (error instanceof Refused) return answer(error.code, error.message, error, requestId)
  if (isNoRoom(error)) return answer('disk_full', ...noRoom(error), requestId)
  if (error instanceof UserError) return answer(ofFailure[error.failure], error.message, error, requestId)
  if (error instanceof Problem) {
    const body = { code: error.code, message: error.message, fix: null, param: error.param }
    return { status: error.status, body: { error: { ...body, request_id: requestId } } }
  }
  if (hasZodFastifySchemaValidationErrors(error)) {
    const context = error.validationContext ?? 'body'
    const { param, message } = invalid(error.validation, schemas[context])
    const where = `${context}${param === undefined ? '' : `, ${param}`}`
    return answer('invalid_request', `${where}: ${message}`, { param }, requestId)
  }
  const { statusCode, message, code } = error as FastifyError
  if (code === 'FST_ERR_CTP_BODY_TOO_LARGE')
    return answer(
      'too_large',
      `The body is larger than ${bodyBytesMax >> 20} MiB, the most that is read here.`,
      { fix: "What is large goes into a dataset or the job's folder, and is named." },
      requestId,
    )
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500)
    return answer(ofStatus.get(statusCode) ?? 'invalid_request', message, {}, requestId)
  if (isOutage(error))
    return answer(
      'unavailable',
      'The database cannot be reached at this moment.',
      { fix: 'Try again in a moment; if it stays so, whoever runs the service should look at its log.' },
      requestId,
    )
  return answer(
    'internal',
    'The service failed on this request; its log says why.',
    { fix: `Try again; if it stays so, report it with request ${requestId}.` },
    requestId,
  )
}

/** Who wrote may know better what it was. */
function noRoom(error: unknown): [message: string, details: { fix?: string | undefined }] {
  if (error instanceof UserError) return [error.message, error]
  return [
    'The disk of the service is full.',
    { fix: 'Make room on it and go on: what was acknowledged is kept.' },
  ]
}

/** The first thing wrong, and what was meant where a name is none. */
function invalid(validation: readonly ZodFastifySchemaValidationError[], schema: unknown) {
  const issues = validation.map(({ keyword, instancePath, message, params }) => {
    const path = instancePath.split('/').slice(1)
    return { ...params, code: keyword, message: message ?? 'not valid', path: path.join() === '' ? [] : path }
  }) as z.core.$ZodIssue[]
  if (schema instanceof z.ZodType) return firstIssue({ issues }, schema)
  const [{ path, message }] = issues as [z.core.$ZodIssue]
  return { param: path.join('.') || undefined, message }
}

function answer(
  code: ProblemCode,
  message: string,
  { fix, param }: { fix?: string | undefined; param?: string | undefined },
  requestId: string,
): Answer {
  const body = { code, message, fix: fix ?? null, param: param || null, request_id: requestId }
  return { status: problemCodes[code].status, body: { error: body } }
}

/** Connections refused, lost or timed out, and servers that are starting or stopping (PostgreSQL, appendix A). */
const outageCodes = /^(ECONN|EPIPE|ENOTFOUND|ETIMEDOUT|08|57P0|SQLITE_BUSY)/

function isOutage(error: unknown): boolean {
  const { code, message } = error as { code?: unknown; message?: unknown }
  return (
    (typeof code === 'string' && outageCodes.test(code)) ||
    (typeof message === 'string' &&
      /timeout exceeded when trying to connect|Connection terminated/.test(message))
  )
}
