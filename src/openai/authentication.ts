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
  readonly #gatewayDigests: readonly Buffer[]

  /**
   * Without any key everybody may ask. A gateway's key lets it speak for others: it names the tenant in
   * `x-ropeway-tenant` and may continue requests that began elsewhere.
   */
  constructor(keys: readonly string[] | undefined, gatewayKeys: readonly string[] = []) {
    this.#gatewayDigests = gatewayKeys.map(digestOfGiven)
    this.#digests = keys?.map(digestOfGiven) ?? (gatewayKeys.length > 0 ? [] : undefined)
  }

  isGateway(exchange: Exchange): boolean {
    const key = bearerOf(exchange)
    return key !== undefined && isAmong(this.#gatewayDigests, digestOf(key))
  }

  /** The tenant of the key in `Authorization: Bearer`, or throws 401. */
  tenantOf(exchange: Exchange): string {
    if (this.#digests === undefined) return anonymous
    const key = bearerOf(exchange)
    if (key === undefined) throw denied('Send the API key as Authorization: Bearer KEY.')
    const digest = digestOf(key)
    if (isAmong(this.#gatewayDigests, digest)) return namedTenant(exchange)
    if (!isAmong(this.#digests, digest)) throw denied('The API key is not known here.')
    return `key-${digest.toString('hex').slice(0, 12)}`
  }
}

/** Anthropic's clients send the key as x-api-key. */
function bearerOf(exchange: Exchange): string | undefined {
  const own = exchange.header('x-api-key')
  if (own !== undefined && own !== '' && exchange.header('authorization') === undefined) return own
  const [scheme, key] = (exchange.header('authorization') ?? '').split(/ +/, 2)
  return scheme?.toLowerCase() === 'bearer' && key !== '' ? key : undefined
}

/** Every digest is compared: the time taken must not tell which key was near. */
function isAmong(digests: readonly Buffer[], digest: Buffer): boolean {
  return digests.reduce((found, candidate) => timingSafeEqual(candidate, digest) || found, false)
}

function namedTenant(exchange: Exchange): string {
  const tenant = exchange.header('x-ropeway-tenant')
  return tenant !== undefined && /^[\w.:-]{1,128}$/.test(tenant) ? tenant : 'gateway'
}

function digestOfGiven(key: string): Buffer {
  return /^sha256:[0-9a-f]{64}$/i.test(key) ? Buffer.from(key.slice('sha256:'.length), 'hex') : digestOf(key)
}

function digestOf(key: string): Buffer {
  return createHash('sha256').update(key).digest()
}

function denied(message: string): Problem {
  return new Problem(401, 'invalid_api_key', message, { headers: { 'www-authenticate': 'Bearer' } })
}
