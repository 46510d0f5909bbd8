/** A real OpenID provider in this process, whose log-in page is answered by the test. */
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { exportJWK, generateKeyPair, type JWK } from 'jose'
import { Provider } from 'oidc-provider'

export interface Account {
  readonly sub: string
  readonly email?: string
  readonly email_verified?: boolean
  readonly name?: string
}

export interface TestProvider extends AsyncDisposable {
  readonly issuer: string
  /** Who is at the keyboard; undefined says no at the provider's page. */
  user: Account | undefined
  /** Signs with a new key from now on, and no longer publishes the old one. */
  rotate(): Promise<void>
  /** How often its keys were asked for. */
  readonly keyRequests: () => number
}

export async function startProvider(callbacks: readonly string[]): Promise<TestProvider> {
  const http = createServer()
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve))
  const issuer = `http://127.0.0.1:${(http.address() as AddressInfo).port}`
  let keyRequests = 0
  const accounts = new Map<string, Account>()
  const test: TestProvider = {
    issuer,
    user: undefined,
    keyRequests: () => keyRequests,
    async rotate() {
      handler = await handlerWith(await newKey())
    },
    async [Symbol.asyncDispose]() {
      await closed(http)
    },
  }
  async function handlerWith(key: JWK) {
    const provider = new Provider(issuer, {
      clients: [{ client_id: 'ropeway', client_secret: 'of the test', redirect_uris: [...callbacks] }],
      jwks: { keys: [key] },
      cookies: { keys: ['of the test'] },
      claims: { email: ['email', 'email_verified'], profile: ['name'] },
      conformIdTokenClaims: false,
      features: { devInteractions: { enabled: false } },
      pkce: { required: () => true },
      findAccount: (_, sub) => ({ accountId: sub, claims: () => ({ ...accounts.get(sub)!, sub }) }),
      interactions: { url: (_, { uid }) => `/interaction/${uid}` },
      loadExistingGrant: async ({ oidc }) => {
        const grant = new oidc.provider.Grant({
          clientId: oidc.client!.clientId,
          accountId: oidc.session!.accountId!,
        })
        grant.addOIDCScope('openid email profile')
        await grant.save()
        return grant
      },
    })
    const inner = provider.callback()
    return async (...[request, response]: Parameters<typeof inner>) => {
      if (request.url === '/jwks') keyRequests++
      if (!request.url?.startsWith('/interaction/')) return await inner(request, response)
      const { user } = test
      if (user !== undefined) accounts.set(user.sub, user)
      await provider.interactionFinished(
        request,
        response,
        user === undefined ? { error: 'access_denied' } : { login: { accountId: user.sub } },
      )
    }
  }
  let handler = await handlerWith(await newKey())
  http.on('request', (request, response) => void handler(request, response))
  return test
}

async function newKey(): Promise<JWK> {
  const { privateKey } = await generateKeyPair('RS256', { extractable: true })
  return { ...(await exportJWK(privateKey)), use: 'sig', alg: 'RS256', kid: crypto.randomUUID() }
}

async function closed(server: Server): Promise<void> {
  server.closeAllConnections()
  await new Promise((resolve) => server.close(resolve))
}

/** A browser: keeps cookies by host, follows redirects by hand. */
export class Browser {
  readonly #cookies = new Map<string, Map<string, string>>()

  /** Follows from `url` until an answer is no redirect, or leads to where `until` says. */
  async open(
    url: string,
    until: (url: URL) => boolean = () => false,
  ): Promise<{ url: URL; response: Response }> {
    let at = new URL(url)
    for (let step = 0; step < 20; step++) {
      const response = await this.get(at)
      const location = response.headers.get('location')
      if (location === null) return { url: at, response }
      at = new URL(location, at)
      if (until(at)) return { url: at, response }
    }
    throw new Error(`redirected without end at ${at}`)
  }

  async get(url: URL): Promise<Response> {
    const jar = this.#cookies.get(url.host) ?? new Map<string, string>()
    this.#cookies.set(url.host, jar)
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ')
    const response = await fetch(url, { redirect: 'manual', headers: cookie === '' ? {} : { cookie } })
    for (const set of response.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(set)!
      if (/max-age=0|expires=thu, 01 jan 1970/i.test(set)) jar.delete(name!)
      else jar.set(name!, value!)
    }
    return response
  }

  cookies(host: string): ReadonlyMap<string, string> {
    return this.#cookies.get(host) ?? new Map()
  }
}
