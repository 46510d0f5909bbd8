/**
 * A repository of the Hugging Face hub as a place that is read: `hf://ORG/NAME@REVISION/PATH`, or `hf://datasets/...`.
 *
 * A revision is resolved to its commit once, so what is listed and what is read belong together. What was read whole is
 * checked: by SHA-256 where the hub has one (large files), otherwise by git's own hash of the file.
 */
import { createHash, type Hash } from 'node:crypto'
import { z } from 'zod'
import { UserError } from '../../base/errors.ts'
import { type HubAccess, HubClient } from './hub-client.ts'
import { readResumed } from './resumed.ts'
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

export interface HubPlace {
  readonly kind: 'models' | 'datasets'
  /** `ORG/NAME`. */
  readonly repository: string
  /** A branch, a tag or a commit. */
  readonly revision: string
  /** A file or folder inside; empty for all. */
  readonly path: string
}

const address = /^hf:\/\/(datasets\/)?([\w.-]{1,96}\/[\w.-]{1,96})(?:@([^/]{1,200}))?(?:\/(.*))?$/
const filesMax = 50_000

/** Throws UserError for what is no address of the hub. */
export function hubPlaceOf(text: string): HubPlace {
  const [, datasets, repository, revision, path] = address.exec(text) ?? []
  if (repository === undefined || /(^|\/)\.\.?(\/|$)/.test(repository))
    throw new UserError(`${JSON.stringify(text.slice(0, 200))} names nothing on the hub.`, {
      failure: 'usage',
      fix: 'Write hf://ORG/NAME, hf://ORG/NAME@REVISION, hf://ORG/NAME/FILE.gguf or hf://datasets/ORG/NAME.',
    })
  return {
    kind: datasets === undefined ? 'models' : 'datasets',
    repository,
    // A revision with a slash, refs/pr/1, is written refs%2Fpr%2F1.
    revision: decoded(revision ?? 'main'),
    path: decoded(path ?? '').replace(/\/+$/, ''),
  }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch (error) {
    if (error instanceof URIError) return text
    throw error
  }
}

const treeEntry = z.object({
  type: z.string(),
  path: z.string(),
  oid: z.string(),
  size: z.int().min(0),
  lfs: z.object({ oid: z.string(), size: z.int().min(0) }).optional(),
})
const revisionAnswer = z.object({ sha: z.string().regex(/^[0-9a-f]{7,64}$/) })

/** Of the files of a model those that load it: weights in one form, its settings and its tokenizer. */
const belongsToModel = /(\.json|\.model|\.jinja|\.jinja2|(^|\/)(merges|vocab|added_tokens)\.txt)$/
const split = /-\d{5}-of-\d{5}\.gguf$/

export class HubStore implements ObjectReader {
  readonly #client: HubClient
  readonly #place: HubPlace
  #commit: Promise<string> | undefined
  #files: Promise<ObjectInfo[]> | undefined

  constructor(place: HubPlace, access: HubAccess) {
    this.#place = place
    this.#client = new HubClient(access)
  }

  get url(): string {
    return urlOf(this.#place, this.#place.revision)
  }

  /** The same place at the commit that its revision is now. */
  async pinnedUrl(): Promise<string> {
    return urlOf(this.#place, await this.#resolved())
  }

  /** Keys are paths in the repository. */
  async list({ prefix = '', after, limit = listMax }: ListOptions = {}): Promise<Listing> {
    this.#files ??= this.#listed()
    const files = (await this.#files).filter(
      ({ key }) => key.startsWith(prefix) && (after === undefined || compare(key, after) > 0),
    )
    return { objects: files.slice(0, limit), more: files.length > limit }
  }

  async head(key: string): Promise<ObjectInfo | undefined> {
    checkKey(key)
    const response = await this.#client.ask(await this.#resolve(key), { method: 'HEAD', stay: true })
    if (response === undefined) return undefined
    const { headers } = response
    const tag = (headers.get('x-linked-etag') ?? headers.get('etag') ?? '').replace(/^W\/|"/g, '')
    const bytes = Number(headers.get('x-linked-size') ?? headers.get('content-length') ?? Number.NaN)
    if (tag !== '' && Number.isSafeInteger(bytes)) return { key, bytes, tag, modifiedUnixMs: 0 }
    throw new UserError(`The hub does not say how long ${key} is.`, { failure: 'unreachable' })
  }

  async get(key: string, range?: ByteRange): Promise<ObjectBody | undefined> {
    const info = await this.head(key)
    return info && { info, bytes: this.#read(info, cutRange(range, info.bytes)) }
  }

  async *#read(info: ObjectInfo, { start, end }: { start: number; end: number }): AsyncGenerator<Uint8Array> {
    const check = start === 0 && end === info.bytes ? new ContentCheck(info) : undefined
    const pieces = readResumed({
      ...{ what: `${info.key} of ${this.url}`, start, end },
      open: (at) => this.#open(info, at, end),
      attemptsMax: this.#client.attemptsMax,
      wait: (fruitless) => this.#client.wait(fruitless),
    })
    for await (const piece of pieces) {
      check?.update(piece)
      yield piece
    }
    check?.end()
  }

  async #open(info: ObjectInfo, start: number, end: number): Promise<AsyncIterable<Uint8Array>> {
    const isWhole = start === 0 && end === info.bytes
    const response = await this.#client.ask(await this.#resolve(info.key), {
      stream: true,
      ...(!isWhole && { headers: { range: `bytes=${start}-${end - 1}` } }),
    })
    if (response === undefined) throw changedWhileRead(info.key)
    if (!isWhole && response.status !== 206) {
      await response.body?.cancel()
      throw new UserError(`${this.url} answers no ranges of ${info.key}.`, { failure: 'unreachable' })
    }
    return response.body as unknown as AsyncIterable<Uint8Array>
  }

  async #resolve(key: string): Promise<string> {
    const { kind, repository } = this.#place
    const root = kind === 'datasets' ? `/datasets/${repository}` : `/${repository}`
    return `${root}/resolve/${encodeURIComponent(await this.#resolved())}/${encoded(key)}`
  }

  #resolved(): Promise<string> {
    this.#commit ??= this.#askCommit()
    return this.#commit
  }

  async #askCommit(): Promise<string> {
    const { kind, repository, revision } = this.#place
    if (/^[0-9a-f]{40}$/.test(revision)) return revision
    const answer = await this.#client.ask(
      `/api/${kind}/${repository}/revision/${encodeURIComponent(revision)}`,
    )
    if (answer === undefined) throw this.#missing()
    return revisionAnswer.parse(await answer.json()).sha
  }

  async #listed(): Promise<ObjectInfo[]> {
    const { kind, repository, path } = this.#place
    const all: ObjectInfo[] = []
    let next: string | undefined =
      `/api/${kind}/${repository}/tree/${encodeURIComponent(await this.#resolved())}?recursive=true`
    while (next !== undefined) {
      const answer: Response | undefined = await this.#client.ask(next)
      if (answer === undefined) throw this.#missing()
      for (const { type, path: key, oid, size, lfs } of z.array(treeEntry).parse(await answer.json()))
        if (type === 'file')
          all.push({ key, bytes: lfs?.size ?? size, tag: lfs?.oid ?? oid, modifiedUnixMs: 0 })
      if (all.length > filesMax)
        throw new UserError(`${this.url} has more than ${filesMax} files.`, { failure: 'usage' })
      next = nextPage(answer, this.#client.endpoint)
    }
    const inside = all.filter(({ key }) => path === '' || key === path || key.startsWith(`${path}/`))
    const wanted = kind === 'models' && path === '' ? this.#needed(inside) : inside
    return wanted.filter(({ key }) => !/(^|\/)\.git/.test(key)).sort((a, b) => compare(a.key, b.key))
  }

  /** Repositories hold the same weights in several forms: one is enough. */
  #needed(files: readonly ObjectInfo[]): ObjectInfo[] {
    const named = (pattern: RegExp) => files.filter(({ key }) => pattern.test(key))
    // Weights in folders are other forms (original/, onnx/), or other parts of a pipeline.
    const weights = named(/^[^/]+\.safetensors$/).filter(({ key }) => !key.startsWith('consolidated'))
    if (weights.length > 0)
      return [...weights, ...files.filter(({ key }) => belongsToModel.test(key) && !key.includes('/'))]
    const ggufs = named(/\.gguf$/)
    if (ggufs.length === 1 || (ggufs.length > 0 && ggufs.every(({ key }) => split.test(key)))) return ggufs
    const shown = ggufs.slice(0, 5).map(({ key }) => key)
    throw new UserError(
      ggufs.length === 0
        ? `${this.url} has neither safetensors nor GGUF.`
        : `${this.url} has ${ggufs.length} GGUF files: ${shown.join(', ')}${ggufs.length > 5 ? ' ...' : ''}.`,
      {
        failure: 'usage',
        fix: ggufs.length === 0 ? 'Choose another model.' : `Name one: ${this.url}/${encoded(shown[0]!)}`,
      },
    )
  }

  #missing(): UserError {
    return new UserError(`There is no ${this.url} on the hub at ${this.#client.endpoint}.`, {
      failure: 'not_found',
      fix: 'Check its name and revision; a private one needs a token.',
    })
  }
}

/** Hashes what passes: SHA-256 for a tag of 64 digits, git's hash of a blob for one of 40. */
export class ContentCheck {
  readonly #info: ObjectInfo
  readonly #hash: Hash | undefined

  constructor(info: ObjectInfo) {
    this.#info = info
    if (/^[0-9a-f]{64}$/.test(info.tag)) this.#hash = createHash('sha256')
    else if (/^[0-9a-f]{40}$/.test(info.tag)) this.#hash = createHash('sha1').update(`blob ${info.bytes}\0`)
  }

  update(piece: Uint8Array): void {
    this.#hash?.update(piece)
  }

  end(): void {
    if (this.#hash === undefined || this.#hash.digest('hex') === this.#info.tag) return
    throw new UserError(`${this.#info.key} arrived damaged: it has not the hash that the hub names.`, {
      fix: 'Read it again.',
    })
  }
}

function urlOf({ kind, repository, path }: HubPlace, revision: string): string {
  const root = kind === 'datasets' ? 'hf://datasets/' : 'hf://'
  return `${root}${repository}@${encodeURIComponent(revision)}${path === '' ? '' : `/${encoded(path)}`}`
}

function encoded(path: string): string {
  return path.split('/').map(encodeURIComponent).join('/')
}

/** `Link: <...>; rel="next"` (RFC 8288), of the hub itself. */
function nextPage({ headers }: Response, endpoint: string): string | undefined {
  const link = /<([^>]+)>\s*;\s*rel="next"/.exec(headers.get('link') ?? '')?.[1]
  if (link === undefined) return undefined
  const url = new URL(link, endpoint)
  return `${url.pathname}${url.search}`
}

function compare(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}
