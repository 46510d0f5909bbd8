/** Files of versions and checkpoints as answers of the service. */
import { Readable } from 'node:stream'
import { UserError } from '../../base/errors.ts'
import { type ByteRange, cutRange, type ObjectBody, type ObjectReader } from '../objects/store.ts'
import type { FileRow } from './rows.ts'

/** Where a file lies. */
export interface FilePlace {
  readonly objects: ObjectReader
  readonly key: string
}

/** The bytes of a file; refused when they are gone, or are others than when the file was linked. */
export async function openFile(
  { objects, key }: FilePlace,
  file: FileRow,
  range?: ByteRange,
): Promise<ObjectBody> {
  const body = await objects.get(key, range)
  if (body !== undefined && (file.blob_id !== null || body.info.tag === file.digest)) return body
  throw new UserError(
    `${file.path} ${body === undefined ? 'is gone' : 'has changed'} since it was linked at ${objects.url}.`,
    {
      failure: 'conflict',
      fix: 'Look at the place again: `ropeway dataset refresh NAME` makes a new version.',
    },
  )
}

/** `bytes=a-b`, `bytes=a-`, `bytes=-n` (RFC 9110, section 14); anything else asks for the whole. */
export function rangeOf(header: string | undefined, bytes: number): ByteRange | undefined {
  const [, first, last] = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header ?? '') ?? []
  if (first === undefined || last === undefined || (first === '' && last === '')) return undefined
  if (first === '') return { start: Math.max(0, bytes - Number(last)) }
  const start = Number(first)
  if (start >= bytes || (last !== '' && Number(last) < start)) return undefined
  return last === '' ? { start } : { start, end: Number(last) + 1 }
}

/** The answer to a request for a file, with the range that its header names. */
export async function contentAnswer(place: FilePlace, file: FileRow, header: string | undefined) {
  const range = rangeOf(header, file.bytes)
  const body = await openFile(place, file, range)
  const { start, end } = cutRange(range, file.bytes)
  return {
    stream: Readable.from(body.bytes, { objectMode: false }),
    status: range === undefined ? (200 as const) : (206 as const),
    headers: {
      'content-type': 'application/octet-stream',
      'content-length': String(end - start),
      'accept-ranges': 'bytes',
      // Content never changes under its digest, so a download may be taken up again.
      etag: `"${file.digest}"`,
      ...(range !== undefined && { 'content-range': `bytes ${start}-${end - 1}/${file.bytes}` }),
    },
  }
}
