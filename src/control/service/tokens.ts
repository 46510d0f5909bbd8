import { createHash, randomBytes } from 'node:crypto'

/** A secret of 256 random bits that shows what it is: `rwk_...`. Only its SHA-256 is stored: it is not guessable. */
export function newToken(prefix: string): string {
  return `${prefix}${randomBytes(32).toString('base64url')}`
}

export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
