import { createHmac, timingSafeEqual } from 'node:crypto'

/** One-time passwords by time (RFC 6238) as every authenticator app knows them: SHA-1, six digits, 30 seconds. */
export const totpStepMs = 30_000
const digits = 6
/** Clocks of phones may be a step off. */
const stepsAround = 1
const base32 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'

export function totpAt(secret: Uint8Array, step: number): string {
  const counter = Buffer.alloc(8)
  counter.writeBigUInt64BE(BigInt(step))
  const mac = createHmac('sha1', secret).update(counter).digest()
  const offset = mac[mac.length - 1]! & 15
  const number = mac.readUInt32BE(offset) & 0x7fffffff
  return String(number % 10 ** digits).padStart(digits, '0')
}

/** The step that `code` is of, later than `lastStep` so that none counts twice; undefined when it is of none. */
export function totpStep(
  secret: Uint8Array,
  code: string,
  unixMs: number,
  lastStep: number,
): number | undefined {
  const now = Math.floor(unixMs / totpStepMs)
  const given = Buffer.from(code)
  for (let step = now - stepsAround; step <= now + stepsAround; step++) {
    const expected = Buffer.from(totpAt(secret, step))
    if (step > lastStep && given.length === expected.length && timingSafeEqual(given, expected)) return step
  }
  return undefined
}

/** What an authenticator app scans (Google's key URI format). */
export function totpUri(secret: Uint8Array, email: string): string {
  const label = encodeURIComponent(`Ropeway:${email}`)
  return `otpauth://totp/${label}?secret=${toBase32(secret)}&issuer=Ropeway`
}

export function toBase32(bytes: Uint8Array): string {
  let text = ''
  let bits = 0
  let value = 0
  for (const byte of bytes) {
    value = ((value << 8) | byte) & 0xffff
    bits += 8
    while (bits >= 5) {
      bits -= 5
      text += base32[(value >>> bits) & 31]
    }
  }
  return bits > 0 ? text + base32[(value << (5 - bits)) & 31] : text
}
