/** The service's client: the same endpoints that the service answers, typed. Runs in a browser too. */
import type { z } from 'zod'
import { messageOf, UserError } from '../../base/errors.ts'
import { jsonOf } from '../../base/json.ts'
import {
  type AnswerOf,
  apiRoot,
  type EndpointDefinition,
  type PathParameters,
  type QueryInput,
} from './endpoint.ts'
import { type ProblemBody, type ProblemCode, problemBody, problemCodes, Refused } from './problem.ts'

/** What fetch takes as bytes. */
export type ByteBody = NonNullable<RequestInit['body']>

type BodyInput<D extends EndpointDefinition> = D['body'] extends 'bytes'
  ? ByteBody
  : D['body'] extends z.ZodType
    ? z.input<D['body']>
    : undefined

/** What an endpoint wants, and nothing that it does not have. */
export type CallInput<D extends EndpointDefinition> = (keyof PathParameters<D['path']> extends never
  ? { params?: undefined }
  : { params: PathParameters<D['path']> }) &
  (D['query'] extends z.ZodObject
    ? Record<string, never> extends z.input<D['query']>
      ? { query?: QueryInput<D> }
      : { query: QueryInput<D> }
    : { query?: undefined }) &
  (BodyInput<D> extends undefined ? { body?: undefined } : { body: BodyInput<D> }) & {
    signal?: AbortSignal | undefined
    headers?: Readonly<Record<string, string>> | undefined
  }

export interface ClientOptions {
  /** Where the service is: `http://127.0.0.1:8600`. */
  readonly url: string
  /** A key or a session's token. */
  readonly token?: string
  readonly fetch?: typeof fetch
  /** Lets so many milliseconds pass before a request is made again. */
  readonly wait?: (ms: number) => Promise<void>
}

/** Before a request is made again whose answer was lost. */
const againAfterMs = [200, 1_000, 3_000] as const

export class Client {
  readonly url: string
  readonly #token: string | undefined
  readonly #fetch: typeof fetch
  readonly #wait: (ms: number) => Promise<void>

  constructor({ url, token, fetch: given, wait }: ClientOptions) {
    this.url = url.replace(/\/+$/, '')
    this.#token = token
    // A browser's fetch asks for its own `this`.
    this.#fetch = given ?? ((...request) => fetch(...request))
    this.#wait = wait ?? ((ms) => new Promise((resolve) => setTimeout(resolve, ms)))
  }

  /** Throws {@link Refused} when the service refuses, and UserError (`unreachable`) when it cannot be asked. */
  async call<D extends EndpointDefinition>(endpoint: D, input: CallInput<D>): Promise<AnswerOf<D>> {
    const response = await this.bytes(endpoint, input)
    if (endpoint.answer === 'nothing') return undefined as AnswerOf<D>
    return (await response.json()) as AnswerOf<D>
  }

  /** The lines of an endpoint that answers with events. Ends when the service ends it; throws {@link Refused} for a last line that is one. */
  async *events<D extends EndpointDefinition & { answer: 'events' }>(
    endpoint: D,
    input: CallInput<D>,
  ): AsyncGenerator<unknown> {
    const response = await this.bytes(endpoint, input)
    let rest = ''
    const decoder = new TextDecoder()
    // Not every browser iterates over a stream.
    const reader = response.body!.getReader()
    try {
      for (let read = await reader.read(); !read.done; read = await reader.read()) {
        const lines = (rest + decoder.decode(read.value, { stream: true })).split('\n')
        rest = lines.pop()!
        for (const line of lines) if (line !== '') yield eventOf(JSON.parse(line))
      }
    } finally {
      await reader.cancel()
    }
  }

  /** All items of a list, page after page. */
  async *items<D extends EndpointDefinition>(endpoint: D, input: CallInput<D>): AsyncGenerator<ItemOf<D>> {
    let cursor: string | undefined
    do {
      const query = { ...input.query, ...(cursor !== undefined && { cursor }) }
      const page = (await this.call(endpoint, { ...input, query } as CallInput<D>)) as {
        items: ItemOf<D>[]
        next?: string | null
      }
      yield* page.items
      cursor = page.next ?? undefined
    } while (cursor !== undefined)
  }

  /** The answer as it comes, once it is known to be no refusal. */
  async bytes<D extends EndpointDefinition>(endpoint: D, input: CallInput<D>): Promise<Response> {
    const { params, query, body, signal, headers } = input as unknown as Loose
    const isJson = body !== undefined && endpoint.body !== 'bytes'
    const init: RequestInit = {
      method: endpoint.method,
      headers: {
        ...(this.#token !== undefined && { authorization: `Bearer ${this.#token}` }),
        ...(body !== undefined && {
          'content-type': isJson ? 'application/json' : 'application/octet-stream',
        }),
        ...(endpoint.once === true && { 'idempotency-key': newKey() }),
        ...headers,
      },
      ...(body !== undefined && { body: isJson ? JSON.stringify(body) : (body as ByteBody) }),
      ...(signal !== undefined && { signal }),
      // A stream as the body goes out while it is made.
      ...(body !== undefined && !isJson && { duplex: 'half' as const }),
    }
    const mayRepeat = endpoint.method === 'GET' || endpoint.once === true
    const response = await this.#ask(
      `${this.url}${apiRoot}${filled(endpoint.path, params)}${queryText(query)}`,
      init,
      mayRepeat ? againAfterMs : [],
    )
    if (response.ok) return response
    throw await refusalOf(response)
  }

  /** What may be asked twice is asked again, after each of these times, when the connection broke before its answer. */
  async #ask(url: string, init: RequestInit, again: readonly number[]): Promise<Response> {
    try {
      return await this.#fetch(url, init)
    } catch (error) {
      if (init.signal?.aborted === true) throw error
      const cause = error instanceof Error && error.cause !== undefined ? error.cause : error
      const [pauseMs, ...later] = again
      if (pauseMs !== undefined && brokeOff(cause)) {
        await this.#wait(pauseMs)
        return await this.#ask(url, init, later)
      }
      throw new UserError(`The service at ${this.url} does not answer: ${messageOf(cause)}`, {
        failure: 'unreachable',
        fix: 'Start it with `ropeway up`, or choose another with `ropeway context use NAME`.',
        cause: error,
      })
    }
  }
}

/** Of a request that may have arrived. Where nobody listens, nobody will in a second. */
function brokeOff(cause: unknown): boolean {
  const { code } = cause as { code?: unknown }
  return (
    typeof code === 'string' && /^(ECONNRESET|EPIPE|ETIMEDOUT|UND_ERR_(SOCKET|HEADERS_TIMEOUT))$/.test(code)
  )
}

/** Unlike any other: 128 random bits. */
function newKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

export type ItemOf<D extends EndpointDefinition> =
  AnswerOf<D> extends { items: (infer Item)[] } ? Item : never

interface Loose {
  params?: Record<string, string>
  query?: Record<string, unknown>
  body?: unknown
  signal?: AbortSignal
  headers?: Record<string, string>
}

function filled(path: string, params: Record<string, string> = {}): string {
  return path.replace(/:([a-z_]+)/g, (_, name: string) => encodeURIComponent(params[name]!))
}

function queryText(query: Record<string, unknown> = {}): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined)
  if (given.length === 0) return ''
  return `?${new URLSearchParams(Object.fromEntries(given.map(([name, value]) => [name, String(value)])))}`
}

const codeOfStatus = new Map<number, ProblemCode>(
  Object.entries(problemCodes).map(([code, { status }]) => [status, code as ProblemCode]),
)

async function refusalOf(response: Response): Promise<Refused> {
  const text = await response.text()
  const parsed = problemBody.safeParse(jsonOf(text))
  if (!parsed.success)
    return new Refused(
      codeOfStatus.get(response.status) ?? 'internal',
      `The service answered with status ${response.status}.`,
    )
  return refusedBy(parsed.data, codeOfStatus.get(response.status))
}

/** `unknown`: what it is, where its code says nothing to this client. */
function refusedBy({ error }: ProblemBody, unknown: ProblemCode = 'internal'): Refused {
  const { code, message, fix, param } = error
  const known = Object.hasOwn(problemCodes, code) ? (code as ProblemCode) : unknown
  return new Refused(known, message, { ...(fix !== null && { fix }), ...(param !== null && { param }) })
}

/** A line of a stream; throws the refusal that it is. */
function eventOf(event: object): object {
  const refusal = 'error' in event ? problemBody.safeParse(event) : undefined
  if (refusal?.success === true) throw refusedBy(refusal.data)
  return event
}
