import { createHash } from 'node:crypto'
import type { Exchange } from '../../http/exchange.ts'
import { Problem } from '../../http/problem.ts'

/** Bounds on what one key may ask; absent ones do not bound. */
export interface KeyLimits {
  readonly requestsPerMinute?: number
  /** Prompt and output together. */
  readonly tokensPerMinute?: number
  readonly concurrent?: number
}

/** Who asks. */
export interface Caller {
  /** The key's id, which says nothing about the key. */
  readonly key: string
  readonly project: string
  readonly limits: KeyLimits
}

/**
 * Says whose key has this SHA-256 (hex); undefined when it is unknown, revoked or expired. May ask a database,
 * so it may take time; the gateway asks once per request.
 */
export type KeyVerifier = (sha256: string) => Caller | undefined | Promise<Caller | undefined>

/** Who asks for a public deployment without a key. */
export const anonymousCaller: Caller = { key: 'anonymous', project: '', limits: {} }

/**
 * The caller of the key in `Authorization: Bearer`, or in `x-api-key` as Anthropic's clients send it; undefined without
 * one. Throws 401 for a key that is not known.
 */
export async function callerOf(exchange: Exchange, verify: KeyVerifier): Promise<Caller | undefined> {
  const own = exchange.header('x-api-key')
  const header = exchange.header('authorization') ?? (own === undefined ? undefined : `Bearer ${own}`)
  if (header === undefined) return undefined
  const [scheme, key] = header.split(/ +/, 2)
  if (scheme?.toLowerCase() !== 'bearer' || key === undefined || key === '') throw keyMissing()
  const caller = await verify(sha256(key))
  if (caller === undefined) throw denied('The API key is not known here, has expired, or was revoked.')
  return caller
}

export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}

/** `model`: what was asked for, where others would have been answered without a key. */
export function keyMissing(model?: string): Problem {
  const send = 'Send the API key as Authorization: Bearer KEY.'
  if (model === undefined) return denied(send)
  return denied(
    `Nothing here answers for '${model.slice(0, 100)}' without a key; GET /v1/models lists what does. ${send}`,
  )
}

function denied(message: string): Problem {
  return new Problem(401, 'invalid_api_key', message, { headers: { 'www-authenticate': 'Bearer' } })
}
