/** What the engine needs to know of a tokenizer to hold texts to a constraint. */
import type { TokenTexts } from '../constrain/constraint.ts'
import { specialBytes, textBytes } from '../constrain/token-bytes.ts'
import { openGguf } from '../formats/gguf.ts'
import { markTokens } from '../openai/tool-calls.ts'
import { loadTokenizer, type Tokenizer, tokenizerFromGguf } from '../tokenizer/tokenizer.ts'

/** What each token of the model at `path` writes; undefined for ending ones. */
export function tokenTextsOf(path: string): TokenTexts {
  const tokenizer = tokenizerOf(path)
  const { bosToken, padToken, eosTokens, vocabularySize } = tokenizer
  const roles = new Set([bosToken, padToken, ...eosTokens])
  // Some models have these as tokens that are not special: as calls they are asked for as if they were.
  const marks = markTokens(tokenizer)
  return Array.from({ length: vocabularySize }, (_, token) => {
    if (roles.has(token)) return undefined
    if (!tokenizer.isSpecial(token) && !marks.has(token)) return textBytes(tokenizer.bytesOf(token))
    const spelling = tokenizer.textOf(token)
    return spelling === undefined ? undefined : specialBytes(spelling)
  })
}

function tokenizerOf(path: string): Tokenizer {
  if (!path.endsWith('.gguf')) return loadTokenizer(path)
  using source = openGguf(path)
  return tokenizerFromGguf(source.metadata)
}
