import { expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { compileOniguruma } from '../../src/tokenizer/oniguruma.ts'
import { cl100kPattern, gpt2Pattern, scannerOf } from '../../src/tokenizer/word-scanner.ts'

/** What the patterns tell apart, and what is close to it. */
const characters = [
  ...[
    'a',
    'é',
    'Z',
    's',
    'S',
    'ſ',
    'r',
    'e',
    'E',
    'l',
    'L',
    'v',
    'd',
    't',
    'M',
    '안',
    '字',
    'ǅ',
    'ª',
    '𝒜',
    '𐐷',
    '́',
  ],
  ...["'", "'", "'", '’', '.', '!', '-', '_', '€', '👩', '\u200d', '🏽', '\0', '\ufeff', '\ufffd', '<', '|'],
  // Halves of pairs, which JSON can bring.
  ...['\ud83d', '\ude00'],
  ...['1', '2', '9', '٣', 'Ⅷ', '½', '𝟗', '一'],
  ...[' ', ' ', ' ', '\n', '\n', '\r', '\t', '\u00a0', '\u3000', '\u2028', '\u0085', '\v'],
]

test.each([
  ['GPT-2', gpt2Pattern],
  ["Qwen's", cl100kPattern('')],
  ["Llama's", cl100kPattern('{1,3}')],
])('the scanner of %s pattern finds the words that the pattern finds', (_, pattern) => {
  const scan = scannerOf(pattern)!
  const expression = compileOniguruma(pattern)
  const random = new Random(7)
  for (let round = 0; round < 4000; round++) {
    const text = Array.from(
      { length: 1 + random.integer(24) },
      () => characters[random.integer(characters.length)],
    ).join('')
    const words: string[] = []
    for (let start = 0, end = 0; start < text.length; start = end) {
      end = scan(text, start)
      words.push(text.slice(start, end))
    }
    expect(words).toEqual(text.match(expression))
  }
})

test('every character that is one UTF-16 unit is of the kind that the patterns take it for', () => {
  const expression = compileOniguruma(gpt2Pattern)
  const scan = scannerOf(gpt2Pattern)!
  for (let unit = 0; unit < 0x10000; unit++) {
    if ((unit & 0xf800) === 0xd800) continue
    for (const text of [
      `a${String.fromCharCode(unit)}`,
      `1${String.fromCharCode(unit)}`,
      ` ${String.fromCharCode(unit)}`,
    ]) {
      const first = scan(text, 0)
      if (first !== text.match(expression)![0].length) throw new Error(`unit ${unit} behind ${text[0]}`)
    }
  }
})
