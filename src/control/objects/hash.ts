import { subtle } from 'node:crypto'

/** SHA-256 in hex, computed beside the event loop. */
export async function sha256Of(bytes: Uint8Array): Promise<string> {
  return Buffer.from(await subtle.digest('SHA-256', bytes as Uint8Array<ArrayBuffer>)).toString('hex')
}
