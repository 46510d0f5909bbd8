/**
 * What a token writes, as an automaton reads it: the bytes of its text. Special tokens have no text; they stand
 * between two bytes that no UTF-8 holds, so that a grammar can ask for one and no spelling of it passes for it.
 */

const specialBegin = 0xff
const specialEnd = 0xfe

/** A special token, by what it is spelt. */
export function specialBytes(spelling: string): Uint8Array {
  return Uint8Array.of(specialBegin, ...Buffer.from(spelling), specialEnd)
}

/** The bytes of a token that is text; undefined for single bytes that no text holds. */
export function textBytes(bytes: Uint8Array): Uint8Array | undefined {
  return bytes.includes(specialBegin) || bytes.includes(specialEnd) ? undefined : bytes
}
