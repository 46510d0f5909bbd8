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

/** A sample, or tokens that all count. */
export type Document = Pick<Sample, 'tokens'> & Partial<Pick<Sample, 'weights'>>

/** Documents by number, so that they may lie in a file: packing asks for lengths only, a batch for its own. */
export interface DocumentList {
  readonly length: number
  lengthOf(index: number): number
  at(index: number): Document
  sourceOf?(index: number): SourceLine
}

interface Piece {
  /** Number of its document. */
  document: number
  start: number
  length: number
}

/** Rows of one list of documents; every pass takes each row once, in an order of its own. */
class PackedRows {
  readonly #documents: DocumentList
  readonly #rows: readonly (readonly Piece[])[]
  readonly #order: EpochOrder
  readonly #tokens: number

  constructor(documents: readonly Document[] | DocumentList, tokens: number, seed: number) {
    this.#documents = 'lengthOf' in documents ? documents : inMemory(documents)
    this.#rows = packRows(piecesOf(this.#documents, tokens), tokens)
    if (this.#rows.length === 0) {
      throw new UserError('No document has two tokens, so there is nothing to learn.', {
        fix: 'Give more text.',
      })
    }
    this.#order = new EpochOrder(this.#rows.length, seed)
    this.#tokens = tokens
  }

  get rows(): number {
    return this.#rows.length
  }

  get heldTokens(): number {
    return this.#rows.reduce((sum, row) => sum + row.reduce((held, piece) => held + piece.length, 0), 0)
  }

  /** Targets of the row that has most of them, at most: `trained` bounds those of a document. */
  supervisedMax(trained: (document: number) => number): number {
    const of = ({ document, length }: Piece) => Math.min(length - 1, trained(document))
    return this.#rows.reduce(
      (most, row) =>
        Math.max(
          most,
          row.reduce((sum, piece) => sum + of(piece), 0),
        ),
      0,
    )
  }

  /** Where the documents of row `index` stand. */
  samplesOf(index: number): string[] {
    return this.#rows[this.#order.at(index)]!.map(({ document }) => {
      const source = this.#documents.sourceOf?.(document)
      return source === undefined ? `document ${document}` : placeOf(source)
    })
  }

  /** Puts row `index`, counted over all passes, into row `row` of the batch. */
  layDown(index: number, batch: Batch, row: number): void {
    let place = row * this.#tokens
    for (const [number, piece] of this.#rows[this.#order.at(index)]!.entries()) {
      layDown(this.#documents.at(piece.document), piece, number, batch, place)
      place += piece.length
    }
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

function layDown(document: Document, piece: Piece, number: number, batch: Batch, place: number): void {
  const { tokens, weights } = document
  const { start, length } = piece
  for (let i = 0; i < length; i++) {
    batch.ids[place + i] = tokens[start + i]!
    batch.positions[place + i] = i
    batch.documents![place + i] = number
    const next = start + i + 1
    if (i === length - 1) continue
    batch.targets[place + i] = tokens[next]!
    batch.weights[place + i] = weights === undefined ? 1 : weights[next]!
  }
}

function inMemory(documents: readonly Document[]): DocumentList {
  return {
    length: documents.length,
    lengthOf: (index) => documents[index]!.tokens.length,
    at: (index) => documents[index]!,
  }
}

function piecesOf(documents: DocumentList, rowTokens: number): Piece[] {
  const pieces: Piece[] = []
  for (let document = 0; document < documents.length; document++) {
    const tokens = documents.lengthOf(document)
    // Neighbouring pieces share a token: the last of one is only a target, the first of the next only context.
    for (let start = 0; start < tokens - 1; start += rowTokens - 1) {
      pieces.push({ document, start, length: Math.min(rowTokens, tokens - start) })
    }
  }
  return pieces
}

/** Longest first, each into the row that it fills best. */
function packRows(pieces: readonly Piece[], rowTokens: number): Piece[][] {
  const longestFirst = pieces.map((piece, index) => ({ piece, index }))
  longestFirst.sort((a, b) => b.piece.length - a.piece.length || a.index - b.index)
  const rows: Piece[][] = []
  // open[room] holds rows with exactly that much room, so that a fit is found without looking at full rows.
  const open: number[][] = Array.from({ length: rowTokens + 1 }, () => [])
  for (const { piece } of longestFirst) {
    let room = piece.length
    while (room <= rowTokens && open[room]!.length === 0) room++
    const row = room <= rowTokens ? open[room]!.pop()! : rows.push([]) - 1
    const left = Math.min(room, rowTokens) - piece.length
    rows[row]!.push(piece)
    if (left >= 2) open[left]!.push(row)
  }
  return rows
}
