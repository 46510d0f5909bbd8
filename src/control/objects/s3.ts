import { UserError } from '../../base/errors.ts'
import { sha256Of } from './hash.ts'
import { readResumed } from './resumed.ts'
import { encodePath, type S3Client, S3Refusal } from './s3-client.ts'
import { S3Uploads } from './s3-uploads.ts'
import { decodeKey, elements, textOf } from './s3-xml.ts'
import {
  type ByteRange,
  changedWhileRead,
  checkKey,
  checkPart,
  checkPlan,
  cutRange,
  type Listing,
  type ListOptions,
  listMax,
  type ObjectBody,
  type ObjectInfo,
  type ObjectStore,
  type Upload,
  wrongHash,
} from './store.ts'

/** S3 copies no more at once. */
const copyBytesMax = 5 * 1024 ** 3
/** And signs addresses for no longer (AWS, "Sharing objects with presigned URLs"). */
const presignSecondsMax = 7 * 86_400

/** Objects of a bucket: Amazon S3, or what speaks its language (Swift, MinIO, Ceph, R2, Google Cloud Storage). */
export class S3Store implements ObjectStore {
  readonly url: string
  readonly #client: S3Client
  readonly #uploads: S3Uploads
  readonly #copyBytesMax: number

  constructor(client: S3Client, limits: { copyBytesMax?: number } = {}) {
    this.#client = client
    this.#uploads = new S3Uploads(client)
    this.#copyBytesMax = limits.copyBytesMax ?? copyBytesMax
    const { bucket, prefix } = client.place
    this.url = `s3://${bucket}${prefix === '' ? '' : `/${prefix}`}`
  }

  put(key: string, bytes: Uint8Array, sha256: string): Promise<void> {
    checkKey(key)
    return this.#explained(key, async () => {
      if ((await sha256Of(bytes)) !== sha256) throw wrongHash(key)
      await this.#client.send({ method: 'PUT', key, body: bytes, sha256 })
    })
  }

  begin(key: string, bytes: number, partBytes: number): Promise<Upload> {
    checkKey(key)
    checkPlan(bytes, partBytes)
    return this.#explained(key, () => this.#uploads.begin(key, bytes, partBytes))
  }

  putPart(upload: Upload, number: number, bytes: Uint8Array, sha256: string): Promise<void> {
    checkPart(upload, number, bytes.length)
    return this.#explained(upload.key, async () => {
      const what = `Part ${number} of ${upload.key}`
      if ((await sha256Of(bytes)) !== sha256) throw wrongHash(what)
      await this.#uploads.putPart(upload, number, bytes, sha256)
    })
  }

  parts(upload: Upload): Promise<number[] | undefined> {
    return this.#explained(upload.key, () => this.#uploads.parts(upload))
  }

  complete(upload: Upload): Promise<void> {
    return this.#explained(upload.key, () =>
      this.#uploads.complete(upload, async () => (await this.head(upload.key)) !== undefined),
    )
  }

  abort(upload: Upload): Promise<void> {
    return this.#explained(upload.key, () => this.#uploads.abort(upload))
  }

  abortOlder(unixMs: number): Promise<number> {
    return this.#explained('', () => this.#uploads.abortOlder(unixMs))
  }

  head(key: string): Promise<ObjectInfo | undefined> {
    checkKey(key)
    return this.#explained(key, async () => {
      const response = await unlessMissing(this.#client.send({ method: 'HEAD', key }))
      return response && infoOf(key, response.headers)
    })
  }

  async get(key: string, range?: ByteRange): Promise<ObjectBody | undefined> {
    const info = await this.head(key)
    return info && { info, bytes: this.#read(info, cutRange(range, info.bytes)) }
  }

  #read(info: ObjectInfo, { start, end }: { start: number; end: number }): AsyncGenerator<Uint8Array> {
    return readResumed({
      ...{ what: `${this.url}/${info.key}`, start, end },
      open: (at) => this.#explained(info.key, () => this.#open(info, at, end)),
      attemptsMax: this.#client.attemptsMax,
      wait: (fruitless) => this.#client.wait(fruitless),
    })
  }

  async #open(info: ObjectInfo, start: number, end: number): Promise<AsyncIterable<Uint8Array>> {
    const headers = { Range: `bytes=${start}-${end - 1}`, 'If-Match': `"${info.tag}"` }
    try {
      const response = await this.#client.send({ method: 'GET', key: info.key, headers, stream: true })
      return response.body as unknown as AsyncIterable<Uint8Array>
    } catch (error) {
      if (error instanceof S3Refusal && [404, 412, 416].includes(error.status))
        throw changedWhileRead(info.key)
      throw error
    }
  }

  list({ prefix = '', after, limit = listMax }: ListOptions = {}): Promise<Listing> {
    return this.#explained(prefix, async () => {
      const xml = await this.#client.text({
        method: 'GET',
        query: {
          'list-type': '2',
          'encoding-type': 'url',
          'max-keys': String(Math.min(limit, listMax)),
          prefix: this.#client.full(prefix),
          ...(after === undefined ? {} : { 'start-after': this.#client.full(after) }),
        },
      })
      const objects = elements(xml, 'Contents').map((entry) => this.#listed(entry))
      return { objects, more: textOf(xml, 'IsTruncated') === 'true' }
    })
  }

  #listed(entry: string): ObjectInfo {
    const key = decodeKey(elements(entry, 'Key')[0] ?? '')
    const { prefix } = this.#client.place
    return {
      key: prefix === '' ? key : key.slice(prefix.length + 1),
      bytes: Number(textOf(entry, 'Size')),
      tag: bare(textOf(entry, 'ETag') ?? ''),
      modifiedUnixMs: Date.parse(textOf(entry, 'LastModified') ?? ''),
    }
  }

  delete(key: string): Promise<void> {
    checkKey(key)
    return this.#explained(key, async () => {
      await unlessMissing(this.#client.send({ method: 'DELETE', key }))
    })
  }

  async copy(from: string, to: string): Promise<boolean> {
    checkKey(to)
    const info = await this.head(from)
    if (info === undefined) return false
    const source = encodePath(`/${this.#client.place.bucket}/${this.#client.full(from)}`)
    return this.#explained(from, async () => {
      if (info.bytes > this.#copyBytesMax) {
        await this.#uploads.copy(to, source, info, this.#copyBytesMax)
        return true
      }
      const headers = { 'x-amz-copy-source': source }
      const answer = await unlessMissing(this.#client.text({ method: 'PUT', key: to, headers }))
      return answer !== undefined
    })
  }

  presign(key: string, seconds: number): Promise<string> {
    checkKey(key)
    return this.#client.presign(key, Math.min(Math.max(1, Math.floor(seconds)), presignSecondsMax))
  }

  async #explained<T>(key: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      throw error instanceof S3Refusal ? userErrorOf(error, `${this.url}/${key}`) : error
    }
  }
}

function infoOf(key: string, headers: Headers): ObjectInfo {
  return {
    key,
    bytes: Number(headers.get('content-length')),
    tag: bare(headers.get('etag') ?? ''),
    modifiedUnixMs: Date.parse(headers.get('last-modified') ?? ''),
  }
}

function bare(tag: string): string {
  return tag.replaceAll('"', '')
}

async function unlessMissing<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work
  } catch (error) {
    if (error instanceof S3Refusal && error.status === 404 && error.code !== 'NoSuchBucket') return undefined
    throw error
  }
}

const damaged = new Set(['BadDigest', 'XAmzContentSHA256Mismatch', 'InvalidDigest'])

function userErrorOf(refusal: S3Refusal, what: string): UserError {
  const { status, code } = refusal
  if (damaged.has(code)) return wrongHash(what)
  const message = `${what}: the object store refused (${code}: ${refusal.message}).`
  if (status === 401 || status === 403) {
    return new UserError(message, {
      failure: 'auth',
      fix: 'Check the credential, and that it may read, write and list there.',
      cause: refusal,
    })
  }
  if (status === 404)
    return new UserError(message, { failure: 'not_found', fix: 'Check the bucket.', cause: refusal })
  if (status === 301)
    return new UserError(message, { failure: 'usage', fix: 'Name that region.', cause: refusal })
  return new UserError(message, { fix: 'Try again later; its own log says more.', cause: refusal })
}
