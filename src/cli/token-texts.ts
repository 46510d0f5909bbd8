/** What the engine needs to know of a tokenizer to hold texts to a constraint. */
import type { TokenTexts } from '../constrain/constraint.ts'
import { openGguf } from '../formats/gguf.ts'
import { loadTokenizer, type Tokenizer, tokenizerFromGguf } from '../tokenizer/tokenizer.ts'

/** The bytes of each token of the model at `path`; undefined for special and ending ones. */
export function tokenTextsOf(path: string): TokenTexts {
  const tokenizer = tokenizerOf(path)
  const { bosToken, padToken, eosTokens, vocabularySize } = tokenizer
  const roles = new Set([bosToken, padToken, ...eosTokens])
  return Array.from({ length: vocabularySize }, (_, token) =>
    tokenizer.isSpecial(token) || roles.has(token) ? undefined : tokenizer.bytesOf(token),
  )
}

function tokenizerOf(path: string): Tokenizer {
  if (!path.endsWith('.gguf')) return loadTokenizer(path)
  using source = openGguf(path)
  return tokenizerFromGguf(source.metadata)
}
