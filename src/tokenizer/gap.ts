/** How the texts on both sides of a gap become tokens. */
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
