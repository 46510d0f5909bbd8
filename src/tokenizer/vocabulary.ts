import { UserError } from '../base/errors.ts'

/** The pieces of a model and their ids, both ways. */
export class Vocabulary {
  readonly #ids: ReadonlyMap<string, number>
  readonly #pieces: (string | undefined)[]

  private constructor(ids: ReadonlyMap<string, number>, pieces: (string | undefined)[]) {
    this.#ids = ids
    this.#pieces = pieces
  }

  /** From pieces in the order of their ids; where a piece repeats, the first id encodes it. */
  static fromPieces(pieces: readonly string[]): Vocabulary {
    const ids = new Map<string, number>()
    for (const [id, piece] of pieces.entries()) if (!ids.has(piece)) ids.set(piece, id)
    return new Vocabulary(ids, [...pieces])
  }

  /** From the `vocab` object of a tokenizer.json: piece -> id. */
  static fromObject(object: Readonly<Record<string, unknown>>): Vocabulary {
    const ids = new Map<string, number>()
    const names = Object.keys(object)
    const pieces: (string | undefined)[] = new Array(names.length).fill(undefined)
    for (const piece of names) {
      const id = object[piece]
      if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= idLimit)
        throw new UserError(
          `model.vocab: the id of ${JSON.stringify(piece)} is not a whole number below ${idLimit}`,
        )
      ids.set(piece, id)
      pieces[id] = piece
    }
    return new Vocabulary(ids, pieces)
  }

  /** Ids run below this. */
  get size(): number {
    return this.#pieces.length
  }

  idOf(piece: string): number | undefined {
    return this.#ids.get(piece)
  }

  pieceOf(id: number): string | undefined {
    return this.#pieces[id]
  }

  entries(): IterableIterator<[string, number]> {
    return this.#ids.entries()
  }
}

/** Far above every vocabulary in use; a wild id would otherwise allocate its own size. */
const idLimit = 1 << 24
