import { byteCharacters, fallbackPiece } from '../../src/tokenizer/byte-characters.ts'

/** A BPE over bytes with a few merges and whatever else is given, as a tokenizer.json. */
export function byteLevelJson(overrides: Record<string, unknown> = {}): Record<string, unknown> {
  const merges = [
    ['h', 'e'],
    ['Ġ', 't'],
    ['Ġt', 'he'],
    ['a', 'a'],
    ['aa', 'aa'],
  ]
  const pieces = [...byteCharacters, ...merges.map(([left, right]) => `${left}${right}`)]
  return {
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab: vocabularyOf(pieces), merges },
    ...overrides,
  }
}

/** A BPE over characters with byte fallback, in the manner of Llama 2. */
export function byteFallbackJson(overrides: Record<string, unknown> = {}): Record<string, unknown> {
  const bytes = Array.from({ length: 256 }, (_, byte) => fallbackPiece(byte))
  const pieces = ['<unk>', '<s>', '</s>', ...bytes, '▁', 't', 'h', 'e', 'he', '▁t', '▁the']
  const specials = ['<unk>', '<s>', '</s>'].map((content, id) => addedToken(id, content))
  return {
    added_tokens: specials,
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '▁' },
        { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
    },
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: 1, stop: 0 },
      ],
    },
    model: {
      type: 'BPE',
      unk_token: '<unk>',
      fuse_unk: true,
      byte_fallback: true,
      vocab: vocabularyOf(pieces),
      merges: ['h e', '▁ t', '▁t he'],
    },
    ...overrides,
  }
}

export function addedToken(id: number, content: string, flags: Record<string, boolean> = {}) {
  return {
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
    ...flags,
  }
}

export function vocabularyOf(pieces: readonly string[]): Record<string, number> {
  return Object.fromEntries(pieces.map((piece, id) => [piece, id]))
}
