import { byteCharacters } from '../../src/tokenizer/byte-characters.ts'
import { type Tokenizer, tokenizerFromJson } from '../../src/tokenizer/tokenizer.ts'

/** Token ids of the special tokens behind the 256 bytes. */
export const special = { end: 256, user: 257, assistant: 258 } as const

/** A token of 4096 characters, for tests that need much text quickly. */
export const block = 259

/** A tokenizer whose token ids are bytes: what a test writes as text it can read as tokens. `more` are special tokens. */
export function byteTokenizer(more: readonly string[] = []): Tokenizer {
  const names = ['<|end|>', '<|user|>', '<|assistant|>', '='.repeat(4096), ...more]
  const json = {
    added_tokens: names.map((content, index) => ({
      id: 256 + index,
      content,
      special: 256 + index !== block,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
    })),
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: {
      type: 'BPE',
      vocab: Object.fromEntries(byteCharacters.map((character, byte) => [character, byte])),
      merges: [],
    },
  }
  return tokenizerFromJson(json, { eos_token: '<|end|>' })
}

export function bytes(text: string): number[] {
  return [...Buffer.from(text)]
}
