import type { DType } from '../base/dtype.ts'

/**
 * Named tensors in files, whatever the format: what exists, and its encoded bytes on demand.
 *
 * The bytes go straight into memory that the caller owns, so a model that is larger than the
 * JavaScript heap is loaded piece by piece into native buffers.
 */
export interface TensorSource extends Disposable {
  readonly path: string
  /** Names in the order of the file's own header. */
  names(): string[]
  info(name: string): TensorInfo | undefined
  /**
   * Reads bytes [offset, offset + into.length) of the tensor's encoded data into `into`, which may be a
   * view over native memory. Throws UserError when the file ends early; a name or a range that does not
   * exist is the caller's broken promise.
   */
  read(name: string, into: Uint8Array, offset?: number): void
}

export interface TensorInfo {
  readonly name: string
  readonly dtype: DType
  /** Outermost dimension first, as Hugging Face writes it; GGUF's `ne` reversed. */
  readonly shape: readonly number[]
  /** Size of the encoded data. */
  readonly bytes: number
}

/** A tensor on its way into a file. `data` yields the encoded bytes, in order; a piece may be reused after it was taken. */
export interface TensorToWrite {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly data: Uint8Array | (() => Iterable<Uint8Array>)
}

/** The encoded bytes of one tensor in pieces of at most `pieceBytes`. Every piece is the same memory: use it before the next. */
export function* piecesOf(
  source: TensorSource,
  info: TensorInfo,
  pieceBytes = 4 << 20,
): Generator<Uint8Array> {
  const piece = new Uint8Array(Math.min(pieceBytes, info.bytes))
  for (let offset = 0; offset < info.bytes; offset += piece.length) {
    const part = piece.subarray(0, Math.min(piece.length, info.bytes - offset))
    source.read(info.name, part, offset)
    yield part
  }
}
