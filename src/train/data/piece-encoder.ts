/** Tokens of a text that streams in. */
import type { EncodeOptions, Tokenizer } from '../../tokenizer/tokenizer.ts'
import { TextCutter, type TextPiece } from './text-cutter.ts'

const plain = { addSpecial: false, parseSpecial: false } as const

export class PieceEncoder {
  readonly #tokenizer: Tokenizer
  readonly #cutter: TextCutter
  readonly #options: EncodeOptions

  /** `units`: characters of a piece, where not the usual number. `options`: how it is read, where special tokens are not all that is plain. */
  constructor(tokenizer: Tokenizer, units?: number, options: EncodeOptions = plain) {
    this.#tokenizer = tokenizer
    this.#options = options
    const isSeam = (before: string, behind: string) => {
      const alone = tokenizer.encode(before, options)
      const together = tokenizer.encode(before + behind, options)
      return alone.every((token, i) => token === together[i])
    }
    this.#cutter = new TextCutter(isSeam, units)
  }

  /** Tokens of what is complete with `text`, in order. */
  *push(text: string): Generator<Int32Array> {
    for (const piece of this.#cutter.push(text)) yield this.#encoded(piece)
  }

  *end(): Generator<Int32Array> {
    for (const piece of this.#cutter.end()) yield this.#encoded(piece)
  }

  /** A tokenizer may put something before the beginning of a text, so a later piece is encoded behind what precedes it. */
  #encoded({ text, before }: TextPiece): Int32Array {
    const skipped = before === '' ? 0 : this.#tokenizer.encode(before, this.#options).length
    return this.#tokenizer.encodeTyped(before + text, this.#options).subarray(skipped)
  }
}
