import { UserError } from '../base/errors.ts'
import { atOnce, type Steps } from '../base/pauses.ts'
import { byteCharacters } from './byte-characters.ts'
import { MergeLearner } from './merge-learner.ts'
import { compileOniguruma } from './oniguruma.ts'
import { gpt2Pattern } from './word-scanner.ts'

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
  const counts = new WordCounts(options.specialTokens)
  for (const text of texts) counts.add(text)
  return atOnce(learningByteLevelBpe(counts, options))
}

/** The same in steps, from words that are counted already; their special tokens are those of the options. */
export function* learningByteLevelBpe(words: WordCounts, options: TrainingOptions): Steps<object> {
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
  let added = 0
  for (const [word, count] of words.counts) {
    learner.addWord(
      Int32Array.from(Buffer.from(word, 'utf8'), (byte) => idOfByte[byte]!),
      count,
    )
    if (++added % wordsPerStep === 0) yield
  }
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
    yield
    if (merges.length % 100 === 0) onProgress?.({ merges: pieces.length - base.length, mergesMax })
  }
  onProgress?.({ merges: pieces.length - base.length, mergesMax })
  return tokenizerJson(pieces, merges, specialTokens)
}

/** Words that are remembered at a time: many more than languages have, fewer than a Map holds. */
const wordsMax = 1 << 21

const wordsPerStep = 4096

/** How often each word of the pre-tokenizer occurs, in the order of first occurrence. */
export class WordCounts {
  readonly counts = new Map<string, number>()
  readonly #pattern = compileOniguruma(gpt2Pattern)
  readonly #cuts: RegExp | undefined
  readonly #wordsMax: number

  /** Texts are cut at special tokens. Beyond `most` different words, the rarest are forgotten. */
  constructor(specialTokens: readonly string[], most = wordsMax) {
    const special = specialTokens.filter((token) => token !== '')
    this.#cuts = special.length === 0 ? undefined : new RegExp(special.map(escaped).join('|'), 'u')
    this.#wordsMax = most
  }

  add(text: string): void {
    for (const word of this.wordsOf(text)) {
      const count = this.counts.get(word)
      // A slice keeps the whole text that it was cut from alive; the copy does not.
      if (count === undefined) this.counts.set(Buffer.from(word, 'utf16le').toString('utf16le'), 1)
      else this.counts.set(word, count + 1)
    }
    if (this.counts.size > this.#wordsMax) this.#forgetRarest()
  }

  wordsOf(text: string): string[] {
    const parts = this.#cuts === undefined ? [text] : text.split(this.#cuts)
    return parts.length === 1
      ? (parts[0]!.match(this.#pattern) ?? [])
      : parts.flatMap((part) => part.match(this.#pattern) ?? [])
  }

  #forgetRarest(): void {
    for (let least = 2; this.counts.size > this.#wordsMax / 2; least *= 2)
      for (const [word, count] of this.counts) if (count < least) this.counts.delete(word)
  }
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
