import { createHash } from 'node:crypto'
import { Random } from '../../src/base/random.ts'

export const hash = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

/** So many bytes, the same for the same seed. */
export function bytesOf(seed: number, length: number): Buffer {
  const random = new Random(seed)
  const block = Buffer.from(Array.from({ length: Math.min(length, 4099) }, () => random.integer(256)))
  return Buffer.alloc(length, block)
}

export async function read(body: { bytes: AsyncIterable<Uint8Array> }): Promise<Buffer> {
  const pieces: Uint8Array[] = []
  for await (const piece of body.bytes) pieces.push(piece)
  return Buffer.concat(pieces)
}

export async function textOf(
  body: { bytes: AsyncIterable<Uint8Array> } | undefined,
): Promise<string | undefined> {
  return body && (await read(body)).toString('utf8')
}
