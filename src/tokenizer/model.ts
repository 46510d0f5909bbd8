import type { TokenList } from './token-list.ts'

/** Encodes one word of normalized, pre-tokenized text. */
export interface TokenModel {
  /** Appends the word's token ids to `ids`. */
  encode(word: string, ids: TokenList): void
  /** The same of the word that stands in `text` from `start` up to `end`. */
  encodeRange?(text: string, start: number, end: number, ids: TokenList): void
  /** Ids of the model's own pieces run below this. */
  readonly vocabularySize: number
  idOf(piece: string): number | undefined
  pieceOf(id: number): string | undefined
}
