/**
 * Where the keys of a JSON text stand, which JSON.parse does not tell, and whether an object repeats one,
 * which it hides by keeping the last.
 *
 * The text must have passed JSON.parse: then quotes, braces and colons alone decide, and those are single
 * bytes in UTF-8.
 */
export interface JsonKeys {
  /** Byte offset of each key at the depth that was asked for. */
  readonly at: ReadonlyMap<string, number>
  /** The first key that occurs twice in one object, and the byte of its second occurrence. */
  readonly repeated: { readonly key: string; readonly byte: number } | undefined
}

const quote = 0x22
const backslash = 0x5c
const colon = 0x3a
const spaces = new Set([0x20, 0x09, 0x0a, 0x0d])
const openBrace = 0x7b
const openBracket = 0x5b
const closers = new Set([0x7d, 0x5d])

/** Keys of objects that lie `depth` braces or brackets deep; the keys of the outermost object have depth 1. */
export function jsonKeys(text: Uint8Array, depth: number): JsonKeys {
  const at = new Map<string, number>()
  /** Per open brace its keys so far; per open bracket nothing, as lists have no keys. */
  const seen: (Set<string> | undefined)[] = []
  let repeated: JsonKeys['repeated']
  for (let byte = 0; byte < text.length; byte++) {
    const character = text[byte]!
    if (character === openBrace) seen.push(new Set())
    else if (character === openBracket) seen.push(undefined)
    else if (closers.has(character)) seen.pop()
    else if (character === quote) {
      const end = endOfString(text, byte)
      if (isKey(text, end)) {
        const key = String(JSON.parse(Buffer.from(text.subarray(byte, end)).toString('utf8')))
        if (seen.at(-1)?.has(key)) repeated ??= { key, byte }
        seen.at(-1)?.add(key)
        if (seen.length === depth) at.set(key, byte)
      }
      byte = end - 1
    }
  }
  return { at, repeated }
}

/** The byte behind the closing quote of the string that opens at `start`. */
function endOfString(text: Uint8Array, start: number): number {
  let byte = start + 1
  while (byte < text.length && text[byte] !== quote) byte += text[byte] === backslash ? 2 : 1
  return byte + 1
}

function isKey(text: Uint8Array, end: number): boolean {
  let byte = end
  while (spaces.has(text[byte] ?? 0)) byte++
  return text[byte] === colon
}
