/** Random windows over one long row of tokens, as nanoGPT draws them. */

import { UserError } from '../base/errors.ts'
import { uniformAt } from '../base/random.ts'
import type { Batch, BatchSource } from './batch.ts'
import type { TokenRow } from './data/token-store.ts'

export class RandomWindows implements BatchSource {
  readonly #stream: TokenRow
  readonly #sequences: number
  readonly #tokens: number
  readonly #seed: number

  /** `stream` must hold more than one window; every token but the first is a target. */
  constructor(stream: TokenRow, sequences: number, tokens: number, seed: number) {
    if (stream.length <= tokens) {
      throw new UserError(
        `The text has ${stream.length} tokens, and one row alone takes ${tokens} and its target.`,
        {
          fix: 'Give more text or a shorter context.',
        },
      )
    }
    this.#stream = stream
    this.#sequences = sequences
    this.#tokens = tokens
    this.#seed = seed
  }

  /** Place of the first token of row `row`. */
  #startOf(index: number, row: number): number {
    const places = this.#stream.length - this.#tokens
    return Math.floor(uniformAt(this.#seed, index * this.#sequences + row) * places)
  }

  samplesAt(index: number): string[] {
    return Array.from({ length: this.#sequences }, (_, row) => {
      const start = this.#startOf(index, row)
      return `tokens ${start}-${start + this.#tokens} of the training text`
    })
  }

  at(index: number): Batch {
    const [sequences, tokens, stream] = [this.#sequences, this.#tokens, this.#stream]
    const ids = new Int32Array(sequences * tokens)
    const targets = new Int32Array(sequences * tokens)
    for (let row = 0; row < sequences; row++) {
      const start = this.#startOf(index, row)
      const window = stream.subarray(start, start + tokens + 1)
      ids.set(window.subarray(0, tokens), row * tokens)
      targets.set(window.subarray(1), row * tokens)
    }
    const positions = ids.map((_, i) => i % tokens)
    return { sequences, tokens, ids, positions, targets, weights: new Float32Array(ids.length).fill(1) }
  }
}
