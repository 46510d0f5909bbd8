import { type S3Client, S3Refusal } from './s3-client.ts'
import { decodeKey, decodeXml, elements, encodeXml, textOf } from './s3-xml.ts'
import { goneUpload, missingParts, type ObjectInfo, partCount, type Upload } from './store.ts'

interface Part {
  number: number
  tag: string
}

/** Pages of one listing: more than all the parts or uploads that S3 lists could fill. */
const pagesMax = 10_000

/** Multipart uploads of a bucket (AWS API Reference: CreateMultipartUpload and its fellows). */
export class S3Uploads {
  readonly #client: S3Client

  constructor(client: S3Client) {
    this.#client = client
  }

  async begin(key: string, bytes: number, partBytes: number): Promise<Upload> {
    const answer = await this.#client.text({ method: 'POST', key, query: { uploads: '' } })
    const id = textOf(answer, 'UploadId')
    if (id === undefined) throw new S3Refusal(502, 'NoUploadId', 'its answer names no upload')
    return { key, id, bytes, partBytes }
  }

  async putPart({ key, id }: Upload, number: number, body: Uint8Array, sha256: string): Promise<void> {
    const query = { partNumber: String(number), uploadId: id }
    await this.#client.send({ method: 'PUT', key, query, body, sha256 })
  }

  async parts(upload: Upload): Promise<number[] | undefined> {
    return (await this.#list(upload))?.map(({ number }) => number)
  }

  /** `isThere`: whether the object is, which an earlier attempt may have made. */
  async complete(upload: Upload, isThere: () => Promise<boolean>): Promise<void> {
    const kept = await this.#list(upload)
    if (kept !== undefined && kept.length < partCount(upload)) {
      throw missingParts(
        upload,
        kept.map(({ number }) => number),
      )
    }
    if (kept !== undefined && (await this.#join(upload, kept))) return
    if (!(await isThere())) throw goneUpload(upload)
  }

  /** False when the upload is gone. */
  async #join({ key, id }: Upload, parts: readonly Part[]): Promise<boolean> {
    const list = parts.map(
      ({ number, tag }) => `<Part><PartNumber>${number}</PartNumber><ETag>${encodeXml(tag)}</ETag></Part>`,
    )
    const body = `<CompleteMultipartUpload>${list.join('')}</CompleteMultipartUpload>`
    const answer = await unlessGone(this.#client.text({ method: 'POST', key, query: { uploadId: id }, body }))
    return answer !== undefined
  }

  async abort({ key, id }: Upload): Promise<void> {
    await unlessGone(this.#client.send({ method: 'DELETE', key, query: { uploadId: id } }))
  }

  async abortOlder(unixMs: number): Promise<number> {
    const { prefix } = this.#client.place
    let count = 0
    let marker: Record<string, string> = {}
    for (let page = 0; page < pagesMax; page++) {
      const query = { uploads: '', 'encoding-type': 'url', prefix: this.#client.full(''), ...marker }
      const xml = await this.#client.text({ method: 'GET', query })
      for (const entry of elements(xml, 'Upload')) {
        if (Date.parse(textOf(entry, 'Initiated') ?? '') >= unixMs) continue
        const key = decodeKey(elements(entry, 'Key')[0] ?? '')
        const id = textOf(entry, 'UploadId') ?? ''
        await this.abort({
          key: prefix === '' ? key : key.slice(prefix.length + 1),
          id,
          bytes: 0,
          partBytes: 0,
        })
        count++
      }
      if (textOf(xml, 'IsTruncated') !== 'true') break
      const [key = ''] = elements(xml, 'NextKeyMarker')
      marker = { 'key-marker': decodeKey(key), 'upload-id-marker': textOf(xml, 'NextUploadIdMarker') ?? '' }
    }
    return count
  }

  /** Copies an object that is too large for one copy. `source` as x-amz-copy-source names it. */
  async copy(to: string, source: string, info: ObjectInfo, partBytes: number): Promise<void> {
    const upload = await this.begin(to, info.bytes, partBytes)
    const parts: Part[] = []
    for (let number = 1; number <= partCount(upload); number++) {
      const start = (number - 1) * partBytes
      const end = Math.min(info.bytes, start + partBytes) - 1
      const headers = {
        'x-amz-copy-source': source,
        'x-amz-copy-source-range': `bytes=${start}-${end}`,
        'x-amz-copy-source-if-match': `"${info.tag}"`,
      }
      const query = { partNumber: String(number), uploadId: upload.id }
      const answer = await this.#client.text({ method: 'PUT', key: to, query, headers })
      parts.push({ number, tag: textOf(answer, 'ETag') ?? '' })
    }
    await this.#join(upload, parts)
  }

  async #list({ key, id }: Upload): Promise<Part[] | undefined> {
    const parts: Part[] = []
    let marker = '0'
    for (let page = 0; page < pagesMax; page++) {
      const query = { uploadId: id, 'part-number-marker': marker }
      const xml = await unlessGone(this.#client.text({ method: 'GET', key, query }))
      if (xml === undefined) return undefined
      for (const entry of elements(xml, 'Part')) {
        parts.push({
          number: Number(textOf(entry, 'PartNumber')),
          tag: decodeXml(elements(entry, 'ETag')[0] ?? ''),
        })
      }
      if (textOf(xml, 'IsTruncated') !== 'true') break
      marker = textOf(xml, 'NextPartNumberMarker') ?? ''
    }
    return parts
  }
}

async function unlessGone<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work
  } catch (error) {
    // Swift says NoSuchKey of an upload that was completed.
    if (error instanceof S3Refusal && ['NoSuchUpload', 'NoSuchKey'].includes(error.code)) return undefined
    throw error
  }
}
