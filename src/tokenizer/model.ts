/** Encodes one word of normalized, pre-tokenized text. */
export interface TokenModel {
  /** Appends the word's token ids to `ids`. */
  encode(word: string, ids: number[]): void
  /** Ids of the model's own pieces run below this. */
  readonly vocabularySize: number
  idOf(piece: string): number | undefined
  pieceOf(id: number): string | undefined
}
