/** CRC-32 in two kinds: Castagnoli's (RFC 3720), which TensorBoard's files have, and the one of zip, which W&B's have. */

function table(polynomial: number): Uint32Array {
  return Uint32Array.from({ length: 256 }, (_, byte) => {
    let value = byte
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ polynomial : value >>> 1
    return value >>> 0
  })
}

const castagnoli = table(0x82f63b78)
const zip = table(0xedb88320)

function crc(entries: Uint32Array, bytes: Uint8Array): number {
  let value = 0xffffffff
  for (const byte of bytes) value = entries[(value ^ byte) & 255]! ^ (value >>> 8)
  return (value ^ 0xffffffff) >>> 0
}

export const crc32c = (bytes: Uint8Array): number => crc(castagnoli, bytes)
export const crc32 = (bytes: Uint8Array): number => crc(zip, bytes)

/** Masked as records of TensorFlow have it, so that a checksum of bytes that hold checksums stays good. */
export function maskedCrc32c(bytes: Uint8Array): number {
  const value = crc32c(bytes)
  return (((value >>> 15) | (value << 17)) + 0xa282ead8) >>> 0
}
