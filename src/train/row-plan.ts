/**
 * Which pieces of which documents make up each row, in typed arrays: 16 bytes a piece and 4 a row, so that ten million
 * documents are planned in a few hundred megabytes and some seconds.
 */
import { assert } from '../base/assert.ts'

/** Documents and their lengths in tokens. */
export interface Lengths {
  readonly length: number
  lengthOf(index: number): number
}

/** Tokens of one document, at most: places in it are 32-bit numbers. */
const documentTokensMax = 0xffffffff

export class RowPlan {
  readonly rows: number
  readonly heldTokens: number
  /** [pieces], those of a row behind one another: number of the document, place of its first token, length. */
  readonly #documents: Uint32Array
  readonly #starts: Uint32Array
  readonly #lengths: Uint32Array
  /** [rows + 1]: the first piece of each row. */
  readonly #rowStarts: Uint32Array

  constructor(documents: Uint32Array, starts: Uint32Array, lengths: Uint32Array, rowStarts: Uint32Array) {
    this.rows = rowStarts.length - 1
    let held = 0
    for (let piece = 0; piece < lengths.length; piece++) held += lengths[piece]!
    this.heldTokens = held
    this.#documents = documents
    this.#starts = starts
    this.#lengths = lengths
    this.#rowStarts = rowStarts
  }

  get bytes(): number {
    return 3 * this.#documents.byteLength + this.#rowStarts.byteLength
  }

  /** The pieces of a row in order. */
  eachPiece(row: number, take: (document: number, start: number, length: number) => void): void {
    for (let piece = this.#rowStarts[row]!; piece < this.#rowStarts[row + 1]!; piece++)
      take(this.#documents[piece]!, this.#starts[piece]!, this.#lengths[piece]!)
  }
}

/**
 * Cuts documents that are longer than a row into pieces of one row, and packs the pieces: longest first, each into the
 * row that it fills best (best-fit decreasing). Takes time in proportion to the pieces.
 */
export function planRows(documents: Lengths, rowTokens: number): RowPlan {
  const pieces = piecesOf(documents, rowTokens)
  const order = longestFirst(pieces.lengths, rowTokens)
  const { rowOf, rows } = packed(pieces.lengths, order, rowTokens)
  // The pieces of each row behind one another, in the order in which they came into it.
  const rowStarts = new Uint32Array(rows + 1)
  for (let piece = 0; piece < rowOf.length; piece++) rowStarts[rowOf[piece]! + 1]!++
  for (let row = 0; row < rows; row++) rowStarts[row + 1]! += rowStarts[row]!
  const next = rowStarts.slice(0, rows)
  const places = new Uint32Array(order.length)
  for (let i = 0; i < order.length; i++) places[next[rowOf[order[i]!]!]!++] = order[i]!
  const chosen = (values: Uint32Array) => {
    const out = new Uint32Array(values.length)
    for (let i = 0; i < places.length; i++) out[i] = values[places[i]!]!
    return out
  }
  return new RowPlan(chosen(pieces.documents), chosen(pieces.starts), chosen(pieces.lengths), rowStarts)
}

interface Pieces {
  documents: Uint32Array
  starts: Uint32Array
  lengths: Uint32Array
}

function piecesOf(documents: Lengths, rowTokens: number): Pieces {
  let count = 0
  for (let document = 0; document < documents.length; document++) {
    const tokens = documents.lengthOf(document)
    assert(tokens <= documentTokensMax, 'places in a document are 32-bit numbers')
    if (tokens > 1) count += Math.ceil((tokens - 1) / (rowTokens - 1))
  }
  const pieces = {
    documents: new Uint32Array(count),
    starts: new Uint32Array(count),
    lengths: new Uint32Array(count),
  }
  let piece = 0
  for (let document = 0; document < documents.length; document++) {
    const tokens = documents.lengthOf(document)
    // Neighbouring pieces share a token: the last of one is only a target, the first of the next only context.
    for (let start = 0; start < tokens - 1; start += rowTokens - 1) {
      pieces.documents[piece] = document
      pieces.starts[piece] = start
      pieces.lengths[piece] = Math.min(rowTokens, tokens - start)
      piece++
    }
  }
  return pieces
}

/** Numbers of the pieces, the longest first, equals in their order (counting sort). */
function longestFirst(lengths: Uint32Array, rowTokens: number): Uint32Array {
  const places = new Uint32Array(rowTokens + 2)
  for (let piece = 0; piece < lengths.length; piece++) places[rowTokens - lengths[piece]! + 1]!++
  for (let i = 1; i < places.length; i++) places[i]! += places[i - 1]!
  const order = new Uint32Array(lengths.length)
  for (let piece = 0; piece < lengths.length; piece++) order[places[rowTokens - lengths[piece]!]!++] = piece
  return order
}

function packed(
  lengths: Uint32Array,
  order: Uint32Array,
  rowTokens: number,
): { rowOf: Uint32Array; rows: number } {
  const rowOf = new Uint32Array(lengths.length)
  const open = new OpenRows(rowTokens, lengths.length)
  let rows = 0
  for (let i = 0; i < order.length; i++) {
    const piece = order[i]!
    const length = lengths[piece]!
    const room = open.roomFor(length)
    const row = room === undefined ? rows++ : open.take(room)
    rowOf[piece] = row
    const left = (room ?? rowTokens) - length
    if (left >= 2) open.add(left, row)
  }
  return { rowOf, rows }
}

/** Rows by how much room they have; of those with equal room, the last that was added comes first. */
class OpenRows {
  /** By room: one more than the row on top, or 0. */
  readonly #tops: Uint32Array
  /** By row: one more than the row below it, or 0. */
  readonly #below: Uint32Array
  /** A bit for each room that some row has, and one for each word of those that has a bit. */
  readonly #rooms: Uint32Array
  readonly #words: Uint32Array

  constructor(rowTokens: number, rowsMax: number) {
    this.#tops = new Uint32Array(rowTokens + 1)
    this.#below = new Uint32Array(rowsMax)
    this.#rooms = new Uint32Array((rowTokens >> 5) + 1)
    this.#words = new Uint32Array((rowTokens >> 10) + 1)
  }

  /** The least room of `length` or more; undefined where no row has it. */
  roomFor(length: number): number | undefined {
    if (length >= this.#tops.length) return undefined
    const word = length >> 5
    const here = (this.#rooms[word]! & (-1 << (length & 31))) >>> 0
    if (here !== 0) return word * 32 + lowestBit(here)
    const found = this.#wordBehind(word)
    return found === undefined ? undefined : found * 32 + lowestBit(this.#rooms[found]!)
  }

  #wordBehind(word: number): number | undefined {
    const first = word + 1
    for (let i = first >> 5; i < this.#words.length; i++) {
      const mask = i === first >> 5 ? -1 << (first & 31) : -1
      const bits = (this.#words[i]! & mask) >>> 0
      if (bits !== 0) return i * 32 + lowestBit(bits)
    }
    return undefined
  }

  add(room: number, row: number): void {
    this.#below[row] = this.#tops[room]!
    this.#tops[room] = row + 1
    this.#rooms[room >> 5]! |= 1 << (room & 31)
    this.#words[room >> 10]! |= 1 << ((room >> 5) & 31)
  }

  take(room: number): number {
    const row = this.#tops[room]! - 1
    this.#tops[room] = this.#below[row]!
    if (this.#tops[room] === 0) {
      this.#rooms[room >> 5]! &= ~(1 << (room & 31))
      if (this.#rooms[room >> 5] === 0) this.#words[room >> 10]! &= ~(1 << ((room >> 5) & 31))
    }
    return row
  }
}

function lowestBit(bits: number): number {
  return 31 - Math.clz32(bits & -bits)
}
