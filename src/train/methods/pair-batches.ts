/** Pairs of answers in rows: both answers of a pair share a row, as two documents that do not see one another. */
import { createHash } from 'node:crypto'
import { assert } from '../../base/assert.ts'
import { type Batch, type BatchSource, emptyBatch } from '../batch.ts'
import { EpochOrder } from '../data/epoch-order.ts'
import { placeOf, type Sample } from '../data/sample.ts'

export interface Pair {
  left: Sample
  right: Sample
  /** 1: desirable, -1: undesirable; always 1 for chosen and rejected answers. */
  verdict: 1 | -1
}

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
  readonly pairs: readonly Pair[]
  /** Log-probabilities of the answers by the reference, by number of the pair. */
  readonly references: { left: Float32Array; right: Float32Array }
  readonly #sequences: number
  readonly #tokens: number
  readonly #order: EpochOrder

  /** Both answers of a pair together must fit into `tokens`. */
  constructor(pairs: readonly Pair[], sequences: number, tokens: number, seed: number) {
    assert(pairs.length > 0, 'there is a pair to learn from')
    for (const { left, right } of pairs)
      assert(left.tokens.length + right.tokens.length <= tokens, 'both answers fit into a row')
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
    return Array.from({ length: this.#sequences }, (_, row) => {
      const { left } = this.pairs[this.#order.at(first + row)]!
      return placeOf(left.source)
    })
  }

  /** The pairs of these numbers in this order. */
  batchOf(numbers: readonly number[]): PairBatch {
    const [sequences, tokens] = [this.#sequences, this.#tokens]
    const size = sequences * tokens
    const batch: PairBatch = {
      ...emptyBatch(sequences, tokens),
      left: new Float32Array(size),
      right: new Float32Array(size),
      referenceLeft: Float32Array.from(numbers, (number) => this.references.left[number]!),
      referenceRight: Float32Array.from(numbers, (number) => this.references.right[number]!),
      verdict: Float32Array.from(numbers, (number) => this.pairs[number]!.verdict),
    }
    for (const [row, number] of numbers.entries()) {
      const { left, right } = this.pairs[number]!
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

/** SHA-256 over tokens, masks and verdicts. */
export function hashOfPairs(pairs: readonly Pair[]): string {
  const hash = createHash('sha256')
  for (const { left, right, verdict } of pairs) {
    for (const { tokens, weights } of [left, right])
      hash
        .update(new Uint8Array(tokens.slice().buffer))
        .update(new Uint8Array(weights.slice().buffer))
        .update('|')
    hash.update(String(verdict))
  }
  return hash.digest('hex')
}
