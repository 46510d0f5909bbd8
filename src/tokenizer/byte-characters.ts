/**
 * The 256 printable characters that byte-level vocabularies write for the 256 bytes (GPT-2, 2019): printable
 * Latin-1 stands for itself, the other bytes take U+0100, U+0101, ... in order.
 */
const printable = (byte: number) =>
  (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff)

/** The character of each byte. */
export const byteCharacters: readonly string[] = (() => {
  let replaced = 0
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCharCode(printable(byte) ? byte : 0x100 + replaced++),
  )
})()

const byteOfUnit = new Map(byteCharacters.map((character, byte) => [character.charCodeAt(0), byte]))

/** `text` in UTF-8, one character for each byte; a lone surrogate gives the bytes of U+FFFD. */
export function toByteCharacters(text: string): string {
  let mapped = ''
  for (const byte of Buffer.from(text, 'utf8')) mapped += byteCharacters[byte]
  return mapped
}

/** The bytes that `characters` write, or undefined when one of them writes no byte. */
export function fromByteCharacters(characters: string): Uint8Array | undefined {
  const bytes = new Uint8Array(characters.length)
  for (let i = 0; i < characters.length; i++) {
    const byte = byteOfUnit.get(characters.charCodeAt(i))
    if (byte === undefined) return undefined
    bytes[i] = byte
  }
  return bytes
}

/** How byte-fallback vocabularies (SentencePiece) write a byte: <0x0A>. */
export function fallbackPiece(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`
}

/** The byte that a piece such as <0x0A> stands for, or undefined for any other piece. */
export function fallbackByte(piece: string): number | undefined {
  if (piece.length !== 6 || !/^<0x[0-9A-Fa-f]{2}>$/.test(piece)) return undefined
  return Number.parseInt(piece.slice(3, 5), 16)
}
