import { createHash, timingSafeEqual } from 'node:crypto'
import type { Exchange } from '../http/exchange.ts'
import { Problem } from '../http/problem.ts'

/** Who asks when no keys are set: everybody shares one tenant. */
export const anonymous = 'anonymous'

/**
 * API keys, kept as SHA-256 only. A key is given in plain or as `sha256:` and 64 hex digits. The tenant of a
 * request is the start of its key's hash, which says nothing about the key.
 */
export class Authentication {
  readonly #digests: readonly Buffer[] | undefined

  /** Without keys everybody may ask. */
  constructor(keys: readonly string[] | undefined) {
    this.#digests = keys?.map((key) =>
      /^sha256:[0-9a-f]{64}$/i.test(key) ? Buffer.from(key.slice('sha256:'.length), 'hex') : digestOf(key),
    )
  }

  /** The tenant of the key in `Authorization: Bearer`, or throws 401. */
  tenantOf(exchange: Exchange): string {
    if (this.#digests === undefined) return anonymous
    const [scheme, key] = (exchange.header('authorization') ?? '').split(/ +/, 2)
    if (scheme?.toLowerCase() !== 'bearer' || key === undefined || key === '') {
      throw denied('Send the API key as Authorization: Bearer KEY.')
    }
    const digest = digestOf(key)
    // Every digest is compared: the time taken must not tell which key was near.
    const known = this.#digests.reduce(
      (found, candidate) => timingSafeEqual(candidate, digest) || found,
      false,
    )
    if (!known) throw denied('The API key is not known here.')
    return `key-${digest.toString('hex').slice(0, 12)}`
  }
}

function digestOf(key: string): Buffer {
  return createHash('sha256').update(key).digest()
}

function denied(message: string): Problem {
  return new Problem(401, 'invalid_api_key', message, { headers: { 'www-authenticate': 'Bearer' } })
}
