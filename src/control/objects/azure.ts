/** A container of Azure Blob Storage as a place that is read ("Blob service REST API": List Blobs, Get Blob). */
import { createHmac } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { Clock } from '../../base/clock.ts'
import { messageOf, UserError } from '../../base/errors.ts'
import { readResumed } from './resumed.ts'
import { encodePath } from './s3-client.ts'
import { decodeXml, elements, textOf } from './s3-xml.ts'
import {
  type ByteRange,
  changedWhileRead,
  checkKey,
  cutRange,
  type Listing,
  type ListOptions,
  listMax,
  type ObjectBody,
  type ObjectInfo,
  type ObjectReader,
} from './store.ts'

export interface AzurePlace {
  readonly account: string
  readonly container: string
  /** Keys lie below it; empty for the whole container. */
  readonly prefix: string
  /** Of another service than Microsoft's public one, with the account in it. */
  readonly endpoint?: string | undefined
}

/** The account's key in base64, or a shared access signature: the query of an address. */
export type AzureCredential = { readonly key: string } | { readonly sasToken: string }

const version = '2021-12-02'
const attemptsMax = 5
const firstWaitMs = 200
const answerMs = 60_000
const again = new Set([408, 429, 500, 502, 503, 504])
/** Pages that are passed over to find a place in the middle of a listing. */
const pagesMax = 10_000

interface Ask {
  readonly method: 'GET' | 'HEAD'
  readonly key?: string
  readonly query?: Readonly<Record<string, string>>
  readonly headers?: Readonly<Record<string, string>>
  readonly stream?: boolean
}

export class AzureReader implements ObjectReader {
  readonly url: string
  readonly #place: AzurePlace
  readonly #credential: AzureCredential
  readonly #clock: Clock
  readonly #base: string
  /** The service goes on by markers of its own: which one stands behind which key. */
  readonly #markers = new Map<string, string>()

  constructor(place: AzurePlace, credential: AzureCredential, clock: Clock) {
    this.#place = place
    this.#credential = credential
    this.#clock = clock
    const { account, container, prefix, endpoint } = place
    this.#base = endpoint?.replace(/\/+$/, '') ?? `https://${account}.blob.core.windows.net`
    this.url = `az://${container}${prefix === '' ? '' : `/${prefix}`}`
  }

  async list({ prefix = '', after, limit = listMax }: ListOptions = {}): Promise<Listing> {
    const size = Math.min(limit, listMax)
    let marker = after === undefined ? undefined : this.#markers.get(`${prefix}\0${after}`)
    // Without a marker all that stands before is passed over.
    const behind = marker === undefined ? after : undefined
    const found: ObjectInfo[] = []
    for (let page = 0; page < pagesMax; page++) {
      const { objects, next } = await this.#page(
        prefix,
        marker,
        behind === undefined ? size - found.length : listMax,
      )
      const wanted = behind === undefined ? objects : objects.filter(({ key }) => compare(key, behind) > 0)
      found.push(...wanted.slice(0, size - found.length))
      const isCut = wanted.length > 0 && found.at(-1) !== wanted.at(-1)
      if (found.length === size || next === undefined) {
        const last = found.at(-1)
        if (next !== undefined && !isCut && last !== undefined)
          this.#markers.set(`${prefix}\0${last.key}`, next)
        return { objects: found, more: isCut || next !== undefined }
      }
      marker = next
    }
    throw new UserError(`${this.url} has too many blobs to list.`, { failure: 'usage' })
  }

  async #page(prefix: string, marker: string | undefined, limit: number) {
    const response = await this.#ask({
      method: 'GET',
      query: {
        ...{ restype: 'container', comp: 'list', maxresults: String(limit), prefix: this.#full(prefix) },
        ...(marker !== undefined && { marker }),
      },
    })
    if (response === undefined)
      throw new UserError(`There is no container ${this.#place.container} in ${this.#place.account}.`, {
        failure: 'not_found',
        fix: 'Check the address and the account of the credential.',
      })
    const xml = await response.text()
    const next = textOf(xml, 'NextMarker')
    return {
      objects: elements(xml, 'Blob').map((entry) => this.#listed(entry)),
      next: next === undefined || next === '' ? undefined : next,
    }
  }

  #listed(entry: string): ObjectInfo {
    // Names that XML cannot hold come encoded as in an address.
    const isEncoded = /<Name\s[^>]*Encoded="true"/i.test(entry)
    const name = decodeXml(elements(entry, 'Name')[0] ?? '')
    const { prefix } = this.#place
    const full = isEncoded ? decodeURIComponent(name) : name
    return {
      key: prefix === '' ? full : full.slice(prefix.length + 1),
      bytes: Number(textOf(entry, 'Content-Length')),
      tag: bare(textOf(entry, 'Etag') ?? ''),
      modifiedUnixMs: Date.parse(textOf(entry, 'Last-Modified') ?? ''),
    }
  }

  async head(key: string): Promise<ObjectInfo | undefined> {
    checkKey(key)
    const response = await this.#ask({ method: 'HEAD', key })
    if (response === undefined) return undefined
    const { headers } = response
    return {
      key,
      bytes: Number(headers.get('content-length')),
      tag: bare(headers.get('etag') ?? ''),
      modifiedUnixMs: Date.parse(headers.get('last-modified') ?? ''),
    }
  }

  async get(key: string, range?: ByteRange): Promise<ObjectBody | undefined> {
    const info = await this.head(key)
    if (info === undefined) return undefined
    const { start, end } = cutRange(range, info.bytes)
    const bytes = readResumed({
      ...{ what: `${this.url}/${key}`, start, end, attemptsMax },
      open: (at) => this.#open(info, at, end),
      wait: async (fruitless) => void (await delay(firstWaitMs * 2 ** (fruitless - 1))),
    })
    return { info, bytes }
  }

  async #open({ key, tag }: ObjectInfo, start: number, end: number): Promise<AsyncIterable<Uint8Array>> {
    const headers = { range: `bytes=${start}-${end - 1}`, 'if-match': `"${tag}"` }
    const response = await this.#ask({ method: 'GET', key, headers, stream: true })
    if (response === undefined) throw changedWhileRead(key)
    return response.body as unknown as AsyncIterable<Uint8Array>
  }

  #full(key: string): string {
    const { prefix } = this.#place
    return prefix === '' ? key : `${prefix}/${key}`
  }

  /** Undefined when there is no such thing, or another than was expected. */
  async #ask(ask: Ask): Promise<Response | undefined> {
    for (let attempt = 1; ; attempt++) {
      const response = await this.#sent(ask, attempt)
      if (response?.ok === true) return response
      await response?.body?.cancel()
      if (response !== undefined && [404, 412, 416].includes(response.status)) return undefined
      if (response !== undefined && (!again.has(response.status) || attempt >= attemptsMax))
        throw this.#refusal(response)
      await delay(firstWaitMs * 2 ** (attempt - 1))
    }
  }

  async #sent(
    { method, key, query, headers = {}, stream }: Ask,
    attempt: number,
  ): Promise<Response | undefined> {
    const { container } = this.#place
    const path = key === undefined ? '' : `/${encodePath(this.#full(key))}`
    const url = new URL(`${this.#base}/${encodeURIComponent(container)}${path}`)
    for (const [name, value] of Object.entries(query ?? {})) url.searchParams.set(name, value)
    const signed = this.#signed(method, url, headers)
    try {
      return await fetch(url, {
        ...{ method, headers: signed, redirect: 'manual' },
        ...(stream !== true && { signal: AbortSignal.timeout(answerMs) }),
      })
    } catch (error) {
      if (attempt < attemptsMax) return undefined
      const cause = error instanceof Error && error.cause !== undefined ? error.cause : error
      throw new UserError(`${this.url} cannot be reached: ${messageOf(cause)}.`, {
        failure: 'unreachable',
        fix: 'Check the account of the credential, the endpoint and the network.',
        cause: error,
      })
    }
  }

  /** Headers with what proves who asks; a shared access signature goes into the address instead. */
  #signed(method: string, url: URL, given: Readonly<Record<string, string>>): Record<string, string> {
    const date = new Date(this.#clock.unixMs()).toUTCString()
    const headers = { ...given, 'x-ms-date': date, 'x-ms-version': version }
    if ('sasToken' in this.#credential) {
      for (const [name, value] of new URLSearchParams(this.#credential.sasToken.replace(/^\?/, '')))
        url.searchParams.set(name, value)
      return headers
    }
    const { account } = this.#place
    // "Authorize with Shared Key": lines for headers that a read does not have are empty.
    const text = [
      ...[method, '', '', '', '', '', '', '', given['if-match'] ?? '', '', '', given.range ?? ''],
      ...[`x-ms-date:${date}`, `x-ms-version:${version}`, `/${account}${url.pathname}`],
      ...[...url.searchParams]
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([name, value]) => `${name}:${value}`),
    ].join('\n')
    const key = Buffer.from(this.#credential.key, 'base64')
    const signature = createHmac('sha256', key).update(text, 'utf8').digest('base64')
    return { ...headers, authorization: `SharedKey ${account}:${signature}` }
  }

  #refusal({ status, headers }: Response): UserError {
    const code = headers.get('x-ms-error-code') ?? String(status)
    if (status === 401 || status === 403)
      return new UserError(`${this.url}: the object store refused (${code}).`, {
        failure: 'auth',
        fix: 'Check the credential, and that it may read and list there.',
      })
    return new UserError(`${this.url}: the object store refused (${code}).`, { fix: 'Try again later.' })
  }
}

function bare(tag: string): string {
  return tag.replaceAll('"', '')
}

function compare(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}
