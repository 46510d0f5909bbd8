/**
 * Where large things lie: a folder of this machine or a bucket, behind one interface.
 *
 * Keys are paths such as `projects/prj_1/blobs/blb_2`. Nothing here knows what an object is for; who may see it
 * and when it goes is decided by the rows that name its key. An implementation answers only for this: what it has
 * acknowledged is there after a crash, whole, and its bytes are those whose hash was given.
 */
import { UserError } from '../../base/errors.ts'

export interface ObjectInfo {
  key: string
  bytes: number
  /** Changes when the bytes do; opaque. */
  tag: string
  /** Milliseconds since 1970. */
  modifiedUnixMs: number
}

export interface ObjectBody {
  info: ObjectInfo
  /** Yields the bytes asked for; throws a UserError when the object changes or goes while it is read. */
  bytes: AsyncIterable<Uint8Array>
}

/** Bytes from `start` to before `end` (to the end of the object when absent). */
export interface ByteRange {
  start: number
  end?: number
}

/** An upload that was begun: all of it must be kept to go on after a crash. */
export interface Upload {
  key: string
  /** Given by the store. */
  id: string
  /** Of the whole object, at least 1. */
  bytes: number
  /** Of each part but the last. */
  partBytes: number
}

export interface ListOptions {
  prefix?: string
  /** Only keys behind this one, in the order of their UTF-8 bytes. */
  after?: string
  /** At most {@link listMax}. */
  limit?: number
}

export interface Listing {
  objects: ObjectInfo[]
  /** Whether there are more behind the last one. */
  more: boolean
}

/** A place that is read: all that links need. */
export interface ObjectReader {
  /** Where it is, for messages: `file:///srv/objects`, `s3://bucket/prefix`. Holds no secret. */
  readonly url: string
  head(key: string): Promise<ObjectInfo | undefined>
  /** Undefined when there is no such object. A range beyond the end is cut, and empty when nothing is left. */
  get(key: string, range?: ByteRange): Promise<ObjectBody | undefined>
  list(options?: ListOptions): Promise<Listing>
  /** The file that an object is, for who copies it, where objects are files; it is never written to. */
  pathOf?(key: string): string
  /** Its address for good, where {@link url} may mean something else tomorrow. */
  pinnedUrl?(): Promise<string>
}

export interface ObjectStore extends ObjectReader {
  /** Writes a small object at once, replacing one of the same key. Refused when `sha256` (hex) is not theirs. */
  put(key: string, bytes: Uint8Array, sha256: string): Promise<void>

  /** Begins an upload of at least one byte. Until it is complete the key is as it was. */
  begin(key: string, bytes: number, partBytes: number): Promise<Upload>
  /** Keeps part `number` (from 1) when this resolves; a part may be sent again. Refused when `sha256` is not its. */
  putPart(upload: Upload, number: number, bytes: Uint8Array, sha256: string): Promise<void>
  /** Numbers of the parts that are kept, ascending; undefined when the upload is gone (completed or aborted). */
  parts(upload: Upload): Promise<number[] | undefined>
  /**
   * Makes the object of its parts; refused while parts are missing. May be repeated after a crash, as long as
   * nobody else writes the key: an upload that is gone while its object is there was completed.
   */
  complete(upload: Upload): Promise<void>
  /** Forgets the parts. An upload that is gone already is no failure, nor does it harm a completed object. */
  abort(upload: Upload): Promise<void>
  /** Aborts every upload that was begun before this moment (a crash may leave some that nobody knows); how many. */
  abortOlder(unixMs: number): Promise<number>

  /** Removes an object; one that is not there is no failure. */
  delete(key: string): Promise<void>
  /** Copies inside the store; false when `from` is not there. */
  copy(from: string, to: string): Promise<boolean>
  /** An address that anybody may read the object from for so long, or undefined where there is no such thing. */
  presign(key: string, seconds: number): Promise<string | undefined>
}

/** Keys of one answer of {@link ObjectStore.list}. */
export const listMax = 1000
/** S3's limit, which all keep to. */
export const partsMax = 10_000
/** S3's limit for all parts but the last. */
export const partBytesMin = 5 * 1024 * 1024
/** A part is held in memory while it is sent. */
export const partBytesMax = 64 * 1024 * 1024
const keyBytesMax = 1024
const nameBytesMax = 255
/** Where a folder keeps what is not an object; no key begins with it. */
export const reserved = '.ropeway'

/** Throws unless `key` is one that every store can hold: relative, without `.`, `..`, empty or overlong names. */
export function checkKey(key: string): void {
  const wrong = faultOf(key)
  if (wrong === undefined) return
  throw new UserError(`${JSON.stringify(key).slice(0, 200)} cannot name an object: ${wrong}.`, {
    failure: 'usage',
    fix: 'Take a relative path such as data/train.jsonl.',
  })
}

function faultOf(key: string): string | undefined {
  if (Buffer.byteLength(key) > keyBytesMax) return `it has more than ${keyBytesMax} bytes`
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (/[\u0000-\u001f\u007f\\]/.test(key)) return 'it has a control character or a backslash'
  if (/\p{Surrogate}/u.test(key)) return 'it is not well-formed Unicode'
  const names = key.split('/')
  if (names[0] === reserved) return `${reserved} is kept for the store itself`
  for (const name of names) {
    if (name === '') return 'it has an empty name between slashes'
    if (name === '.' || name === '..') return 'it has a name that is a way, not a place'
    if (Buffer.byteLength(name) > nameBytesMax) return `it has a name of more than ${nameBytesMax} bytes`
  }
  return undefined
}

/** How many parts an upload has. */
export function partCount(upload: { bytes: number; partBytes: number }): number {
  return Math.ceil(upload.bytes / upload.partBytes)
}

/** Bytes that part `number` of an upload must have. */
export function bytesOfPart(upload: { bytes: number; partBytes: number }, number: number): number {
  return Math.min(upload.partBytes, upload.bytes - (number - 1) * upload.partBytes)
}

/** Throws unless a part has the number and the length that its upload expects. */
export function checkPart(upload: Upload, number: number, bytes: number): void {
  const count = partCount(upload)
  if (!Number.isInteger(number) || number < 1 || number > count) {
    throw new UserError(`There is no part ${number}: the upload of ${upload.key} has ${count}, from 1.`, {
      failure: 'usage',
    })
  }
  const expected = bytesOfPart(upload, number)
  if (bytes === expected) return
  throw new UserError(`Part ${number} of ${upload.key} has ${bytes} bytes and must have ${expected}.`, {
    failure: 'usage',
    fix: 'Send it again, whole.',
  })
}

export function checkPlan(bytes: number, partBytes: number): void {
  const right =
    Number.isSafeInteger(bytes) &&
    bytes > 0 &&
    Number.isSafeInteger(partBytes) &&
    partBytes <= partBytesMax &&
    (partBytes >= partBytesMin || bytes <= partBytes) &&
    partCount({ bytes, partBytes }) <= partsMax
  if (right) return
  throw new UserError(`${bytes} bytes cannot be uploaded in parts of ${partBytes}.`, {
    failure: 'usage',
    fix: `Take parts of ${partBytesMin} to ${partBytesMax} bytes, at most ${partsMax} of them.`,
  })
}

export function missingParts(upload: Upload, kept: readonly number[]): UserError {
  const there = new Set(kept)
  const missing = Array.from({ length: partCount(upload) }, (_, index) => index + 1).filter(
    (number) => !there.has(number),
  )
  const shown = missing.slice(0, 5).join(', ')
  return new UserError(
    `The upload of ${upload.key} lacks ${missing.length} of ${partCount(upload)} parts (${shown}${missing.length > 5 ? ', ...' : ''}).`,
    { failure: 'conflict', fix: 'Send them, then complete it.' },
  )
}

export function goneUpload(upload: Upload): UserError {
  return new UserError(`The upload of ${upload.key} was aborted.`, {
    failure: 'conflict',
    fix: 'Begin a new one.',
  })
}

export function wrongHash(what: string): UserError {
  return new UserError(`${what} arrived damaged: its SHA-256 is not the one that was announced.`, {
    failure: 'failed',
    fix: 'Send it again; if that fails too, the file changes while it is read.',
  })
}

export function changedWhileRead(key: string): UserError {
  return new UserError(`${key} was replaced or removed while it was read.`, {
    failure: 'conflict',
    fix: 'Read it again.',
  })
}

/** The part of an object that a range leaves, as [start, end). */
export function cutRange(range: ByteRange | undefined, bytes: number): { start: number; end: number } {
  const start = Math.min(Math.max(range?.start ?? 0, 0), bytes)
  return { start, end: Math.max(start, Math.min(range?.end ?? bytes, bytes)) }
}
