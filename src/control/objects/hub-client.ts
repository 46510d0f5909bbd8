/** Requests to the Hugging Face hub, or to what speaks its HTTP API (documentation "Hub API endpoints"). */
import { setTimeout as delay } from 'node:timers/promises'
import { messageOf, UserError } from '../../base/errors.ts'

export interface HubAccess {
  /** `https://huggingface.co`, or a mirror. */
  readonly endpoint: string
  readonly token?: string | undefined
  /** Waits before another attempt; tests count instead. */
  readonly sleep?: (ms: number) => Promise<unknown>
}

export const hubEndpoint = 'https://huggingface.co'

const attemptsMax = 5
const firstWaitMs = 500
const answerMs = 60_000
const redirectsMax = 5
const again = new Set([408, 429, 500, 502, 503, 504])

export interface HubRequest {
  readonly method?: 'GET' | 'HEAD'
  readonly headers?: Readonly<Record<string, string>>
  /** The body has no time limit as a whole. */
  readonly stream?: boolean
  /** An answer that leads to another host is the answer. */
  readonly stay?: boolean
}

export class HubClient {
  readonly endpoint: string
  readonly #token: string | undefined
  readonly #sleep: (ms: number) => Promise<unknown>

  constructor({ endpoint, token, sleep = delay }: HubAccess) {
    this.endpoint = endpoint.replace(/\/+$/, '')
    this.#token = token
    this.#sleep = sleep
  }

  /** The answer; undefined when there is no such thing. Throws UserError for refusals and when none comes. */
  async ask(path: string, request: HubRequest = {}): Promise<Response | undefined> {
    for (let attempt = 1; ; attempt++) {
      const response = await this.#tried(path, request, attempt)
      if (response === undefined) continue
      if (response.ok || (request.stay === true && response.status < 400)) return response
      await response.body?.cancel()
      if (response.status === 404) return undefined
      if (!again.has(response.status) || attempt >= attemptsMax)
        throw refusalOf(response, this.endpoint, path)
      await this.#sleep(waitMs(response, attempt))
    }
  }

  get attemptsMax(): number {
    return attemptsMax
  }

  async wait(attempt: number): Promise<void> {
    await this.#sleep(firstWaitMs * 2 ** (attempt - 1))
  }

  /** Undefined when the network failed and there may be another attempt. */
  async #tried(path: string, request: HubRequest, attempt: number): Promise<Response | undefined> {
    try {
      return await this.#follow(`${this.endpoint}${path}`, request)
    } catch (error) {
      if (error instanceof UserError) throw error
      if (attempt >= attemptsMax) {
        const cause = error instanceof Error && error.cause !== undefined ? error.cause : error
        throw new UserError(`The hub at ${this.endpoint} cannot be reached: ${messageOf(cause)}.`, {
          failure: 'unreachable',
          fix: 'Check the network, or HF_ENDPOINT where a mirror is used.',
          cause: error,
        })
      }
      await this.wait(attempt)
      return undefined
    }
  }

  /** By hand: the token is for the hub, not for the storage that it sends us to. */
  async #follow(address: string, { method = 'GET', headers, stream, stay }: HubRequest): Promise<Response> {
    const home = new URL(this.endpoint).origin
    let url = new URL(address)
    for (let redirects = 0; redirects <= redirectsMax; redirects++) {
      const isHome = url.origin === home
      const response = await fetch(url, {
        method,
        redirect: 'manual',
        headers: {
          ...headers,
          // What is compressed on the way has another length than was announced.
          'accept-encoding': 'identity',
          ...(isHome && this.#token !== undefined && { authorization: `Bearer ${this.#token}` }),
        },
        ...(stream !== true && { signal: AbortSignal.timeout(answerMs) }),
      })
      const location = response.headers.get('location')
      if (response.status < 300 || response.status >= 400 || location === null) return response
      const next = new URL(location, url)
      if (!/^https?:$/.test(next.protocol)) break
      // A renamed repository leads to another path of the hub; a large file to another host.
      if (stay === true && next.origin !== home) return response
      await response.body?.cancel()
      url = next
    }
    throw new UserError(`The hub at ${this.endpoint} redirects without end.`, { failure: 'unreachable' })
  }
}

function waitMs(response: Response, attempt: number): number {
  const seconds = Number(response.headers.get('retry-after') ?? Number.NaN)
  return seconds >= 0 && seconds <= 60 ? seconds * 1000 : firstWaitMs * 2 ** (attempt - 1)
}

function refusalOf({ status, headers }: Response, endpoint: string, path: string): UserError {
  const code = headers.get('x-error-code')
  const said = code === null ? '' : ` (${code})`
  const what = `${endpoint}${path.split('?')[0]}`
  if (status === 401 || status === 403)
    return new UserError(`The hub does not let you read ${what}${said}.`, {
      failure: 'auth',
      fix: 'Accept its terms on the hub if it has some, and give a token that may read it (a credential of kind huggingface, or HF_TOKEN).',
    })
  return new UserError(`The hub answered ${what} with status ${status}${said}.`, {
    failure: 'unreachable',
    fix: 'Try again later.',
  })
}
