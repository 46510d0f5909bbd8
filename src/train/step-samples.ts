/** What a step learned from, for people. */
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { BatchSource } from './batch.ts'

export interface StepSamples {
  /** Where the samples stand. */
  places: string[]
  /** Of every row, micro-batch after micro-batch. */
  rows: { text: string; tokens: number; supervisedTokens: number }[]
}

export function rowsOf(
  source: BatchSource,
  tokenizer: Pick<Tokenizer, 'decode'>,
  step: number,
  accumulate: number,
): StepSamples['rows'] {
  const rows: StepSamples['rows'] = []
  for (let i = 0; i < accumulate; i++) {
    const { sequences, tokens, ids, weights, documents } = source.at(step * accumulate + i)
    for (let from = 0; from < sequences * tokens; from += tokens) {
      const held = ids.subarray(from, from + tokens).filter((_, t) => documents?.[from + t] !== -1)
      const supervisedTokens = weights
        .subarray(from, from + tokens)
        .reduce((sum, weight) => sum + Number(weight !== 0), 0)
      rows.push({ text: tokenizer.decode([...held]), tokens: held.length, supervisedTokens })
    }
  }
  return rows
}
