import { UserError } from '../base/errors.ts'
import { fallbackPiece } from './byte-characters.ts'
import type { JsonFields } from './json-fields.ts'
import type { TokenModel } from './model.ts'
import type { TokenList } from './token-list.ts'
import { Vocabulary } from './vocabulary.ts'
import { WordCache } from './word-cache.ts'

/** How much worse than the worst piece an unknown character scores (SentencePiece). */
const unknownPenalty = 10

export interface UnigramOptions {
  vocabulary: Vocabulary
  /** Log-probability of each piece, by id. */
  scores: Float64Array
  unknownToken: number | undefined
  byteFallback: boolean
}

/** Unigram language model (Kudo 2018): the most likely way to write a word in pieces, found by Viterbi. */
export class Unigram implements TokenModel {
  readonly #options: UnigramOptions
  readonly #cache = new WordCache()
  /** Length in UTF-16 units of the longest piece that begins with a unit. */
  readonly #longest = new Map<number, number>()
  readonly #unknownScore: number

  constructor(options: UnigramOptions) {
    this.#options = options
    let worst = 0
    for (const score of options.scores) if (score < worst) worst = score
    this.#unknownScore = worst - unknownPenalty
    for (const [piece] of options.vocabulary.entries()) {
      const unit = piece.charCodeAt(0)
      if (piece.length > (this.#longest.get(unit) ?? 0)) this.#longest.set(unit, piece.length)
    }
  }

  get vocabularySize(): number {
    return this.#options.vocabulary.size
  }

  idOf(piece: string): number | undefined {
    return this.#options.vocabulary.idOf(piece)
  }

  pieceOf(id: number): string | undefined {
    return this.#options.vocabulary.pieceOf(id)
  }

  encode(word: string, ids: TokenList): void {
    const known = this.#cache.get(word)
    const found = known ?? this.#encodeNew(word)
    if (known === undefined) this.#cache.set(word, found)
    for (let i = 0; i < found.length; i++) ids.push(found[i]!)
  }

  #encodeNew(word: string): number[] {
    const ids: number[] = []
    for (const { id, text } of this.#bestPath(word)) {
      if (id >= 0) ids.push(id)
      else this.#unknown(text, ids)
    }
    return ids
  }

  /** The best pieces in order; id -1 marks a run of characters that no piece covers. */
  #bestPath(word: string): { id: number; text: string }[] {
    const { vocabulary, scores } = this.#options
    const best = new Float64Array(word.length + 1).fill(Number.NEGATIVE_INFINITY)
    const from = new Int32Array(word.length + 1)
    const piece = new Int32Array(word.length + 1)
    best[0] = 0
    const offer = (start: number, end: number, id: number, score: number) => {
      if (best[start]! + score <= best[end]!) return
      best[end] = best[start]! + score
      from[end] = start
      piece[end] = id
    }
    for (let start = 0, width = 0; start < word.length; start += width) {
      width = word.codePointAt(start)! > 0xffff ? 2 : 1
      const last = Math.min(word.length, start + (this.#longest.get(word.charCodeAt(start)) ?? 0))
      let coversCharacter = false
      for (let end = start + 1; end <= last; end++) {
        const id = vocabulary.idOf(word.slice(start, end))
        if (id === undefined) continue
        offer(start, end, id, scores[id]!)
        coversCharacter ||= end === start + width
      }
      if (!coversCharacter) offer(start, start + width, -1, this.#unknownScore)
    }
    return this.#walkBack(word, from, piece)
  }

  #walkBack(word: string, from: Int32Array, piece: Int32Array): { id: number; text: string }[] {
    const path: { id: number; text: string }[] = []
    for (let end = word.length; end > 0; end = from[end]!) {
      const text = word.slice(from[end]!, end)
      const later = path.at(-1)
      if (piece[end] === -1 && later?.id === -1) later.text = text + later.text
      else path.push({ id: piece[end]!, text })
    }
    return path.reverse()
  }

  #unknown(text: string, ids: number[]): void {
    const { vocabulary, byteFallback, unknownToken } = this.#options
    if (byteFallback) {
      const bytes = Array.from(Buffer.from(text, 'utf8'), (byte) => vocabulary.idOf(fallbackPiece(byte)))
      if (!bytes.includes(undefined)) {
        ids.push(...(bytes as number[]))
        return
      }
    }
    if (unknownToken === undefined)
      throw new UserError(`The tokenizer has no piece for ${JSON.stringify(text)} and no unknown token`)
    ids.push(unknownToken)
  }
}

export function unigramFromJson(json: JsonFields): Unigram {
  const entries = json.list('vocab').map((entry, index) => {
    if (Array.isArray(entry) && typeof entry[0] === 'string' && typeof entry[1] === 'number')
      return { piece: entry[0], score: entry[1] }
    throw new UserError(`model.vocab[${index}] is not a [piece, score] pair`)
  })
  return new Unigram({
    vocabulary: Vocabulary.fromPieces(entries.map((entry) => entry.piece)),
    scores: Float64Array.from(entries, (entry) => entry.score),
    unknownToken: json.raw('unk_id') === undefined ? undefined : json.count('unk_id'),
    byteFallback: json.boolean('byte_fallback', false),
  })
}
