import { UserError } from '../../base/errors.ts'

export interface ResumedRead {
  /** For messages. */
  readonly what: string
  readonly start: number
  readonly end: number
  /** The bytes from `at` to the end that was asked for; may break off. */
  readonly open: (at: number) => Promise<AsyncIterable<Uint8Array>>
  readonly attemptsMax: number
  readonly wait: (fruitless: number) => Promise<void>
}

/** Reads on where a connection broke, as long as each one brings something. */
export async function* readResumed(read: ResumedRead): AsyncGenerator<Uint8Array> {
  let at = read.start
  for (let fruitless = 0; at < read.end; ) {
    const body = await read.open(at)
    let broken: unknown
    try {
      for await (const piece of body) {
        fruitless = 0
        at += piece.length
        yield piece
      }
    } catch (error) {
      broken = error
    }
    if (at >= read.end) return
    if (++fruitless >= read.attemptsMax) {
      throw new UserError(`${read.what} breaks off after ${at} bytes.`, {
        failure: 'unreachable',
        fix: 'Check the network to where it lies and read it again.',
        cause: broken,
      })
    }
    await read.wait(fruitless)
  }
}
