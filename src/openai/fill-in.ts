/** `suffix`: the prompt stands before a gap, the suffix behind it, and the model writes what fills it. */
import type { Prompt } from '../api/prompts.ts'
import { assert } from '../base/assert.ts'
import { Problem } from '../http/problem.ts'
import { type FillIn, fillInPrompt, fillInTokens } from '../tokenizer/fill-in.ts'
import { beginningOf, insideText, plainText } from '../tokenizer/gap.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { Endpoint } from './endpoint.ts'
import type { EncodedPrompt } from './prompts.ts'

type Parts = Pick<Endpoint, 'encoder' | 'engine' | 'tokenizer'>

/**
 * Prompts that ask for what stands between each of `prompts` and `suffix`. Only tokens that are put there mark the
 * sides: text that spells one is text. Throws the {@link Problem} that says so where the model has no such tokens.
 */
export async function encodeGaps(
  prompts: readonly Prompt[],
  suffix: string,
  { encoder, engine, tokenizer }: Parts,
): Promise<readonly EncodedPrompt[]> {
  const fillIn = fillInOf(tokenizer)
  const options = plainText(fillIn)
  const { info } = engine
  const inside = insideText(tokenizer, suffix, options)
  const behind = (await encoder.encode(inside.text, info, { field: 'suffix', options })).slice(inside.skipped)
  const encoded: EncodedPrompt[] = []
  for (const [index, prompt] of prompts.entries()) {
    const field = prompts.length === 1 ? 'prompt' : `prompt.${index}`
    const text = typeof prompt === 'string' ? prompt : tokenizer.decode(prompt, { skipSpecial: true })
    const before =
      typeof prompt === 'string' ? await encoder.encode(prompt, info, { field, options }) : prompt
    const tokens = [...beginningOf(tokenizer), ...fillInPrompt(fillIn, before, behind)]
    encoded.push({ text, tokens })
  }
  return encoded
}

/** What ends the text that fills a gap, beside the model's own ending tokens. */
export function gapEnds({ tokenizer }: Pick<Endpoint, 'tokenizer'>): readonly number[] {
  assert(tokenizer.fillIn !== undefined, 'a gap is asked for where the tokenizer can mark it')
  return [...fillInTokens(tokenizer.fillIn)]
}

function fillInOf({ fillIn }: Tokenizer): FillIn {
  if (fillIn !== undefined) return fillIn
  const message =
    'suffix: This model does not fill in before a suffix: its tokenizer has no tokens that mark a gap. Leave suffix ' +
    'out, or ask a model that was trained to fill in, as Qwen2.5-Coder, StarCoder, Code Llama or DeepSeek Coder.'
  throw new Problem(400, 'unsupported_parameter', message, { param: 'suffix' })
}
