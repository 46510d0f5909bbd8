import { setTimeout as delay } from 'node:timers/promises'
import { AwsClient } from 'aws4fetch'
import { assert } from '../../base/assert.ts'
import { messageOf, UserError } from '../../base/errors.ts'
import { Random } from '../../base/random.ts'
import { textOf } from './s3-xml.ts'

export interface S3Place {
  bucket: string
  /** Keys lie below it; empty for the whole bucket, else without a slash at its ends. */
  prefix: string
  region: string
  /** Of another service than Amazon's, such as `http://127.0.0.1:9000`; buckets are then part of the path. */
  endpoint?: string | undefined
}

export interface S3Credential {
  accessKeyId: string
  secretAccessKey: string
  sessionToken?: string | undefined
}

/** Requests go out with a token instead of signatures, as Google's XML API takes them. */
export interface BearerCredential {
  token(): Promise<string>
}

export interface RetryLimits {
  attemptsMax: number
  /** Wait before the second attempt; each further one waits up to twice as long. */
  firstMs: number
  longestMs: number
  /** Of one attempt, until its answer begins (and ends, where it is read whole). */
  answerMs: number
  /** Takes so many milliseconds; tests count instead of waiting. */
  sleep: (ms: number) => Promise<unknown>
}

export const retryLimits: RetryLimits = {
  attemptsMax: 6,
  firstMs: 100,
  longestMs: 10_000,
  answerMs: 120_000,
  sleep: delay,
}

export interface S3Request {
  method: 'GET' | 'HEAD' | 'PUT' | 'POST' | 'DELETE'
  /** Undefined asks the bucket itself. */
  key?: string
  query?: Record<string, string>
  headers?: Record<string, string>
  body?: Uint8Array | string
  /** SHA-256 of the body in hex: signed, and checked by the server. */
  sha256?: string
  /** The body of the answer comes as a stream, which has no time limit as a whole. */
  stream?: boolean
}

/** What S3 answered when it did not do what was asked. */
export class S3Refusal extends Error {
  override name = 'S3Refusal'
  readonly status: number
  readonly code: string

  constructor(status: number, code: string, message: string) {
    super(message)
    this.status = status
    this.code = code
  }
}

type SignedRequest = Parameters<AwsClient['sign']>[1] & object

const again = new Set([408, 429, 500, 502, 503, 504])
const errorDocument = /^\s*(<\?xml[^>]*>)?\s*<Error[ >]/

/** `fetch` wraps what happened on the way in a TypeError with a cause; a time limit has an error of its own. */
function isOfNetwork(error: unknown): boolean {
  return error instanceof Error && (error.name === 'TimeoutError' || error.cause !== undefined)
}

/** Signed requests to one bucket (AWS Signature Version 4), tried again with growing waits. */
export class S3Client {
  readonly place: S3Place
  readonly #sign: (url: string, init: SignedRequest) => Promise<Request>
  readonly #aws: AwsClient | undefined
  readonly #retry: RetryLimits
  readonly #jitter: Random

  constructor(
    place: S3Place,
    credential: S3Credential | BearerCredential,
    seed: number,
    retry: Partial<RetryLimits> = {},
  ) {
    this.place = place
    this.#retry = { ...retryLimits, ...retry }
    this.#jitter = new Random(seed)
    if ('token' in credential) {
      this.#sign = async (url, { aws: _, ...init }) => {
        const request = new Request(url, init)
        request.headers.set('authorization', `Bearer ${await credential.token()}`)
        return request
      }
      return
    }
    const { accessKeyId, secretAccessKey, sessionToken } = credential
    const aws = new AwsClient({
      accessKeyId,
      secretAccessKey,
      ...(sessionToken === undefined ? {} : { sessionToken }),
      service: 's3',
      region: place.region,
      retries: 0,
    })
    this.#aws = aws
    this.#sign = (url, init) => aws.sign(url, init)
  }

  /** The answer when it is a success; throws S3Refusal when it is not, a UserError when none comes. */
  send(request: S3Request): Promise<Response> {
    return this.#tried(() => this.#attempt(request))
  }

  /** The text of the answer, read whole. */
  text(request: S3Request): Promise<string> {
    return this.#tried(async () => {
      const text = await (await this.#attempt(request)).text()
      // Long operations begin their answer with 200 and may still end in an error.
      if (errorDocument.test(text)) throw refusalOf(500, text, null)
      return text
    })
  }

  get attemptsMax(): number {
    return this.#retry.attemptsMax
  }

  /** Waits before another attempt: a random part (Brooker 2015, "full jitter") of a time that doubles. */
  async wait(attempt: number): Promise<void> {
    const most = Math.min(this.#retry.longestMs, this.#retry.firstMs * 2 ** (attempt - 1))
    await this.#retry.sleep(most * this.#jitter.uniform())
  }

  /** An address with a signature in its query that is good for so many seconds. */
  async presign(key: string, seconds: number): Promise<string> {
    const url = this.#address({ key, query: { 'X-Amz-Expires': String(seconds) } })
    assert(this.#aws !== undefined, 'who gives addresses out has keys to sign them with')
    const signed = await this.#aws.sign(url, { method: 'GET', aws: { signQuery: true } })
    return signed.url
  }

  /** The key in the bucket that `key` stands for. */
  full(key: string): string {
    return this.place.prefix === '' ? key : `${this.place.prefix}/${key}`
  }

  async #tried<T>(work: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await work()
      } catch (error) {
        if (error instanceof UserError) throw error
        const refused = error instanceof S3Refusal
        if (refused ? !again.has(error.status) : !isOfNetwork(error)) throw error
        if (attempt >= this.#retry.attemptsMax) throw refused ? error : this.#unreachable(error)
        await this.wait(attempt)
      }
    }
  }

  async #attempt({ method, headers, body, sha256, stream, ...where }: S3Request): Promise<Response> {
    const signed = await this.#sign(this.#address(where), {
      method,
      headers: { ...headers, ...(sha256 === undefined ? {} : { 'X-Amz-Content-Sha256': sha256 }) },
      ...(body === undefined ? {} : { body: body as Uint8Array<ArrayBuffer> }),
      // A redirect to another region would arrive there with a signature for this one.
      redirect: 'manual',
      ...(stream ? {} : { signal: AbortSignal.timeout(this.#retry.answerMs) }),
    })
    const response = await fetch(signed)
    if (response.ok) return response
    throw refusalOf(response.status, await response.text(), response.headers.get('x-amz-bucket-region'))
  }

  #address({ key, query = {} }: Pick<S3Request, 'key' | 'query'>): string {
    const { bucket, endpoint, region } = this.place
    // A certificate for *.s3 does not cover names with further dots.
    const inPath = endpoint !== undefined || bucket.includes('.')
    const host =
      endpoint?.replace(/\/+$/, '') ?? `https://${inPath ? '' : `${bucket}.`}s3.${region}.amazonaws.com`
    const path = key === undefined ? '' : encodePath(this.full(key))
    const url = new URL(`${host}/${inPath ? `${encodePath(bucket)}/` : ''}${path}`)
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value)
    return url.href
  }

  #unreachable(error: unknown): UserError {
    const cause = error instanceof Error && error.cause !== undefined ? error.cause : error
    return new UserError(`s3://${this.place.bucket} cannot be reached: ${messageOf(cause)}.`, {
      failure: 'unreachable',
      fix: 'Check the endpoint, the network and the state of the object store.',
      cause: error,
    })
  }
}

/** Each name of a key encoded as the signature wants it (RFC 3986). */
export function encodePath(key: string): string {
  return key
    .split('/')
    .map((name) =>
      encodeURIComponent(name).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`),
    )
    .join('/')
}

function refusalOf(status: number, body: string, region: string | null): S3Refusal {
  const code = textOf(body, 'Code') ?? String(status)
  const detail = region !== null && status === 301 ? `the bucket is in ${region}` : textOf(body, 'Message')
  return new S3Refusal(status, code, detail ?? `status ${status}`)
}
