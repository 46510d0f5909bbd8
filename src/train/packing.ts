/**
 * Documents packed into rows without contamination: positions start again with each document, attention does
 * not reach into the neighbour, and no document's first token is a target of the one before.
 */

import { UserError } from '../base/errors.ts'
import { deriveSeed, Random } from '../base/random.ts'
import type { Batch, BatchSource } from './batch.ts'
import type { Sample } from './data/sample.ts'

/** A sample, or tokens that all count. */
export type Document = Pick<Sample, 'tokens'> & Partial<Pick<Sample, 'weights'>>

/** Documents by number, so that they may lie in a file: packing asks for lengths only, a batch for its own. */
export interface DocumentList {
  readonly length: number
  lengthOf(index: number): number
  at(index: number): Document
}

interface Piece {
  /** Number of its document. */
  document: number
  start: number
  length: number
}

export class PackedDocuments implements BatchSource {
  readonly #documents: DocumentList
  readonly #rows: readonly (readonly Piece[])[]
  readonly #sequences: number
  readonly #tokens: number
  readonly #seed: number
  #shuffled: { epoch: number; order: Int32Array } | undefined

  /** A document longer than a row is cut into pieces of one row. */
  constructor(
    documents: readonly Document[] | DocumentList,
    sequences: number,
    tokens: number,
    seed: number,
  ) {
    this.#documents = 'lengthOf' in documents ? documents : inMemory(documents)
    this.#rows = packRows(piecesOf(this.#documents, tokens), tokens)
    if (this.#rows.length === 0) {
      throw new UserError('No document has two tokens, so there is nothing to learn.', {
        fix: 'Give more text.',
      })
    }
    this.#sequences = sequences
    this.#tokens = tokens
    this.#seed = seed
  }

  /** Rows in one pass over all documents. */
  get rows(): number {
    return this.#rows.length
  }

  /** Share of the rows' places that hold tokens, in (0, 1]. */
  get fillRate(): number {
    const held = this.#rows.flat().reduce((sum, piece) => sum + piece.length, 0)
    return held / (this.#rows.length * this.#tokens)
  }

  at(index: number): Batch {
    const [sequences, tokens] = [this.#sequences, this.#tokens]
    const size = sequences * tokens
    const batch = {
      sequences,
      tokens,
      ids: new Int32Array(size),
      positions: new Int32Array(size),
      targets: new Int32Array(size),
      weights: new Float32Array(size),
      documents: new Int32Array(size).fill(-1),
    }
    for (let row = 0; row < sequences; row++) {
      let place = row * tokens
      for (const [number, piece] of this.#rowAt(index * sequences + row).entries()) {
        layDown(this.#documents.at(piece.document), piece, number, batch, place)
        place += piece.length
      }
    }
    return batch
  }

  /** Every pass takes each row once, in an order of its own. */
  #rowAt(index: number): readonly Piece[] {
    const count = this.#rows.length
    const epoch = Math.floor(index / count)
    if (this.#shuffled?.epoch !== epoch) {
      this.#shuffled = { epoch, order: shuffledOrder(count, deriveSeed(this.#seed, `epoch ${epoch}`)) }
    }
    return this.#rows[this.#shuffled.order[index % count]!]!
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

/** Fisher and Yates. */
function shuffledOrder(count: number, seed: number): Int32Array {
  const random = new Random(seed)
  const order = Int32Array.from({ length: count }, (_, i) => i)
  for (let i = count - 1; i > 0; i--) {
    const j = random.integer(i + 1)
    const kept = order[i]!
    order[i] = order[j]!
    order[j] = kept
  }
  return order
}
