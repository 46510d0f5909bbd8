/**
 * An OpenID provider as this service uses it: authorization code with PKCE (RFC 7636), state and nonce (OpenID Connect
 * Core 1.0, sections 3.1.2 and 3.1.3). The library checks issuer, audience, times and, by the provider's published
 * keys, signatures; keys are kept, and fetched again when a token names one that is not among them.
 */
import type * as oidc from 'openid-client'
import { Refused } from '../../api/control/problem.ts'
import type { Clock } from '../../base/clock.ts'
import { messageOf, UserError } from '../../base/errors.ts'

export interface OidcSettings {
  /** `https://accounts.example.org`; plain HTTP on this machine alone. */
  readonly issuer: string
  readonly clientId: string
  /** Undefined for a client that has none: PKCE alone. */
  readonly clientSecret?: string
  /** Where browsers reach this service; the provider must know `{serviceUrl}/api/v1/oidc/callback`. */
  readonly serviceUrl: string
  /** What the button says. */
  readonly name: string
  /** Whether who comes with the verified address of an account may use it from then on. */
  readonly linkByMail: boolean
  /** Who may come without an account: whoever was invited, or anybody whom the provider knows. */
  readonly signUp: 'invited' | 'anyone'
}

/** Who somebody is, as the provider says. */
export interface Identity {
  /** Issuer and subject: never given to another person. */
  readonly subject: string
  /** Undefined when the provider does not vouch for it. */
  readonly verifiedEmail: string | undefined
  readonly name: string
}

export interface OidcFlow {
  readonly state: string
  readonly nonce: string
  readonly verifier: string
}

const settingsMs = 24 * 3600 * 1000
const answerSeconds = 15
const scope = 'openid email profile'

export class OidcProvider {
  readonly settings: OidcSettings
  readonly #clock: Clock
  #known: { readonly config: Promise<oidc.Configuration>; readonly sinceMs: number } | undefined

  constructor(settings: OidcSettings, clock: Clock) {
    this.settings = settings
    this.#clock = clock
  }

  get redirectUri(): string {
    return `${this.settings.serviceUrl}/api/v1/oidc/callback`
  }

  /** Where a browser goes to log in. */
  async authorization({ state, nonce, verifier }: OidcFlow): Promise<string> {
    const { buildAuthorizationUrl, calculatePKCECodeChallenge } = await import('openid-client')
    const code_challenge = await calculatePKCECodeChallenge(verifier)
    return buildAuthorizationUrl(await this.#configuration(), {
      ...{ redirect_uri: this.redirectUri, scope, state, nonce, code_challenge },
      code_challenge_method: 'S256',
    }).href
  }

  /** Who came back with this query. Throws Refused when it does not hold, UserError when the provider does not answer. */
  async identity(query: Readonly<Record<string, unknown>>, flow: OidcFlow): Promise<Identity> {
    const { authorizationCodeGrant } = await import('openid-client')
    const address = new URL(this.redirectUri)
    for (const [name, value] of Object.entries(query))
      if (typeof value === 'string') address.searchParams.set(name, value)
    const tokens = await this.#asked(async () =>
      authorizationCodeGrant(await this.#configuration(), address, {
        ...{ pkceCodeVerifier: flow.verifier, expectedState: flow.state, expectedNonce: flow.nonce },
        idTokenExpected: true,
      }),
    )
    const claims = tokens.claims()!
    const { sub, email, email_verified, name } = claims
    const address_ = typeof email === 'string' && email_verified === true ? email.toLowerCase() : undefined
    return {
      subject: `${claims.iss} ${sub}`,
      verifiedEmail: address_,
      name: typeof name === 'string' && name !== '' ? name.slice(0, 200) : (address_ ?? sub).slice(0, 200),
    }
  }

  /** What the provider publishes about itself: asked once a day, and again after a failure. */
  async #configuration(): Promise<oidc.Configuration> {
    const nowMs = this.#clock.unixMs()
    if (this.#known !== undefined && nowMs - this.#known.sinceMs < settingsMs) return await this.#known.config
    const known = { config: this.#asked(() => discovered(this.settings)), sinceMs: nowMs }
    this.#known = known
    try {
      return await known.config
    } catch (error) {
      if (this.#known === known) this.#known = undefined
      throw error
    }
  }

  async #asked<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      throw await this.#refusalOf(error)
    }
  }

  async #refusalOf(error: unknown): Promise<Error> {
    if (error instanceof Refused || error instanceof UserError) return error
    const { AuthorizationResponseError, ClientError, ResponseBodyError } = await import('openid-client')
    const { name } = this.settings
    if (error instanceof AuthorizationResponseError || error instanceof ResponseBodyError)
      return new Refused('forbidden', `${name} did not let you in: ${saidBy(error)}.`, {
        fix: 'Log in again; if it stays so, ask whoever runs this service.',
      })
    const isNetwork = error instanceof TypeError || (error as { code?: unknown }).code === 'OAUTH_TIMEOUT'
    if (error instanceof ClientError && !isNetwork)
      return new Refused('unauthenticated', `What ${name} answered does not hold: ${error.message}.`, {
        fix: 'Log in again; if it stays so, ask whoever runs this service.',
      })
    if (!isNetwork && !(error instanceof Error)) return new Error(String(error))
    return new UserError(`${name} (${this.settings.issuer}) cannot be asked: ${messageOf(error)}.`, {
      failure: 'unreachable',
      fix: 'Try again in a moment; whoever runs this service should check the issuer in the file of --oidc.',
      cause: error,
    })
  }
}

function saidBy({ error, error_description }: { error: string; error_description?: string }): string {
  return error_description === undefined ? error : `${error} (${error_description})`
}

async function discovered(settings: OidcSettings): Promise<oidc.Configuration> {
  const { allowInsecureRequests, ClientSecretBasic, discovery, enableNonRepudiationChecks, None } =
    await import('openid-client')
  const { issuer, clientId, clientSecret } = settings
  const isLocal = new URL(issuer).protocol === 'http:'
  const config = await discovery(
    new URL(issuer),
    clientId,
    {},
    clientSecret === undefined ? None() : ClientSecretBasic(clientSecret),
    // Tokens are checked by their signatures even though they come from the provider itself, over TLS.
    {
      timeout: answerSeconds,
      execute: [enableNonRepudiationChecks, ...(isLocal ? [allowInsecureRequests] : [])],
    },
  )
  return config
}
