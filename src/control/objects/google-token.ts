/** Access tokens for a service account of Google (OAuth 2.0, RFC 7523; "Using OAuth 2.0 for Server to Server Applications"). */
import { createSign } from 'node:crypto'
import { z } from 'zod'
import type { Clock } from '../../base/clock.ts'
import { messageOf, UserError } from '../../base/errors.ts'
import type { BearerCredential } from './s3-client.ts'

/** The file that Google gives for a service account, as far as it is needed. */
const account = z.object({
  client_email: z.string().min(1),
  private_key: z.string().min(1),
  private_key_id: z.string().optional(),
  token_uri: z.url({ protocol: /^https?$/ }),
})
const answer = z.object({ access_token: z.string().min(1), expires_in: z.number().min(1) })

const scope = 'https://www.googleapis.com/auth/devstorage.read_only'
const grant = 'urn:ietf:params:oauth:grant-type:jwt-bearer'
const lifeSeconds = 3600
/** A token that ends while a request is on its way would be refused. */
const spareMs = 60_000
const answerMs = 30_000

export class GoogleToken implements BearerCredential {
  readonly #account: z.output<typeof account>
  readonly #clock: Clock
  #known: { readonly token: string; readonly untilMs: number } | undefined

  /** Throws UserError when the text is no key file of a service account. */
  constructor(serviceAccount: string, clock: Clock) {
    this.#account = accountOf(serviceAccount)
    this.#clock = clock
  }

  async token(): Promise<string> {
    const nowMs = this.#clock.unixMs()
    if (this.#known !== undefined && this.#known.untilMs > nowMs) return this.#known.token
    const { access_token, expires_in } = await this.#asked(nowMs)
    this.#known = { token: access_token, untilMs: nowMs + expires_in * 1000 - spareMs }
    return access_token
  }

  async #asked(nowMs: number): Promise<z.output<typeof answer>> {
    const { token_uri, client_email } = this.#account
    const body = new URLSearchParams({ grant_type: grant, assertion: this.#assertion(nowMs) })
    let response: Response
    try {
      const signal = AbortSignal.timeout(answerMs)
      response = await fetch(token_uri, { method: 'POST', body, redirect: 'error', signal })
    } catch (error) {
      throw new UserError(`${token_uri} gives no token: ${messageOf(error)}`, {
        failure: 'unreachable',
        fix: 'Check the network, and token_uri in the key file.',
        cause: error,
      })
    }
    const parsed = response.ok ? answer.safeParse(await response.json()) : undefined
    if (parsed?.success === true) return parsed.data
    await response.body?.cancel()
    throw new UserError(`Google gives ${client_email} no token (status ${response.status}).`, {
      failure: 'auth',
      fix: 'Check that the key of the service account was not revoked; store another in the credential.',
    })
  }

  #assertion(nowMs: number): string {
    const { client_email, private_key, private_key_id, token_uri } = this.#account
    const iat = Math.floor(nowMs / 1000)
    const header = { alg: 'RS256', typ: 'JWT', ...(private_key_id !== undefined && { kid: private_key_id }) }
    const claims = { iss: client_email, scope, aud: token_uri, iat, exp: iat + lifeSeconds }
    const text = [header, claims]
      .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
      .join('.')
    try {
      return `${text}.${createSign('RSA-SHA256').update(text).sign(private_key, 'base64url')}`
    } catch (error) {
      throw new UserError('The private key of the service account cannot be read.', {
        failure: 'usage',
        fix: 'Store the whole JSON file that Google gave as service_account.',
        cause: error,
      })
    }
  }
}

function accountOf(text: string): z.output<typeof account> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
  }
  const parsed = account.safeParse(value)
  if (parsed.success) return parsed.data
  throw new UserError('The credential holds no key file of a service account.', {
    failure: 'usage',
    fix: 'Store the whole JSON file that Google gave as service_account.',
  })
}
