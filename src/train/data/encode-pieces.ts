import type { Tokenizer } from '../../tokenizer/tokenizer.ts'
import type { Sample } from './sample.ts'

/** A stretch of text whose tokens all count alike. */
export interface Piece {
  text: string
  /** Where a special token is spelt that is none. */
  plainAt?: ReadonlySet<number>
  /** Nothing in it is a special token. */
  plain?: boolean
  weight: number
}

/**
 * The tokens of pieces behind one another. No token reaches from one piece into the next, because a model that
 * continues a prompt gets the prompt's own tokens. Tokenizers that put a space before a text (SentencePiece)
 * would do so before each piece: for them the text is encoded as a whole, and a token across two pieces
 * belongs to the later one.
 */
export function encodePieces(
  tokenizer: Tokenizer,
  pieces: readonly Piece[],
): Pick<Sample, 'tokens' | 'weights'> {
  const tokens: number[] = []
  const weights: number[] = []
  const take = (more: readonly number[], weight: number) => {
    for (const token of more) {
      tokens.push(token)
      weights.push(weight)
    }
  }
  if (tokenizer.leading === undefined) {
    for (const piece of pieces) take(encoded(tokenizer, piece), piece.weight)
  } else {
    const whole = encoded(tokenizer, pieces.reduce(joined))
    for (const [index, piece] of pieces.entries()) {
      const before = pieces.slice(0, index + 1).reduce(joined)
      const end = index === pieces.length - 1 ? whole.length : sharedLength(encoded(tokenizer, before), whole)
      take(whole.slice(tokens.length, end), piece.weight)
    }
  }
  return { tokens: Int32Array.from(tokens), weights: Float32Array.from(weights) }
}

function encoded(tokenizer: Tokenizer, { text, plainAt, plain }: Piece): number[] {
  const options = { addSpecial: false, parseSpecial: plain !== true }
  return tokenizer.encode(text, { ...options, ...(plainAt !== undefined && { plainAt }) })
}

function joined(before: Piece, piece: Piece): Piece {
  const moved = [...(piece.plainAt ?? [])].map((place) => before.text.length + place)
  return { ...piece, text: before.text + piece.text, plainAt: new Set([...(before.plainAt ?? []), ...moved]) }
}

function sharedLength(a: readonly number[], b: readonly number[]): number {
  let length = 0
  while (length < a.length && length < b.length && a[length] === b[length]) length++
  return length
}
