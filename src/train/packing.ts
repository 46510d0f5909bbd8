/**
 * Documents packed into rows without contamination: positions start again with each document, attention does
 * not reach into the neighbour, and no document's first token is a target of the one before.
 */

import { UserError } from '../base/errors.ts'
import { deriveSeed } from '../base/random.ts'
import { type Batch, type BatchSource, emptyBatch } from './batch.ts'
import { EpochOrder } from './data/epoch-order.ts'
import { Mixture } from './data/mixture.ts'
import { placeOf, type Sample, type SourceLine } from './data/sample.ts'
import { planRows, type RowPlan } from './row-plan.ts'

/** A sample, or tokens that all count. */
export type Document = Pick<Sample, 'tokens'> & Partial<Pick<Sample, 'weights'>>

/** Documents by number, so that they may lie in a file: packing asks for lengths only, a batch for its own. */
export interface DocumentList {
  readonly length: number
  lengthOf(index: number): number
  /** A document's tokens from place `start` up to place `end`. */
  part(index: number, start: number, end: number): Document
  sourceOf?(index: number): SourceLine
}

/** Rows of one list of documents; every pass takes each row once, in an order of its own. */
class PackedRows {
  readonly #documents: DocumentList
  readonly #plan: RowPlan
  readonly #order: EpochOrder
  readonly #tokens: number

  constructor(documents: readonly Document[] | DocumentList, tokens: number, seed: number) {
    this.#documents = 'lengthOf' in documents ? documents : inMemory(documents)
    this.#plan = planRows(this.#documents, tokens)
    if (this.#plan.rows === 0) {
      throw new UserError('No document has two tokens, so there is nothing to learn.', {
        fix: 'Give more text.',
      })
    }
    this.#order = new EpochOrder(this.#plan.rows, seed)
    this.#tokens = tokens
  }

  get rows(): number {
    return this.#plan.rows
  }

  get heldTokens(): number {
    return this.#plan.heldTokens
  }

  get planBytes(): number {
    return this.#plan.bytes
  }

  get orderBytes(): number {
    return this.#order.bytes
  }

  /** Targets of the row that has most of them, at most: `trained` bounds those of a document. */
  supervisedMax(trained: (document: number) => number): number {
    let most = 0
    for (let row = 0; row < this.rows; row++) {
      let sum = 0
      this.#plan.eachPiece(row, (document, _, length) => {
        sum += Math.min(length - 1, trained(document))
      })
      most = Math.max(most, sum)
    }
    return most
  }

  /** Where the documents of row `index` stand. */
  samplesOf(index: number): string[] {
    const places: string[] = []
    this.#plan.eachPiece(this.#order.at(index), (document) => {
      const source = this.#documents.sourceOf?.(document)
      places.push(source === undefined ? `document ${document}` : placeOf(source))
    })
    return places
  }

  /** Puts row `index`, counted over all passes, into row `row` of the batch. */
  layDown(index: number, batch: Batch, row: number): void {
    let place = row * this.#tokens
    let number = 0
    this.#plan.eachPiece(this.#order.at(index), (document, start, length) => {
      layDown(this.#documents.part(document, start, start + length), number, batch, place)
      number++
      place += length
    })
  }
}

/** Several lists of documents; of each so many rows as its weight says. */
export class MixedDocuments implements BatchSource {
  readonly #parts: readonly PackedRows[]
  readonly #mixture: Mixture
  readonly #sequences: number
  readonly #tokens: number

  /** A document longer than a row is cut into pieces of one row. */
  constructor(
    parts: readonly { documents: readonly Document[] | DocumentList; weight: number }[],
    sequences: number,
    tokens: number,
    seed: number,
  ) {
    this.#parts = parts.map(
      ({ documents }, part) =>
        new PackedRows(documents, tokens, part === 0 ? seed : deriveSeed(seed, `part ${part}`)),
    )
    this.#mixture = new Mixture(
      parts.map(({ weight }) => weight),
      deriveSeed(seed, 'mixture'),
    )
    this.#sequences = sequences
    this.#tokens = tokens
  }

  /** Rows in one pass over all documents. */
  get rows(): number {
    return this.#parts.reduce((sum, { rows }) => sum + rows, 0)
  }

  /** Share of the rows' places that hold tokens, in (0, 1]. */
  get fillRate(): number {
    return this.#parts.reduce((sum, { heldTokens }) => sum + heldTokens, 0) / (this.rows * this.#tokens)
  }

  /** Memory of the rows' plan and order; the order is there with the first batch. */
  get indexBytes(): number {
    return this.orderBytes + this.#parts.reduce((sum, { planBytes }) => sum + planBytes, 0)
  }

  get orderBytes(): number {
    return this.#parts.reduce((sum, { orderBytes }) => sum + orderBytes, 0)
  }

  /** Targets that count in one batch, at most. `trained` says how many of a part's document do, at most. */
  supervisedMax(trained: (part: number, document: number) => number): number {
    const rows = this.#parts.map((part, i) => part.supervisedMax((document) => trained(i, document)))
    return this.#sequences * Math.max(...rows)
  }

  samplesAt(index: number): string[] {
    return Array.from({ length: this.#sequences }, (_, row) => {
      const { source, rank } = this.#mixture.at(index * this.#sequences + row)
      return this.#parts[source]!.samplesOf(rank)
    }).flat()
  }

  at(index: number): Batch {
    const sequences = this.#sequences
    const batch = emptyBatch(sequences, this.#tokens)
    for (let row = 0; row < sequences; row++) {
      const { source, rank } = this.#mixture.at(index * sequences + row)
      this.#parts[source]!.layDown(rank, batch, row)
    }
    return batch
  }
}

/** One list of documents. */
export class PackedDocuments extends MixedDocuments {
  constructor(
    documents: readonly Document[] | DocumentList,
    sequences: number,
    tokens: number,
    seed: number,
  ) {
    super([{ documents, weight: 1 }], sequences, tokens, seed)
  }
}

function layDown({ tokens, weights }: Document, number: number, batch: Batch, place: number): void {
  for (let i = 0; i < tokens.length; i++) {
    batch.ids[place + i] = tokens[i]!
    batch.positions[place + i] = i
    batch.documents![place + i] = number
    if (i + 1 === tokens.length) continue
    batch.targets[place + i] = tokens[i + 1]!
    batch.weights[place + i] = weights === undefined ? 1 : weights[i + 1]!
  }
}

function inMemory(documents: readonly Document[]): DocumentList {
  return {
    length: documents.length,
    lengthOf: (index) => documents[index]!.tokens.length,
    part: (index, start, end) => {
      const { tokens, weights } = documents[index]!
      const part = tokens.subarray(start, end)
      return weights === undefined
        ? { tokens: part }
        : { tokens: part, weights: weights.subarray(start, end) }
    },
  }
}
