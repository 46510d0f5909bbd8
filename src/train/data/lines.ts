/** Lines of a text file, gzipped or not, as they stream in. */
import { isUtf8 } from 'node:buffer'
import { closeSync, createReadStream, openSync, readSync } from 'node:fs'
import { pipeline, type Readable } from 'node:stream'
import { createGunzip } from 'node:zlib'
import { messageOf, UserError } from '../../base/errors.ts'
import { placeOf } from './sample.ts'

export interface Line {
  text: string
  /** Counted from 1. */
  number: number
}

/** One line, and so one record of JSONL, holds no more than this. */
const lineBytesMax = 64 << 20

const chunkBytes = 1 << 20

/** All lines without their ends, in lists as they arrive. Throws UserErrors that name file and line. */
export function readLines(path: string): AsyncGenerator<Line[]> {
  return linesOf(path, chunksOf(path))
}

/** Lines of bytes that come from anywhere; `path` is what errors call them. */
export async function* linesOf(path: string, chunks: AsyncIterable<Buffer>): AsyncGenerator<Line[]> {
  const held: Buffer[] = []
  let heldBytes = 0
  let number = 1
  for await (const chunk of chunks) {
    const lines: Line[] = []
    let done = 0
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, done)) {
      const bytes = chunk.subarray(done, end)
      lines.push({ text: textOf(held.length === 0 ? bytes : joined(held, bytes), path, number), number })
      heldBytes = 0
      number++
      done = end + 1
    }
    if (done < chunk.length) held.push(chunk.subarray(done))
    heldBytes += chunk.length - done
    if (heldBytes > lineBytesMax) throw tooLong(path, number)
    if (lines.length > 0) yield lines
  }
  if (heldBytes > 0) yield [{ text: textOf(joined(held, Buffer.alloc(0)), path, number), number }]
}

function joined(held: Buffer[], last: Buffer): Buffer {
  const whole = Buffer.concat([...held, last])
  held.length = 0
  return whole
}

/** Bytes of a file as they stream in, unzipped where it is gzipped. */
export async function* chunksOf(path: string): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of openStream(path)) yield chunk as Buffer
  } catch (error) {
    if (error instanceof UserError) throw error
    throw new UserError(`${path} cannot be read: ${messageOf(error)}`, {
      fix: isGzip(path) ? 'The gzip file is cut off or damaged: fetch it again.' : 'Check the file.',
      cause: error,
    })
  }
}

function openStream(path: string): Readable {
  const file = createReadStream(path, { highWaterMark: chunkBytes })
  if (!isGzip(path)) return file
  const unzipped = createGunzip({ chunkSize: chunkBytes })
  // The callback's error reaches the reader too, as the error of the stream that it reads.
  return pipeline(file, unzipped, () => undefined)
}

/** By its first two bytes (RFC 1952), whatever its name. */
function isGzip(path: string): boolean {
  const file = openSync(path, 'r')
  try {
    const magic = new Uint8Array(2)
    return readSync(file, magic) === 2 && magic[0] === 0x1f && magic[1] === 0x8b
  } finally {
    closeSync(file)
  }
}

const byteOrderMark = '\ufeff'

function textOf(bytes: Buffer, path: string, number: number): string {
  if (!isUtf8(bytes)) throw bytes.includes(0) ? notText(path) : notUtf8(path, number)
  const text = bytes.toString('utf8')
  const from = number === 1 && text.startsWith(byteOrderMark) ? 1 : 0
  return text.slice(from, text.endsWith('\r') ? -1 : undefined)
}

function notText(path: string): UserError {
  return new UserError(`${path} is a binary file, or text in UTF-16.`, {
    fix: 'Write its data as JSONL or CSV in UTF-8; Parquet, Arrow and workbooks are not read.',
  })
}

function notUtf8(path: string, number: number): UserError {
  return new UserError(`${placeOf({ file: path, line: number })}: the line is not UTF-8 text.`, {
    fix: `Convert the file, for example from Korean Windows: iconv -f CP949 -t UTF-8 FILE > NEW. Spreadsheets save as "CSV UTF-8".`,
  })
}

function tooLong(path: string, number: number): UserError {
  return new UserError(
    `${placeOf({ file: path, line: number })}: the line is longer than ${lineBytesMax >> 20} MiB.`,
    { fix: 'Write one record a line (JSONL).' },
  )
}
