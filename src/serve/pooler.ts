import { assert } from '../base/assert.ts'
import type { IterationOutput } from './executor.ts'
import type { PlannedSequence } from './plan.ts'
import type { Pooling } from './request.ts'

/**
 * Turns the states of one request's tokens into its embedding. Sums are in float64 and in the order of the tokens,
 * so that the result does not depend on where the prompt was cut into iterations.
 */
export class Pooler {
  readonly #pooling: Pooling
  #sum: Float64Array | undefined
  #count = 0

  constructor(pooling: Pooling) {
    this.#pooling = pooling
  }

  /**
   * Takes in the rows of an iteration, which begin at `firstRow` of the output. Gives the embedding, [W] of length 1,
   * with the prompt's last row; throws when the states are no numbers or all zero.
   */
  add(entry: PlannedSequence, output: IterationOutput, firstRow: number): Float32Array | undefined {
    const isLast = entry.sampledRows > 0
    const from = this.#pooling === 'last' ? entry.outputs - entry.sampledRows : 0
    for (let row = from; row < entry.outputs; row++) this.#addRow(output.states(firstRow + row))
    return isLast ? this.#embedding() : undefined
  }

  #addRow(states: Float32Array): void {
    this.#sum ??= new Float64Array(states.length)
    for (let i = 0; i < states.length; i++) this.#sum[i]! += states[i]!
    this.#count++
  }

  #embedding(): Float32Array {
    const sum = this.#sum
    assert(sum !== undefined && this.#count > 0, 'a prompt has a last row')
    // The mean and the sum have one direction: dividing by the count would only round once more.
    let squares = 0
    for (const value of sum) squares += value * value
    const length = Math.sqrt(squares)
    if (!(length > 0 && length < Number.POSITIVE_INFINITY))
      throw new Error('the states of its tokens are no numbers')
    return Float32Array.from(sum, (value) => value / length)
  }
}
