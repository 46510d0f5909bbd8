import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { Random } from '../../src/base/random.ts'
import { loadTokenizer, tokenizerFromJson } from '../../src/tokenizer/tokenizer.ts'
import { gpt2Pattern } from '../../src/tokenizer/word-scanner.ts'
import { addedToken, byteFallbackJson, byteLevelJson } from './small-tokenizers.ts'

const byteLevel = tokenizerFromJson(byteLevelJson())
const fallback = tokenizerFromJson(byteFallbackJson())

/** Texts of the tokens, which is easier to read than their ids. */
function pieces(tokenizer: typeof byteLevel, text: string, options = {}): (string | undefined)[] {
  return tokenizer.encode(text, { addSpecial: false, ...options }).map((id) => tokenizer.textOf(id))
}

test('random Unicode, lone surrogates included, comes back through byte-level BPE', () => {
  const random = new Random(3)
  const ranges = [0x80, 0x800, 0x3000, 0xd7a4, 0xe000, 0x10000, 0x110000]
  for (let round = 0; round < 3000; round++) {
    const units = Array.from({ length: random.integer(40) }, () => random.integer(ranges[random.integer(7)]!))
    const text = units.map((unit) => String.fromCodePoint(unit)).join('')
    const expected = text.replace(/\p{Surrogate}/gu, '\ufffd')
    expect(byteLevel.decode(byteLevel.encode(text))).toBe(expected)
    expect(fallback.decode(fallback.encode(text, { addSpecial: false })).replaceAll('▁', ' ')).toBe(
      expected.replaceAll('▁', ' '),
    )
  }
})

test('a word of a million letters is no harder than its length', () => {
  const text = 'a'.repeat(1_000_000)
  expect(byteLevel.encode(text)).toHaveLength(250_000)
  expect(byteLevel.decode(fallback.encode(text))).not.toBe('')
})

test('a stretch that the regular expression engine cannot hold is refused as the text’s fault', () => {
  // A pattern that has no scanner of its own.
  const pattern = { type: 'Split', pattern: { Regex: `${gpt2Pattern}|~` }, behavior: 'Isolated' }
  const bytes = { type: 'ByteLevel', add_prefix_space: false, use_regex: false }
  const preTokenizer = { type: 'Sequence', pretokenizers: [pattern, bytes] }
  const other = tokenizerFromJson(byteLevelJson({ pre_tokenizer: preTokenizer }))
  expect(() => other.encode('!'.repeat(30_000_000))).toThrow('without a word boundary')
})

test('tokens stand for raw bytes, also in the middle of a character', () => {
  const [first, second, third] = byteLevel.encode('한').map((id) => byteLevel.bytesOf(id))
  expect(Buffer.concat([first!, second!, third!]).toString()).toBe('한')
  expect(first).toEqual(Uint8Array.of(0xed))
  expect(fallback.bytesOf(fallback.idOf('<0x0A>')!)).toEqual(Uint8Array.of(10))
  expect(fallback.bytesOf(fallback.idOf('▁the')!)).toEqual(new Uint8Array(Buffer.from(' the')))
})

test('ids beyond the vocabulary decode to nothing, for models pad their vocabularies', () => {
  expect(byteLevel.decode([byteLevel.vocabularySize + 5, byteLevel.idOf('he')!])).toBe('he')
  expect(byteLevel.textOf(byteLevel.vocabularySize)).toBeUndefined()
})

test('broken UTF-8 decodes to U+FFFD and leaves its surroundings alone', () => {
  const bytes = [0x41, 0xed, 0x95, 0x42].map(
    (byte) => fallback.idOf(`<0x${byte.toString(16).toUpperCase()}>`)!,
  )
  expect(fallback.decode(bytes)).toBe('A\ufffdB')
})

describe('added tokens', () => {
  const tokens = [
    addedToken(261, '<|a|>'),
    addedToken(262, '<|a|><|b|>'),
    addedToken(263, '<tool>', { special: false }),
    addedToken(264, '<strip>', { lstrip: true, rstrip: true }),
    addedToken(265, 'word', { single_word: true, special: false }),
  ]
  const tokenizer = tokenizerFromJson(byteLevelJson({ added_tokens: tokens }))

  test('the longest of those at the leftmost place is taken', () => {
    expect(pieces(tokenizer, '<|a|><|b|><|a|>')).toEqual(['<|a|><|b|>', '<|a|>'])
  })

  test('special ones are plain text when parseSpecial is false, others are found still', () => {
    expect(tokenizer.encode('<|a|>', { parseSpecial: false })).not.toContain(261)
    expect(tokenizer.encode('<|a|><tool>', { parseSpecial: false }).at(-1)).toBe(263)
  })

  test('those that strip swallow the white space around them', () => {
    expect(pieces(tokenizer, 'a  <strip>\n\u3000b')).toEqual(['a', '<strip>', 'b'])
  })

  test('a single word is not found inside another word', () => {
    expect(tokenizer.encode('word.')).toContain(265)
    expect(tokenizer.encode('words')).not.toContain(265)
    expect(tokenizer.encode('안word')).not.toContain(265)
  })

  test('skipSpecial leaves special tokens out and keeps the others', () => {
    const ids = tokenizer.encode('x<|a|><tool>')
    expect(tokenizer.decode(ids)).toBe('x<|a|><tool>')
    expect(tokenizer.decode(ids, { skipSpecial: true })).toBe('x<tool>')
  })

  test('normalized ones are looked for in the normalized text', () => {
    const lower = tokenizerFromJson(
      byteLevelJson({
        normalizer: { type: 'Lowercase' },
        added_tokens: [addedToken(261, '<Norm>', { normalized: true }), addedToken(262, '<Raw>')],
      }),
    )
    expect(lower.encode('<NORM>')).toEqual([261])
    expect(lower.encode('<RAW>')).not.toContain(262)
    expect(lower.encode('<Raw>')).toEqual([262])
  })
})

describe('components', () => {
  const wordsOf = (preTokenizer: unknown, text: string) => {
    const tokenizer = tokenizerFromJson(
      byteLevelJson({
        pre_tokenizer: preTokenizer,
        model: { ...(byteLevelJson().model as object), ignore_merges: true },
      }),
    )
    return tokenizer.decode(tokenizer.encode(text))
  }
  const bytes = { type: 'ByteLevel', add_prefix_space: false, use_regex: false }

  test('a pre-tokenizer that removes what it splits at leaves the rest', () => {
    for (const [step, left] of [
      [{ type: 'WhitespaceSplit' }, 'ab'],
      [{ type: 'Whitespace' }, 'ab'],
      [{ type: 'Split', pattern: { String: 'a' }, behavior: 'Removed' }, ' \u3000b'],
      [{ type: 'Split', pattern: { Regex: '\\s' }, behavior: 'Removed', invert: true }, ' \u3000'],
      [{ type: 'CharDelimiterSplit', delimiter: 'b' }, 'a \u3000'],
    ] as const)
      expect(wordsOf({ type: 'Sequence', pretokenizers: [step, bytes] }, 'a \u3000b')).toBe(left)
  })

  test('a prefix space is added where the pre-tokenizer says so', () => {
    expect(wordsOf({ type: 'ByteLevel', add_prefix_space: true }, 'a')).toBe(' a')
    expect(wordsOf({ type: 'ByteLevel', add_prefix_space: true }, ' a')).toBe(' a')
  })

  test('lower case is that of each letter, whatever word it ends', () => {
    const lower = tokenizerFromJson(byteLevelJson({ normalizer: { type: 'Lowercase' } }))
    // From tokenizers 0.23.
    for (const [text, written] of [
      ['ΟΔΟΣ ΑΣ. ΣΑΣ', '\u03bf\u03b4\u03bf\u03c3 \u03b1\u03c3. \u03c3\u03b1\u03c3'],
      ['İSTANBUL ẞ', 'i\u0307stanbul \xdf'],
      ["Ǆ K Å ΑΣ\u0301 Σ'", "\u01c6 k \xe5 \u03b1\u03c3\u0301 \u03c3'"],
    ] as const)
      expect(lower.decode(lower.encode(text))).toBe(written)
  })

  test('a whole word is one token with ignore_merges even where merges would not build it', () => {
    const json = byteLevelJson()
    const model = json.model as { vocab: Record<string, number> }
    model.vocab.xyz = 261
    const lenient = tokenizerFromJson({ ...json, model: { ...model, ignore_merges: true } })
    expect(pieces(lenient, 'xyz')).toEqual(['xyz'])
    expect(pieces(tokenizerFromJson(json), 'xyz')).toEqual(['x', 'y', 'z'])
  })

  test('unknown characters become one unknown token, or one each where they are not fused', () => {
    const json = byteFallbackJson()
    const model = json.model as object
    const fused = tokenizerFromJson({ ...json, model: { ...model, byte_fallback: false } })
    const single = tokenizerFromJson({ ...json, model: { ...model, byte_fallback: false, fuse_unk: false } })
    expect(pieces(fused, 'xyz')).toEqual(['▁', '<unk>'])
    expect(pieces(single, 'xyz')).toEqual(['▁', '<unk>', '<unk>', '<unk>'])
  })

  test('a Unigram model takes the likeliest pieces, bytes for what it lacks', () => {
    const vocab = ['<unk>', '▁', 'a', 'b', 'ab', '▁ab', 'c', 'bc'].map((piece, id) => [
      piece,
      [0, -2, -3, -3, -4, -7, -3, -1.5][id],
    ])
    const json = byteFallbackJson({
      normalizer: null,
      added_tokens: [],
      post_processor: null,
      pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always' },
      decoder: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always' },
      model: { type: 'Unigram', unk_id: 0, vocab },
    })
    const tokenizer = tokenizerFromJson(json)
    // ▁ + a + bc = -6.5 beats ▁ab + c = -10 and ▁ + ab + c = -9.
    expect(pieces(tokenizer, 'abc')).toEqual(['▁', 'a', 'bc'])
    expect(pieces(tokenizer, 'ab')).toEqual(['▁', 'ab'])
    expect(pieces(tokenizer, 'aXYZb')).toEqual(['▁', 'a', '<unk>', 'b'])
    expect(tokenizer.decode(tokenizer.encode('abc ab'))).toBe('abc ab')
  })

  test.each([
    ['normalizer', { normalizer: { type: 'Precompiled' } }],
    ['pre-tokenizer', { pre_tokenizer: { type: 'UnicodeScripts' } }],
    ['post-processor', { post_processor: { type: 'PairProcessing' } }],
    ['decoder', { decoder: { type: 'CTC' } }],
    ['model', { model: { type: 'WordPiece', vocab: {} } }],
  ])('an unknown %s is refused by name', (kind, overrides) => {
    const name = (Object.values(overrides)[0] as { type: string }).type
    expect(() => tokenizerFromJson(byteLevelJson(overrides))).toThrow(`the ${kind} "${name}`)
  })

  test.each([
    ['a list', []],
    ['a text', 'x'],
    ['no model', {}],
    ['a vocabulary that is no object', byteLevelJson({ model: { type: 'BPE', vocab: [1], merges: [] } })],
    ['an id that is no number', byteLevelJson({ model: { type: 'BPE', vocab: { a: 'x' }, merges: [] } })],
    ['an id that is far too high', byteLevelJson({ model: { type: 'BPE', vocab: { a: 1e9 }, merges: [] } })],
    [
      'a merge of unknown pieces',
      byteLevelJson({ model: { type: 'BPE', vocab: { a: 0 }, merges: ['a b'] } }),
    ],
    ['a merge that is no pair', byteLevelJson({ model: { type: 'BPE', vocab: { a: 0 }, merges: [['a']] } })],
    ['an added token without text', byteLevelJson({ added_tokens: [{ id: 1 }] })],
  ])('a tokenizer.json that is or has %s is refused as a user error', (_, json) => {
    expect(() => tokenizerFromJson(json)).toThrow(expect.objectContaining({ name: 'UserError' }))
  })
})

describe('a model folder', () => {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-tokenizer-'))
  afterAll(() => rmSync(folder, { recursive: true }))
  const write = (name: string, content: unknown) =>
    writeFileSync(join(folder, name), typeof content === 'string' ? content : JSON.stringify(content))

  test('gives the special tokens their roles, ending tokens from both configurations', () => {
    write('tokenizer.json', byteFallbackJson())
    write('tokenizer_config.json', { bos_token: { content: '<s>' }, eos_token: '</s>', pad_token: null })
    write('generation_config.json', { eos_token_id: [1, 2] })
    const tokenizer = loadTokenizer(folder)
    expect([tokenizer.bosToken, tokenizer.eosTokens, tokenizer.padToken]).toEqual([1, [2, 1], undefined])
    expect(tokenizer.encode('the').map((id) => tokenizer.textOf(id))).toEqual(['<s>', '▁the'])
  })

  test('without tokenizer.json or with a damaged one is refused with the path', () => {
    write('tokenizer.json', '{"model":')
    expect(() => loadTokenizer(folder)).toThrow('tokenizer.json cannot be read')
    expect(() => loadTokenizer(join(folder, 'none'))).toThrow('has no tokenizer.json')
  })
})
