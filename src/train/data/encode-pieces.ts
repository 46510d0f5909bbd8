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
  const parts: { tokens: Int32Array; weight: number }[] = []
  if (tokenizer.leading === undefined) {
    for (const piece of pieces) parts.push({ tokens: encoded(tokenizer, piece), weight: piece.weight })
  } else {
    const whole = encoded(tokenizer, pieces.reduce(joined))
    let done = 0
    for (const [index, piece] of pieces.entries()) {
      const before = pieces.slice(0, index + 1).reduce(joined)
      const shared =
        index === pieces.length - 1 ? whole.length : sharedLength(encoded(tokenizer, before), whole)
      const end = Math.max(done, shared)
      parts.push({ tokens: whole.subarray(done, end), weight: piece.weight })
      done = end
    }
  }
  const length = parts.reduce((sum, { tokens }) => sum + tokens.length, 0)
  const sample = { tokens: new Int32Array(length), weights: new Float32Array(length) }
  let place = 0
  for (const { tokens, weight } of parts) {
    sample.tokens.set(tokens, place)
    sample.weights.fill(weight, place, (place += tokens.length))
  }
  return sample
}

function encoded(tokenizer: Tokenizer, { text, plainAt, plain }: Piece): Int32Array {
  const options = { addSpecial: false, parseSpecial: plain !== true }
  return tokenizer.encodeTyped(text, { ...options, ...(plainAt !== undefined && { plainAt }) })
}

function joined(before: Piece, piece: Piece): Piece {
  const moved = [...(piece.plainAt ?? [])].map((place) => before.text.length + place)
  return { ...piece, text: before.text + piece.text, plainAt: new Set([...(before.plainAt ?? []), ...moved]) }
}

function sharedLength(a: Int32Array, b: Int32Array): number {
  let length = 0
  while (length < a.length && length < b.length && a[length] === b[length]) length++
  return length
}
