/** Pairs of answers in rows: both answers of a pair share a row, as two documents that do not see one another. */
import { assert } from '../../base/assert.ts'
import { type Batch, type BatchSource, emptyBatch } from '../batch.ts'
import { EpochOrder } from '../data/epoch-order.ts'
import { placeOf, type Sample } from '../data/sample.ts'
import type { PairList } from './pair-list.ts'

/** P = sequences: one pair a row. */
export interface PairBatch extends Batch {
  /** [N]: 1 for targets that belong to the left answer, else 0. */
  left: Float32Array
  right: Float32Array
  /** [P] */
  referenceLeft: Float32Array
  referenceRight: Float32Array
  verdict: Float32Array
}

export class PairBatches implements BatchSource {
  readonly pairs: PairList
  /** Log-probabilities of the answers by the reference, by number of the pair. */
  readonly references: { left: Float32Array; right: Float32Array }
  readonly #sequences: number
  readonly #tokens: number
  readonly #order: EpochOrder

  /** Both answers of a pair together must fit into `tokens`. */
  constructor(pairs: PairList, sequences: number, tokens: number, seed: number) {
    assert(pairs.length > 0, 'there is a pair to learn from')
    this.pairs = pairs
    this.references = { left: new Float32Array(pairs.length), right: new Float32Array(pairs.length) }
    this.#sequences = sequences
    this.#tokens = tokens
    this.#order = new EpochOrder(pairs.length, seed)
  }

  at(index: number): PairBatch {
    const first = index * this.#sequences
    return this.batchOf(Array.from({ length: this.#sequences }, (_, row) => this.#order.at(first + row)))
  }

  samplesAt(index: number): string[] {
    const first = index * this.#sequences
    return Array.from({ length: this.#sequences }, (_, row) =>
      placeOf(this.pairs.sourceOf(this.#order.at(first + row))),
    )
  }

  /** The pairs of these numbers in this order. */
  batchOf(numbers: readonly number[]): PairBatch {
    const [sequences, tokens] = [this.#sequences, this.#tokens]
    const size = sequences * tokens
    const read = numbers.map((number) => this.pairs.at(number))
    const batch: PairBatch = {
      ...emptyBatch(sequences, tokens),
      left: new Float32Array(size),
      right: new Float32Array(size),
      referenceLeft: Float32Array.from(numbers, (number) => this.references.left[number]!),
      referenceRight: Float32Array.from(numbers, (number) => this.references.right[number]!),
      verdict: Float32Array.from(read, ({ verdict }) => verdict),
    }
    for (const [row, { left, right }] of read.entries()) {
      assert(left.tokens.length + right.tokens.length <= tokens, 'both answers fit into a row')
      layDown(left, 0, batch, row * tokens, batch.left)
      layDown(right, 1, batch, row * tokens + left.tokens.length, batch.right)
    }
    return batch
  }
}

function layDown(
  { tokens, weights }: Sample,
  document: number,
  batch: Batch,
  place: number,
  members: Float32Array,
): void {
  for (let i = 0; i < tokens.length; i++) {
    batch.ids[place + i] = tokens[i]!
    batch.positions[place + i] = i
    batch.documents![place + i] = document
    if (i + 1 === tokens.length || weights[i + 1] === 0) continue
    batch.targets[place + i] = tokens[i + 1]!
    batch.weights[place + i] = 1
    members[place + i] = 1
  }
}
