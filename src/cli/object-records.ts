import { PassThrough, pipeline, Readable } from 'node:stream'
import { createGunzip } from 'node:zlib'
import { messageOf, UserError } from '../base/errors.ts'
import type { ReadRecord } from '../control/datasets/preview.ts'
import { linesOf } from '../train/data/lines.ts'
import { recordsOf } from '../train/data/records.ts'

/** Records of an object as the trainer would read the file: the service itself knows nothing of training. */
export async function* readObject(
  name: string,
  bytes: AsyncIterable<Uint8Array>,
): AsyncGenerator<ReadRecord> {
  for await (const { value, source } of recordsOf(name, linesOf(name, chunksOf(name, bytes)))) {
    yield { line: source.line, value }
  }
}

async function* chunksOf(name: string, bytes: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer> {
  const plain = Readable.from(bytes, { objectMode: false })
  const through = /\.gz$/i.test(name) ? createGunzip() : new PassThrough()
  try {
    // The callback's error reaches the reader too, as the error of the stream that it reads.
    for await (const chunk of pipeline(plain, through, () => undefined)) yield chunk as Buffer
  } catch (error) {
    if (error instanceof UserError) throw error
    throw new UserError(`${name} cannot be read: ${messageOf(error)}`, { cause: error })
  }
}
