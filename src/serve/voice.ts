import type { TextUnderConstraint } from '../constrain/constraint.ts'
import type { Effort } from '../constrain/mask-walk.ts'
import type { IterationOutput } from './executor.ts'
import { tokenLogprob } from './logprobs.ts'
import type { PlannedSequence } from './plan.ts'
import type { TokenLogprob } from './request.ts'
import { type LogitsRow, type Sampler, SamplingMemory } from './sampler.ts'
import { endOf, type Sequence } from './sequence.ts'

/** What one iteration says for one request. */
export interface Speech {
  tokens: number[]
  logprobs: TokenLogprob[]
  promptLogprobs: (TokenLogprob | null)[]
  /** The request's constraint leaves nothing to follow. */
  whole?: true
  /** What may come next is not known yet: no token was chosen from the first of the rows. */
  postponed?: true
}

/** Reads the rows of one request out of an iteration: prompt log-probabilities, then new tokens. */
export class Voice {
  readonly #sequence: Sequence
  readonly #memory: SamplingMemory
  #saidPromptBegin = false

  /** `text`: what holds the request to its constraint, before the first token. */
  constructor(sequence: Sequence, text?: TextUnderConstraint) {
    this.#sequence = sequence
    this.#memory = new SamplingMemory(sequence.request, sequence.tokens, text)
  }

  /** Does what it can so that the next token can be chosen; true once it can. */
  prepare(effort: Effort): boolean {
    return this.#memory.prepare(effort)
  }

  /** `firstRow` is the place of this request's rows in the output; `effort`: for each of them, to find out what may come. */
  speak(
    entry: PlannedSequence,
    output: IterationOutput,
    firstRow: number,
    sampler: Sampler,
    effort: number,
  ): Speech {
    const speech: Speech = { tokens: [], logprobs: [], promptLogprobs: this.#prompt(entry, output, firstRow) }
    const { request } = this.#sequence
    const sampledFrom = firstRow + entry.outputs - entry.sampledRows
    for (let i = 0; i < entry.sampledRows; i++) {
      if (!this.#memory.prepare({ left: effort })) {
        if (i === 0) speech.postponed = true
        break
      }
      const row = rowOf(output, sampledFrom + i)
      const token = sampler.choose(row, this.#memory)
      if (request.logprobs !== undefined) {
        speech.logprobs.push(tokenLogprob(row.logits(), token, request.logprobs))
      }
      this.#memory.add(token)
      speech.tokens.push(token)
      if (this.#memory.complete) speech.whole = true
      // Rows behind this one were computed for a guessed text: they count while the guess is what was sampled.
      if (speech.whole || token !== entry.guesses[i]) break
      if (endOf(request, token, this.#memory.count) !== undefined) break
    }
    return speech
  }

  #prompt(entry: PlannedSequence, output: IterationOutput, firstRow: number): (TokenLogprob | null)[] {
    const { request, promptRowsDone } = this.#sequence
    if (request.promptLogprobs !== true) return []
    const said: (TokenLogprob | null)[] = []
    // Nothing predicts the first token.
    if (!this.#saidPromptBegin) said.push(null)
    this.#saidPromptBegin = true
    const first = Math.max(entry.start, promptRowsDone)
    for (let i = 0; i < entry.promptRows; i++) {
      const token = request.prompt[first + i + 1]!
      said.push(tokenLogprob(output.logits(firstRow + i), token, request.logprobs ?? 0))
    }
    return said
  }
}

function rowOf(output: IterationOutput, row: number): LogitsRow {
  return { logits: () => output.logits(row), argmax: () => output.argmax(row) }
}
