/**
 * A tokenizer.json whose pieces are the characters of a text, in the order of their code points, and then the
 * special tokens.
 */
export function characterTokenizer(texts: Iterable<string>, specialTokens: readonly string[] = []): object {
  const characters = new Set<string>()
  for (const text of texts) for (const character of text) characters.add(character)
  const pieces = [...characters].sort((a, b) => a.codePointAt(0)! - b.codePointAt(0)!)
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: specialTokens.map((content, index) => ({
      id: pieces.length + index,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: { type: 'Fuse' },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
      merges: [],
    },
  }
}
