/** Real samples as text again, with what of them is learned. */
import { deriveSeed, uniformAt } from '../../base/random.ts'
import type { Tokenizer } from '../../tokenizer/tokenizer.ts'
import { placeOf, type Sample, trainedTokens } from '../data/sample.ts'
import type { SampleList } from '../data/sample-list.ts'

export interface Stretch {
  text: string
  /** How much its tokens count; 0 is masked. */
  weight: number
}

export interface Preview {
  /** `file:line` */
  at: string
  tokens: number
  trainedTokens: number
  stretches: Stretch[]
}

/** The first sample, and others drawn over the whole list; of longer ones the beginning and the end. */
export function previewsOf(
  list: SampleList,
  count: number,
  tokensMax: number,
  seed: number,
  tokenizer: Tokenizer,
): Preview[] {
  const drawn = Array.from({ length: count - 1 }, (_, i) =>
    Math.floor(uniformAt(deriveSeed(seed, 'previews'), i) * list.length),
  )
  const numbers = [...new Set([0, ...drawn])].filter((number) => number < list.length)
  return numbers.slice(0, count).map((number) => previewOf(list.at(number), tokensMax, tokenizer))
}

function previewOf(sample: Sample, tokensMax: number, tokenizer: Tokenizer): Preview {
  const { tokens, weights, source } = sample
  const stretches: Stretch[] = []
  // The first token is never a target.
  const weightOf = (index: number) => (index === 0 ? 0 : weights[index]!)
  const half = tokensMax / 2
  const cut = tokens.length > tokensMax
  const parts = cut
    ? [
        [0, half],
        [tokens.length - half, tokens.length],
      ]
    : [[0, tokens.length]]
  for (const [part, [from, to]] of parts.entries()) {
    if (part > 0) stretches.push({ text: ` ... ${tokens.length - tokensMax} tokens ... `, weight: 0 })
    for (let start = from!, end = start; start < to!; start = end) {
      while (end < to! && weightOf(end) === weightOf(start)) end++
      stretches.push({ text: tokenizer.decode([...tokens.subarray(start, end)]), weight: weightOf(start) })
    }
  }
  return { at: placeOf(source), tokens: tokens.length, trainedTokens: trainedTokens(sample), stretches }
}
