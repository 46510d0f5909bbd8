import type { AddedToken } from './added-tokens.ts'
import type { Decoder } from './decoder.ts'
import type { FillIn } from './fill-in.ts'
import type { TokenModel } from './model.ts'
import type { Normalizer } from './normalizer.ts'
import type { PostProcessor } from './post-processor.ts'
import type { PreTokenizer } from './pre-tokenizer.ts'

/** What a tokenizer consists of, in the order in which a text passes. */
export interface TokenizerParts {
  addedTokens: readonly AddedToken[]
  normalizer: Normalizer | undefined
  preTokenizer: PreTokenizer
  model: TokenModel
  postProcessor: PostProcessor
  decoder: Decoder
  bosToken: number | undefined
  eosTokens: readonly number[]
  padToken: number | undefined
  /** How it marks a gap and both its sides; undefined where it has no tokens for that. */
  fillIn: FillIn | undefined
}
