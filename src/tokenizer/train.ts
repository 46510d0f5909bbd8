import { UserError } from '../base/errors.ts'
import { byteCharacters } from './byte-characters.ts'
import { MergeLearner } from './merge-learner.ts'
import { compileOniguruma } from './oniguruma.ts'
import { gpt2Pattern } from './pre-tokenizer.ts'

export interface TrainingOptions {
  /** Special tokens and the 256 bytes included. */
  vocabularySize: number
  /** They get the first ids and are never learned from: the texts are cut at them. */
  specialTokens: readonly string[]
  /** Called about once in a hundred merges and at the end. */
  onProgress?: (progress: { merges: number; mergesMax: number }) => void
}

/**
 * Learns a byte-level BPE (GPT-2's pre-tokenizer) and returns its tokenizer.json: special tokens, the 256
 * bytes, then one piece for each merge, always of the pair that stands most often in the texts. The result
 * depends on the texts alone: of pairs equally frequent the one with the lowest ids is merged first.
 */
export function trainByteLevelBpe(texts: Iterable<string>, options: TrainingOptions): object {
  const { vocabularySize, specialTokens, onProgress } = options
  // The byte characters in the order of their code points, as the Rust library numbers its alphabet.
  const alphabet = [...byteCharacters].sort()
  const base = [...new Set(specialTokens), ...alphabet]
  if (vocabularySize < base.length) {
    throw new UserError(
      `A vocabulary of ${vocabularySize} has no room for ${base.length} special tokens and bytes`,
      {
        failure: 'usage',
        fix: `Ask for at least ${base.length}.`,
      },
    )
  }
  const firstByte = base.length - alphabet.length
  const idOfByte = byteCharacters.map((character) => firstByte + alphabet.indexOf(character))
  const learner = new MergeLearner()
  for (const [word, count] of countWords(texts, specialTokens))
    learner.addWord(
      Int32Array.from(Buffer.from(word, 'utf8'), (byte) => idOfByte[byte]!),
      count,
    )
  const pieces = [...base]
  const merges: [string, string][] = []
  const ids = new Map(pieces.map((piece, id) => [piece, id]))
  const mergesMax = vocabularySize - base.length
  learner.start()
  while (pieces.length < vocabularySize) {
    const pair = learner.best()
    if (pair === undefined) break
    const [left, right] = [pieces[pair.left]!, pieces[pair.right]!]
    // Two merges may spell the same piece; it then has one id and takes no new place.
    const id = ids.get(left + right) ?? pieces.push(left + right) - 1
    ids.set(left + right, id)
    merges.push([left, right])
    learner.merge(pair.left, pair.right, id)
    if (merges.length % 100 === 0) onProgress?.({ merges: pieces.length - base.length, mergesMax })
  }
  onProgress?.({ merges: pieces.length - base.length, mergesMax })
  return tokenizerJson(pieces, merges, specialTokens)
}

/** How often each word of the pre-tokenizer occurs, in the order of first occurrence. */
function countWords(texts: Iterable<string>, specialTokens: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>()
  const pattern = compileOniguruma(gpt2Pattern)
  const special = specialTokens.filter((token) => token !== '')
  const cuts = special.length === 0 ? undefined : new RegExp(special.map(escaped).join('|'), 'u')
  for (const text of texts) {
    for (const part of cuts === undefined ? [text] : text.split(cuts))
      for (const word of part.match(pattern) ?? []) counts.set(word, (counts.get(word) ?? 0) + 1)
  }
  return counts
}

function escaped(text: string): string {
  return text.replace(/[\^$\\.*+?()[\]{}|/]/g, '\\$&')
}

function tokenizerJson(
  pieces: string[],
  merges: [string, string][],
  specialTokens: readonly string[],
): object {
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
  const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true }
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [...new Set(specialTokens)].map((content, id) => ({ id, content, ...flags })),
    normalizer: null,
    pre_tokenizer: bytes,
    post_processor: null,
    decoder: bytes,
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
      merges,
    },
  }
}
