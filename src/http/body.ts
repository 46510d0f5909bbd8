import type { IncomingMessage } from 'node:http'
import { Problem } from './problem.ts'

export interface BodyLimits {
  bodyBytesMax: number
  discardBytesMax: number
  jsonDepthMax: number
}

/**
 * Reads a request's JSON body within its limits.
 *
 * Throws {@link Problem}: 415 for another content type or an encoding, 413 when it is too large, 400 when it
 * is not UTF-8, not JSON, or nested too deep for code that walks it recursively.
 */
export async function readJson(request: IncomingMessage, limits: BodyLimits): Promise<unknown> {
  checkType(request)
  const text = decode(await readBytes(request, limits))
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new Problem(400, 'invalid_json', `The body is not valid JSON: ${reason(error)}`)
  }
  if (isDeeperThan(value, limits.jsonDepthMax)) {
    throw new Problem(400, 'json_too_deep', `The body nests deeper than ${limits.jsonDepthMax} levels.`)
  }
  return value
}

function checkType(request: IncomingMessage): void {
  const type = (request.headers['content-type'] ?? '').split(';', 1)[0]!.trim().toLowerCase()
  if (type !== 'application/json') {
    throw new Problem(415, 'unsupported_media_type', 'Send the body as content-type: application/json.')
  }
  const encoding = request.headers['content-encoding']
  if (encoding !== undefined && encoding.toLowerCase() !== 'identity') {
    throw new Problem(415, 'unsupported_encoding', 'Send the body without content-encoding.')
  }
}

function readBytes(request: IncomingMessage, limits: BodyLimits): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let byteCount = 0
    const tooLarge = (): void => {
      reject(new Problem(413, 'body_too_large', `The body exceeds ${limits.bodyBytesMax} bytes.`))
    }
    const readMax = limits.bodyBytesMax + limits.discardBytesMax
    const announced = Number(request.headers['content-length'] ?? 0)
    if (announced > readMax) tooLarge()
    // What is too large is read to its end and dropped before it is refused: an answer may close the connection,
    // which resets it under a client that is still sending, and that one would never read why.
    request.on('data', (chunk: Buffer) => {
      byteCount += chunk.length
      if (Math.max(announced, byteCount) <= limits.bodyBytesMax) chunks.push(chunk)
      else chunks.length = 0
      if (byteCount <= readMax) return
      tooLarge()
      // The answer is on its way by then.
      setImmediate(() => request.destroy())
    })
    request.once('end', () => {
      if (byteCount > limits.bodyBytesMax) tooLarge()
      else resolve(Buffer.concat(chunks))
    })
    request.once('error', () => reject(cutOff()))
    request.once('close', () => {
      if (!request.readableEnded) reject(cutOff())
    })
  })
}

function cutOff(): Problem {
  return new Problem(400, 'body_cut_off', 'The connection ended inside the body.')
}

function decode(bytes: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (error) {
    throw new Problem(400, 'invalid_utf8', `The body is not valid UTF-8: ${reason(error)}`)
  }
}

/** A parser's message without the excerpt of the body that V8 puts in it. */
function reason(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error)
  return message.replace(/,? ?(\.\.\.)?"[\s\S]*$/, '')
}

/** Level by level, because the stack is what it protects. */
function isDeeperThan(value: unknown, depthMax: number): boolean {
  let level: unknown[] = [value]
  for (let depth = 0; level.length > 0; depth++) {
    const next: unknown[] = []
    for (const item of level) {
      if (typeof item !== 'object' || item === null) continue
      if (depth === depthMax) return true
      for (const inner of Object.values(item))
        if (typeof inner === 'object' && inner !== null) next.push(inner)
    }
    level = next
  }
  return false
}
