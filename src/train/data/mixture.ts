/** Which source each row comes from, in proportion to weights, as a pure function of the row's number. */

import { assert } from '../../base/assert.ts'
import { deriveSeed, shuffle } from '../../base/random.ts'

/** Rows over which the proportions hold but for rounding. */
const blockRows = 1024

/** A source has at least this share, or it might get no row of a block. */
export const shareMin = 4 / blockRows

export class Mixture {
  /** Sums of the shares up to and with each source. */
  readonly #sums: readonly number[]
  readonly #seed: number
  #drawn: { block: number; order: Int32Array; ranks: Int32Array } | undefined

  /** Weights need no particular sum. */
  constructor(weights: readonly number[], seed: number) {
    const total = weights.reduce((sum, weight) => sum + weight, 0)
    assert(
      weights.every((weight) => weight / total >= shareMin),
      'every source of a mixture has a share that rows can be counted for',
    )
    let sum = 0
    this.#sums = weights.map((weight) => (sum += weight) / total)
    this.#seed = seed
  }

  /** The source of row `index`, and how many rows that source gave before. */
  at(index: number): { source: number; rank: number } {
    const block = Math.floor(index / blockRows)
    if (this.#drawn?.block !== block) this.#drawn = this.#draw(block)
    const place = index % blockRows
    return { source: this.#drawn.order[place]!, rank: this.#drawn.ranks[place]! }
  }

  /** Rows that `source` gave before row `index` of all, where a block begins. */
  #before(source: number, index: number): number {
    const upTo = (place: number) => (place < 0 ? 0 : this.#roundedRows(place, index))
    return upTo(source) - upTo(source - 1)
  }

  #roundedRows(place: number, index: number): number {
    return place === this.#sums.length - 1 ? index : Math.floor(this.#sums[place]! * index)
  }

  #draw(block: number): { block: number; order: Int32Array; ranks: Int32Array } {
    const first = block * blockRows
    const order = new Int32Array(blockRows)
    let filled = 0
    for (let source = 0; source < this.#sums.length; source++) {
      const count = this.#before(source, first + blockRows) - this.#before(source, first)
      order.fill(source, filled, (filled += count))
    }
    shuffle(order, deriveSeed(this.#seed, `block ${block}`))
    const next = this.#sums.map((_, source) => this.#before(source, first))
    const ranks = order.map((source) => next[source]!++)
    return { block, order, ranks }
  }
}
