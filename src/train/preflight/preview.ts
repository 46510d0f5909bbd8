/** Real samples as text again, with what of them is learned. */
import { deriveSeed, uniformAt } from '../../base/random.ts'
import type { Tokenizer } from '../../tokenizer/tokenizer.ts'
import { placeOf, type Sample } from '../data/sample.ts'
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
  return numbers.slice(0, count).map((number) => previewOf(list, number, tokensMax, tokenizer))
}

function previewOf(list: SampleList, number: number, tokensMax: number, tokenizer: Tokenizer): Preview {
  const length = list.lengthOf(number)
  const half = tokensMax / 2
  const parts =
    length > tokensMax
      ? ([
          [0, half],
          [length - half, length],
        ] as const)
      : ([[0, length]] as const)
  const stretches: Stretch[] = []
  for (const [from, to] of parts) {
    if (stretches.length > 0) stretches.push({ text: ` ... ${length - tokensMax} tokens ... `, weight: 0 })
    stretches.push(...stretchesOf(list.part(number, from, to), from === 0, tokenizer))
  }
  const at = placeOf(list.sourceOf(number))
  return { at, tokens: length, trainedTokens: list.trainedOf(number), stretches }
}

function stretchesOf({ tokens, weights }: Sample, isBeginning: boolean, tokenizer: Tokenizer): Stretch[] {
  const stretches: Stretch[] = []
  // The first token of a sample is never a target.
  const weightOf = (index: number) => (isBeginning && index === 0 ? 0 : weights[index]!)
  for (let start = 0, end = 0; start < tokens.length; start = end) {
    while (end < tokens.length && weightOf(end) === weightOf(start)) end++
    stretches.push({ text: tokenizer.decode([...tokens.subarray(start, end)]), weight: weightOf(start) })
  }
  return stretches
}
