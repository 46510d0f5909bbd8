/** How texts before, in and behind a gap become tokens. */
import { type FillIn, fillInTokens } from './fill-in.ts'
import type { EncodeOptions, Tokenizer } from './tokenizer.ts'

/**
 * Options that read text as nothing but text. Some tokenizers have the tokens of filling in among those that are found
 * in any text.
 */
export function plainText(fillIn: FillIn): EncodeOptions {
  return { addSpecial: false, parseSpecial: false, unread: fillInTokens(fillIn) }
}

/** Some character that merges with none behind it. */
const guard = '☺'

/**
 * What is to be encoded so that `text` does not get what a tokenizer puts before the beginning of a text (SentencePiece's
 * space), and how many tokens to take off then.
 */
export function insideText(
  tokenizer: Tokenizer,
  text: string,
  options: EncodeOptions,
): { text: string; skipped: number } {
  if (tokenizer.leading === undefined || text === '') return { text, skipped: 0 }
  return { text: guard + text, skipped: tokenizer.encode(guard, options).length }
}

/** The tokens of a text that goes on behind another one. */
export function encodeInside(tokenizer: Tokenizer, text: string, options: EncodeOptions): Int32Array {
  const inside = insideText(tokenizer, text, options)
  return tokenizer.encodeTyped(inside.text, options).subarray(inside.skipped)
}

/** What the tokenizer puts before every text: its BOS, if anything. */
export function beginningOf(tokenizer: Tokenizer): number[] {
  if (tokenizer.bosToken === undefined) return []
  const [first] = tokenizer.encode('', { addSpecial: true })
  return first === tokenizer.bosToken ? [first] : []
}
