import { describe, expect, test } from 'vitest'
import { compileOniguruma } from '../../src/tokenizer/oniguruma.ts'

const matches = (pattern: string, text: string) =>
  [...text.matchAll(compileOniguruma(pattern))].map(([found]) => found)

// The expectations were checked against the Rust library (Oniguruma).
describe('Oniguruma patterns match in JavaScript what they match there', () => {
  test.each([
    ["(?i:'s|'LL)", "'S'ſ'll's", ["'S", "'ſ", "'ll", "'s"]],
    ['(?i)k', 'kK\u212a', ['k', 'K', '\u212a']],
    ['a(?i:b)c', 'aBc abC', ['aBc']],
    ['\\s+', 'a\u0085\u00a0b\ufeffc\u3000', ['\u0085\u00a0', '\u3000']],
    ['\\w+', 'é_1-안\u0301', ['é_1', '안\u0301']],
    ['\\d+', '12٣½', ['12٣']],
    ['\\h+', 'fa0g', ['fa0']],
    ['a++b|a', 'aab aac', ['aab', 'a', 'a']],
    ['a?+a|b', 'ab', ['b']],
    ['(?>a+)a|c', 'aac', ['c']],
    ['\\p{N}{1,3}+', '1234567', ['1234567']],
    ['\\p{N}{1,3}', '1234567', ['123', '456', '7']],
    ['a{,2}b', 'aaab', ['aab']],
    ['a{x}', 'a{x}', ['a{x}']],
    ['^a|b$', 'a\nab\nb', ['a', 'a', 'b', 'b']],
    ['\\Aa|b\\z', 'a\na b\nb', ['a', 'b']],
    ['.+', 'a\rb\nc', ['a\rb', 'c']],
    ['[a-z&&[^aeiou]]+', 'hello', ['h', 'll']],
    ['[[:punct:]]+', 'a,$b', [',$']],
    ['[^\\s\\p{L}]+', 'a1! b', ['1!']],
    ['\\p{Han}+', '漢字かな', ['漢字']],
    ['\\p{^L}+', 'a1b', ['1']],
    ['[一-龥\\-\\]]+', '一-]', ['一-]']],
    ['\\x41\\x{1F600}\\u0042', 'A😀B', ['A😀B']],
    ['\\bx', 'x yx x', ['x', 'x']],
    ['😀+', '😀😀', ['😀😀']],
    ['\\$\\-\\/', '$-/', ['$-/']],
  ])('%s in %j', (pattern, text, expected) => {
    expect(matches(pattern, text)).toEqual(expected)
  })

  test.each(['(a', 'a)', '[a', '(a)\\1', '\\p{Nonsense}', '[[:nonsense:]]', '(?<n>a)', '*a', 'a\\', '\\p'])(
    '%s is refused as a user error',
    (pattern) => {
      expect(() => compileOniguruma(pattern)).toThrow(expect.objectContaining({ name: 'UserError' }))
    },
  )
})
