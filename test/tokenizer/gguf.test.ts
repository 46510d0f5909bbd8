import { describe, expect, test } from 'vitest'
import { openGguf } from '../../src/formats/gguf.ts'
import { type Tokenizer, tokenizerFromGguf } from '../../src/tokenizer/tokenizer.ts'
import { sharedData } from '../shared.ts'
import { goldenFiles, goldens } from './goldens.ts'

function expectGoldens(tokenizer: Tokenizer, name: string): void {
  const ours = goldens.filter((golden) => golden.tokenizer === name)
  expect(ours.length).toBeGreaterThan(0)
  for (const { text, ids, ids_special, decoded } of ours) {
    expect(tokenizer.encode(text, { addSpecial: false }), text).toEqual(ids)
    expect(tokenizer.encode(text), text).toEqual(ids_special)
    expect(tokenizer.decode(ids), text).toBe(decoded === true ? text : decoded)
  }
}

describe.skipIf(goldens.length === 0)('the tokenizer in a GGUF file', () => {
  test.each([
    ['stories260K', 'stories260K-f32.gguf'],
    ['babyllama-char-1M', 'babyllama-q8_0.gguf'],
  ])('of %s equals the goldens of its tokenizer.json', (name, file) => {
    using source = openGguf(sharedData('models', name, file)!)
    const tokenizer = tokenizerFromGguf(source.metadata)
    expectGoldens(tokenizer, name)
    expect([tokenizer.bosToken, tokenizer.eosTokens]).toEqual([1, [2]])
  })

  test.each([
    ['qwen3', 'qwen2', '<|im_end|>'],
    ['tinystories-bpe25k', 'gpt-2', '<|endoftext|>'],
  ])('as a converter writes it for %s (pre-tokenizer %s) equals the same goldens', (name, pre, eos) => {
    const metadata = converted(goldenFiles(name).json as TokenizerFile, pre, eos)
    const tokenizer = tokenizerFromGguf(metadata)
    expectGoldens(tokenizer, name)
    expect(tokenizer.eosTokens).toContain(tokenizer.idOf(eos))
  })
})

interface TokenizerFile {
  added_tokens: { id: number; content: string; special: boolean }[]
  model: { vocab: Record<string, number>; merges: [string, string][] }
}

/** tokenizer.ggml.* as llama.cpp's converter derives it from a byte-level tokenizer.json. */
function converted(json: TokenizerFile, pre: string, eos: string): Map<string, unknown> {
  const tokens: string[] = []
  const types: number[] = []
  for (const [piece, id] of Object.entries(json.model.vocab)) {
    tokens[id] = piece
    types[id] = 1
  }
  for (const { id, content, special } of json.added_tokens) {
    tokens[id] = content
    types[id] = special ? 3 : 4
  }
  return ggml({
    model: 'gpt2',
    pre,
    tokens,
    token_type: types,
    merges: json.model.merges.map((pair) => pair.join(' ')),
    eos_token_id: tokens.indexOf(eos),
  })
}

function ggml(fields: Record<string, unknown>): Map<string, unknown> {
  return new Map(Object.entries(fields).map(([name, value]) => [`tokenizer.ggml.${name}`, value]))
}

const sentencePiece = {
  model: 'llama',
  tokens: ['<unk>', '<s>', '</s>', '▁', 'a', 'b', 'ab', 'aab', '▁a', '[X]'],
  scores: [0, 0, 0, -5, -5, -5, -1, -2, -3, 0],
  token_type: new Int32Array([2, 3, 3, 1, 1, 1, 1, 1, 1, 4]),
  bos_token_id: 1n,
  eos_token_id: 2,
}

test('SentencePiece merges any neighbours that spell a piece, the best score first', () => {
  const tokenizer = tokenizerFromGguf(ggml(sentencePiece))
  const pieces = (text: string) =>
    tokenizer.encode(text, { addSpecial: false }).map((id) => tokenizer.textOf(id))
  expect(pieces('aab')).toEqual(['▁', 'aab'])
  expect(pieces('ab')).toEqual(['▁', 'ab'])
  expect(pieces('a[X]a')).toEqual(['▁a', '[X]', '▁a'])
})

test('add_space_prefix false neither puts a space in front nor takes one away', () => {
  const tokenizer = tokenizerFromGguf(
    ggml({ ...sentencePiece, add_space_prefix: false, add_bos_token: false }),
  )
  expect(tokenizer.encode('a').map((id) => tokenizer.textOf(id))).toEqual(['a'])
  expect(tokenizer.decode(tokenizer.encode(' a'))).toBe(' a')
})

test('control tokens that end a turn count as ending tokens beside the named one', () => {
  const tokens = [...sentencePiece.tokens, '<|eot_id|>']
  const tokenizer = tokenizerFromGguf(
    ggml({
      ...sentencePiece,
      tokens,
      scores: [...sentencePiece.scores, 0],
      token_type: [2, 3, 3, 1, 1, 1, 1, 1, 1, 4, 3],
    }),
  )
  expect(tokenizer.eosTokens).toEqual([2, 10])
})

test.each([
  ['no tokenizer', {}, '"(none)"'],
  ['a model that is not supported', { ...sentencePiece, model: 'bert' }, '"bert"'],
  ['no tokens', { ...sentencePiece, tokens: undefined }, 'tokenizer.ggml.tokens'],
  ['scores of another length', { ...sentencePiece, scores: [0] }, 'tokenizer.ggml.scores'],
  ['types of another length', { ...sentencePiece, token_type: [1] }, 'tokenizer.ggml.token_type'],
  [
    'an unknown pre-tokenizer',
    { ...sentencePiece, model: 'gpt2', pre: 'nonsense', merges: [] },
    '"nonsense"',
  ],
])('a file with %s is refused by name', (_, fields, named) => {
  expect(() => tokenizerFromGguf(ggml(fields))).toThrow(expect.objectContaining({ name: 'UserError' }))
  expect(() => tokenizerFromGguf(ggml(fields))).toThrow(named)
})
