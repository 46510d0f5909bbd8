/** Multiple choice: the model chooses the answer that it finds likeliest per character, so that length does not decide. */
import type { Device } from '../../runtime/device.ts'
import { emptyBatch } from '../batch.ts'
import { LossGraph } from '../loss-graph.ts'
import type { Parameters } from '../parameters.ts'
import type { Question } from './questions.ts'

/** How many of the questions the model answers rightly. `tokensMax` bounds prompt and answer together. */
export async function rightChoices(
  parameters: Parameters,
  device: Device,
  questions: readonly Question[],
  lengthOf: (choice: readonly number[]) => number,
  tokensMax: number,
): Promise<number> {
  const rows = questions.flatMap(({ prompt, choices }) => choices.map((choice) => [prompt, choice] as const))
  const longest = rows.reduce((most, [prompt, choice]) => Math.max(most, prompt.length + choice.length), 2)
  const tokens = Math.min(tokensMax, longest)
  using graph = new LossGraph(parameters, device, { sequences: 1, tokens, packed: true }, 'evaluate')
  let right = 0
  for (const { prompt, choices, right: expected } of questions) {
    const scores: number[] = []
    for (const choice of choices)
      scores.push((await lossOf(graph, prompt, choice, tokens)) / Math.max(1, lengthOf(choice)))
    if (scores.indexOf(Math.min(...scores)) === expected) right++
  }
  return right
}

/** Summed over the tokens of the choice, in nats. Of a prompt that is too long the end is kept. */
async function lossOf(
  graph: LossGraph,
  prompt: readonly number[],
  choice: readonly number[],
  tokens: number,
): Promise<number> {
  const all = [...prompt, ...choice].slice(-tokens)
  const start = Math.max(1, all.length - choice.length)
  const batch = emptyBatch(1, tokens)
  for (const [i, token] of all.entries()) {
    batch.ids[i] = token
    batch.positions[i] = i
    batch.documents![i] = 0
    if (i < start) continue
    batch.targets[i - 1] = token
    batch.weights[i - 1] = 1
  }
  return await graph.run(batch, 1)
}
