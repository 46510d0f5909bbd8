import { UserError } from '../base/errors.ts'
import { byteCharacters, fallbackPiece, toByteCharacters } from './byte-characters.ts'
import { type JsonFields, unknownComponent } from './json-fields.ts'
import { Merger } from './merge.ts'
import { MergeTable } from './merge-table.ts'
import type { TokenModel } from './model.ts'
import { RangeCache } from './range-cache.ts'
import type { TokenList } from './token-list.ts'
import { Vocabulary } from './vocabulary.ts'

export interface BpeOptions {
  vocabulary: Vocabulary
  merges: MergeTable
  /** Words are text and their UTF-8 bytes are the first symbols; otherwise their characters are. */
  byteLevel: boolean
  /** A character that the vocabulary lacks becomes its bytes' pieces <0xHH>. */
  byteFallback: boolean
  /** Stands for characters that nothing else covers; without it they vanish, as in the Rust library. */
  unknownToken: number | undefined
  /** Neighbouring unknown characters become one token. */
  fuseUnknown: boolean
  /** A word that is a piece as a whole is that piece, whatever the merges say. */
  ignoreMerges: boolean
}

/** Byte-pair encoding over bytes (GPT-2 and its heirs) or characters (SentencePiece's). */
export class Bpe implements TokenModel {
  readonly #options: BpeOptions
  readonly #merger: Merger
  readonly #cache = new RangeCache()
  /** Ids of the 256 bytes: the first symbols of a byte-level model, or the fallback pieces; -1 is missing. */
  readonly #bytes: Int32Array
  readonly #wordStarts: WordStarts | undefined
  /** Of characters that are one UTF-16 unit: their ids, or -1. */
  readonly #unitIds: Int32Array
  #symbols = new Int32Array(256)

  constructor(options: BpeOptions) {
    this.#options = options
    this.#merger = new Merger(options.merges)
    const pieces = options.byteLevel
      ? byteCharacters
      : Array.from({ length: 256 }, (_, byte) => fallbackPiece(byte))
    this.#bytes = Int32Array.from(pieces, (piece) => options.vocabulary.idOf(piece) ?? -1)
    this.#unitIds = new Int32Array(options.byteLevel ? 0 : 0x10000).fill(-1)
    if (!options.byteLevel)
      for (const [piece, id] of options.vocabulary.entries())
        if (piece.length === 1) this.#unitIds[piece.charCodeAt(0)] = id
    this.#wordStarts = options.byteLevel ? undefined : WordStarts.of(options.vocabulary)
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
    if (this.#wordStarts === undefined || this.#options.ignoreMerges)
      this.encodeRange(word, 0, word.length, ids)
    else this.#wordStarts.cut(word, (start, end) => this.encodeRange(word, start, end, ids))
  }

  encodeRange(text: string, start: number, end: number, ids: TokenList): void {
    if (this.#cache.push(text, start, end, ids)) return
    const count = this.#symbolsOf(text.slice(start, end))
    const found = this.#symbols.subarray(0, count)
    this.#cache.set(text, start, end, found)
    ids.append(found)
  }

  /** Encodes a word into the first of the symbols, and returns how many they are. */
  #symbolsOf(word: string): number {
    const { vocabulary, byteLevel, ignoreMerges } = this.#options
    const whole = ignoreMerges ? vocabulary.idOf(byteLevel ? toByteCharacters(word) : word) : undefined
    if (whole !== undefined) {
      this.#symbols[0] = whole
      return 1
    }
    const first = byteLevel ? this.#byteSymbols(word) : this.#characterSymbols(word)
    return this.#merger.merge(this.#symbols, first)
  }

  #reserve(count: number): void {
    if (this.#symbols.length < count) this.#symbols = new Int32Array(count * 2)
  }

  #byteSymbols(word: string): number {
    const bytes = Buffer.from(word, 'utf8')
    this.#reserve(bytes.length)
    let count = 0
    for (let i = 0; i < bytes.length; i++) {
      const id = this.#bytes[bytes[i]!]!
      if (id >= 0) this.#symbols[count++] = id
      else count = this.#unknown(count)
    }
    return count
  }

  #characterSymbols(word: string): number {
    this.#reserve(word.length * 4)
    const units = this.#unitIds
    let count = 0
    for (let at = 0; at < word.length; at++) {
      const unit = word.charCodeAt(at)
      const id = (unit & 0xf800) === 0xd800 ? -1 : units[unit]!
      if (id >= 0) this.#symbols[count++] = id
      else {
        const character = String.fromCodePoint(word.codePointAt(at)!)
        at += character.length - 1
        count = this.#rareSymbols(character, count)
      }
    }
    return count
  }

  #rareSymbols(character: string, count: number): number {
    const id = this.#options.vocabulary.idOf(character)
    if (id === undefined) return this.#fallback(character, count) ?? this.#unknown(count)
    this.#symbols[count] = id
    return count + 1
  }

  /** Spells a character in bytes behind the first `count` symbols; undefined when that is impossible. */
  #fallback(character: string, count: number): number | undefined {
    if (!this.#options.byteFallback) return undefined
    const ids = Array.from(Buffer.from(character, 'utf8'), (byte) => this.#bytes[byte]!)
    if (ids.includes(-1)) return undefined
    this.#symbols.set(ids, count)
    return count + ids.length
  }

  #unknown(count: number): number {
    const { unknownToken, fuseUnknown } = this.#options
    if (unknownToken === undefined) return count
    if (fuseUnknown && count > 0 && this.#symbols[count - 1] === unknownToken) return count
    this.#symbols[count] = unknownToken
    return count + 1
  }
}

/**
 * Where a text without pre-tokenizer may be cut into words: before a ▁ whose left neighbour no piece joins
 * to it, for no merge can cross there. SentencePiece vocabularies have hardly any such pieces, so their
 * texts become words that the cache knows, with the same tokens.
 */
class WordStarts {
  readonly #joined: ReadonlySet<number>

  private constructor(joined: ReadonlySet<number>) {
    this.#joined = joined
  }

  static of(vocabulary: Vocabulary): WordStarts | undefined {
    if (vocabulary.idOf('▁') === undefined) return undefined
    const joined = new Set(['▁'.charCodeAt(0)])
    for (const [piece] of vocabulary.entries()) {
      for (let at = piece.indexOf('▁', 1); at > 0; at = piece.indexOf('▁', at + 1))
        joined.add(piece.charCodeAt(at - 1))
    }
    return new WordStarts(joined)
  }

  cut(text: string, take: (start: number, end: number) => void): void {
    let start = 0
    for (let at = text.indexOf('▁', 1); at > 0; at = text.indexOf('▁', at + 1)) {
      if (this.#joined.has(text.charCodeAt(at - 1))) continue
      take(start, at)
      start = at
    }
    if (start < text.length) take(start, text.length)
  }
}

export function bpeFromJson(json: JsonFields, byteLevel: boolean): Bpe {
  for (const name of ['continuing_subword_prefix', 'end_of_word_suffix'])
    if (json.string(name, '') !== '') throw unknownComponent('BPE option', name, json.where)
  const vocabulary = Vocabulary.fromObject(json.object('vocab'))
  const unknown = json.raw('unk_token') === undefined ? undefined : json.string('unk_token')
  return new Bpe({
    vocabulary,
    merges: mergesFromLines(json.list('merges'), vocabulary),
    byteLevel,
    byteFallback: json.boolean('byte_fallback', false),
    unknownToken: unknown === undefined ? undefined : vocabulary.idOf(unknown),
    fuseUnknown: json.boolean('fuse_unk', false),
    ignoreMerges: json.boolean('ignore_merges', false),
  })
}

/** Merges in the order of their ranks, each "left right" or [left, right]. */
export function mergesFromLines(lines: readonly unknown[], vocabulary: Vocabulary): MergeTable {
  const table = new MergeTable(lines.length)
  for (let rank = 0; rank < lines.length; rank++) {
    const [left, right] = mergedPieces(lines[rank], rank)
    const leftId = vocabulary.idOf(left)
    const rightId = vocabulary.idOf(right)
    const product = vocabulary.idOf(left + right)
    if (leftId === undefined || rightId === undefined || product === undefined)
      throw new UserError(
        `Merge ${rank} (${JSON.stringify([left, right])}) uses a piece that the vocabulary lacks`,
      )
    table.set(leftId, rightId, rank, product)
  }
  return table
}

function mergedPieces(line: unknown, rank: number): readonly [string, string] {
  if (typeof line === 'string') {
    const space = line.indexOf(' ')
    if (space > 0 && space < line.length - 1) return [line.slice(0, space), line.slice(space + 1)]
  } else if (Array.isArray(line) && typeof line[0] === 'string' && typeof line[1] === 'string')
    return line as unknown as [string, string]
  throw new UserError(`Merge ${rank} is not a pair of pieces`, {
    fix: 'The file is damaged or not a tokenizer; fetch it again.',
  })
}
