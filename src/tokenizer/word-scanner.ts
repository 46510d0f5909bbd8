/**
 * The two patterns that most byte-level vocabularies cut text by, as hand-written scanners: the same words as the
 * regular expressions find (test/tokenizer/word-scanner.test.ts), several times as fast and without a string for each.
 */

/** Where the word that begins at `from` ends. */
export type WordScanner = (text: string, from: number) => number

/** GPT-2's pattern, the default of ByteLevel. */
export const gpt2Pattern =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/** cl100k's pattern (Llama 3, Qwen 2 and 3); `digits` bounds how many make one word. */
export const cl100kPattern = (digits: '' | '{1,3}') =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`

/** The scanner of a pattern, where there is one. */
export function scannerOf(pattern: string): WordScanner | undefined {
  if (pattern === gpt2Pattern) return gpt2Word
  if (pattern === cl100kPattern('')) return (text, from) => cl100kWord(text, from, 1)
  if (pattern === cl100kPattern('{1,3}')) return (text, from) => cl100kWord(text, from, 3)
  return undefined
}

const [other, letter, number, space, lineBreak, surrogate] = [0, 1, 2, 3, 4, 5]

function kindOf(character: string): number {
  if (/[\r\n]/.test(character)) return lineBreak
  if (/\p{White_Space}/u.test(character)) return space
  if (/\p{L}/u.test(character)) return letter
  return /\p{N}/u.test(character) ? number : other
}

/** Kinds of UTF-16 units; made when the first text is scanned. */
let kinds: Uint8Array | undefined

function unitKinds(): Uint8Array {
  if (kinds !== undefined) return kinds
  kinds = new Uint8Array(0x10000)
  for (let unit = 0; unit < kinds.length; unit++)
    kinds[unit] = (unit & 0xf800) === 0xd800 ? surrogate : kindOf(String.fromCharCode(unit))
  return kinds
}

/** Of characters beyond the first 65,536. */
const astralKinds = new Map<number, number>()

/** The kind of the character at `at`, -1 behind the end. */
function kindAt(table: Uint8Array, text: string, at: number): number {
  if (at >= text.length) return -1
  const kind = table[text.charCodeAt(at)]!
  return kind === surrogate ? astralKind(text, at) : kind
}

function astralKind(text: string, at: number): number {
  const code = text.codePointAt(at)!
  let kind = astralKinds.get(code)
  if (kind === undefined) astralKinds.set(code, (kind = kindOf(String.fromCodePoint(code))))
  return kind
}

/** Units of the character at `at`; half a pair by itself is one, as for the patterns. */
function widthAt(text: string, at: number): number {
  const isPair = (text.charCodeAt(at) & 0xfc00) === 0xd800 && (text.charCodeAt(at + 1) & 0xfc00) === 0xdc00
  return isPair ? 2 : 1
}

/** Behind the run of characters of one kind that begins at `from`. */
function runEnd(table: Uint8Array, text: string, from: number, kind: number): number {
  let at = from
  while (kindAt(table, text, at) === kind) at += widthAt(text, at)
  return at
}

function spaceEnd(table: Uint8Array, text: string, from: number): number {
  let at = from
  while (at < text.length && isSpace(table[text.charCodeAt(at)]!)) at++
  return at
}

function isSpace(kind: number): boolean {
  return kind === space || kind === lineBreak
}

const [apostrophe, blank] = [0x27, 0x20]

function gpt2Word(text: string, from: number): number {
  const table = unitKinds()
  if (text.charCodeAt(from) === apostrophe) {
    const end = contractionEnd(text, from, false)
    if (end > 0) return end
  }
  const first = kindAt(table, text, from)
  const start = text.charCodeAt(from) === blank ? from + 1 : from
  const kind = start === from ? first : kindAt(table, text, start)
  if (kind >= 0 && !isSpace(kind)) return runEnd(table, text, start, kind)
  return blankEnd(table, text, from)
}

/** `\s+(?!\S)|\s+`: white space before a word leaves its last character to that word. */
function blankEnd(table: Uint8Array, text: string, from: number): number {
  const end = spaceEnd(table, text, from)
  return end < text.length && end - from > 1 ? end - 1 : end
}

function cl100kWord(text: string, from: number, digitsMax: number): number {
  const table = unitKinds()
  const unit = text.charCodeAt(from)
  if (unit === apostrophe) {
    const end = contractionEnd(text, from, true)
    if (end > 0) return end
  }
  const kind = kindAt(table, text, from)
  if (kind === letter) return runEnd(table, text, from, letter)
  if (kind === number) return digitsEnd(table, text, from, digitsMax)
  const second = from + widthAt(text, from)
  if (kind !== lineBreak && kindAt(table, text, second) === letter) return runEnd(table, text, second, letter)
  const start = unit === blank ? second : from
  if (kindAt(table, text, start) === other) {
    let end = runEnd(table, text, start, other)
    while (kindAt(table, text, end) === lineBreak) end++
    return end
  }
  return lineEnd(table, text, from)
}

function digitsEnd(table: Uint8Array, text: string, from: number, digitsMax: number): number {
  let at = from
  for (let digits = 0; digits < digitsMax && kindAt(table, text, at) === number; digits++)
    at += widthAt(text, at)
  return at
}

/** `\s*[\r\n]+|\s+(?!\S)|\s+`: white space goes up to its last line break, if it has one. */
function lineEnd(table: Uint8Array, text: string, from: number): number {
  const end = spaceEnd(table, text, from)
  for (let at = end; at > from; at--) if (table[text.charCodeAt(at - 1)] === lineBreak) return at
  return end < text.length && end - from > 1 ? end - 1 : end
}

/** Behind `'s`, `'re` and the like at `from`, or 0. */
function contractionEnd(text: string, from: number, ignoresCase: boolean): number {
  const first = folded(text.charCodeAt(from + 1), ignoresCase)
  if (first === 's' || first === 't' || first === 'm' || first === 'd') return from + 2
  const second = folded(text.charCodeAt(from + 2), ignoresCase)
  const isLong = (first === 'l' && second === 'l') || ((first === 'r' || first === 'v') && second === 'e')
  return isLong ? from + 3 : 0
}

function folded(unit: number, ignoresCase: boolean): string {
  if (Number.isNaN(unit)) return ''
  // The long s folds onto s.
  if (ignoresCase && unit === 0x17f) return 's'
  const character = String.fromCharCode(unit)
  return ignoresCase && unit < 0x80 ? character.toLowerCase() : character
}
