/**
 * Cuts a text that streams in into pieces at places where encoding does not look across, so that the pieces' tokens
 * behind one another are those of the whole text.
 *
 * A place is such a one when what stands before it is encoded to the same tokens with and without what follows; this
 * is tried on the text around it. Line ends are tried first, then spaces, then places between any two characters.
 * Where none of those tried will do, the piece ends at the last line end (or space, or character) all the same, and a
 * token beside that seam may be another than in the whole text.
 */

/** Characters of one piece, about: what encoding notes of a text takes fifty times its memory. */
const pieceUnits = 1 << 18
/** A place is judged by so much text on each side. */
const sightUnits = 512
/** Places of each kind that are tried. */
const triesMax = 48

export interface TextPiece {
  text: string
  /** The end of the piece before, for tokenizers that treat the beginning of a text otherwise; empty at the first. */
  before: string
}

export class TextCutter {
  readonly #isSeam: (before: string, behind: string) => boolean
  readonly #units: number
  #held = ''
  #before = ''

  /** `isSeam`: whether `before` is encoded alike with and without `behind`. */
  constructor(isSeam: (before: string, behind: string) => boolean, units = pieceUnits) {
    this.#isSeam = isSeam
    this.#units = units
  }

  /** The pieces that are complete with `text`; they do not depend on how the text was handed over. */
  *push(text: string): Generator<TextPiece> {
    this.#held += text
    const least = this.#units + sightUnits
    let start = 0
    while (this.#held.length - start >= least) {
      const window = this.#held.slice(start, start + least)
      const { at, isSafe } = this.#seamOf(window)
      yield { text: window.slice(0, at), before: this.#before }
      this.#before = isSafe ? window.slice(Math.max(0, at - sightUnits), at) : ''
      start += at
    }
    if (start > 0) this.#held = this.#held.slice(start)
  }

  *end(): Generator<TextPiece> {
    if (this.#held !== '') yield { text: this.#held, before: this.#before }
    this.#held = ''
    this.#before = ''
  }

  #seamOf(window: string): { at: number; isSafe: boolean } {
    let forced: number | undefined
    for (const places of [lineEnds, spaces, characters]) {
      for (const at of places(window, this.#units)) {
        forced ??= at
        const before = window.slice(Math.max(0, at - sightUnits), at)
        if (this.#isSeam(before, window.slice(at, at + sightUnits))) return { at, isSafe: true }
      }
    }
    return { at: forced ?? this.#units, isSafe: false }
  }
}

function* lineEnds(text: string, last: number): Generator<number> {
  let at = text.lastIndexOf('\n', last - 1)
  for (let i = 0; i < triesMax && at > 0; i++, at = text.lastIndexOf('\n', at - 1)) {
    // Behind a line end, and before it: which one is a seam is the tokenizer's choice.
    yield at + 1
    yield at
  }
}

function* spaces(text: string, last: number): Generator<number> {
  let at = text.lastIndexOf(' ', last - 1)
  for (let i = 0; i < triesMax && at > 0; i++, at = text.lastIndexOf(' ', at - 1)) yield at
}

function* characters(text: string, last: number): Generator<number> {
  const isHalf = (at: number) => (text.charCodeAt(at) & 0xfc00) === 0xdc00
  for (let at = last; at > Math.max(1, last - triesMax); at--) if (!isHalf(at)) yield at
}
