/** Rows of parameters on their way from a file into memory: read, put in order, decoded and encoded again. */
import { assert } from '../base/assert.ts'
import { bytesOf, type DType, dtypes } from '../base/dtype.ts'
import { dequantize } from '../formats/convert.ts'
import type { Ggml } from '../runtime/ffi.ts'
import type { OpenModel } from './open.ts'

/** What one step of a conversion handles. */
const pieceBytesMax = 4 << 20

/**
 * The number format in which a parameter is kept: the file's own, or what `--quantize` asks for. Block formats
 * hold whole blocks per row; a row that does not fit keeps half precision.
 */
export function keptDtype(stored: DType, perRow: number, quantize: DType | undefined): DType {
  const wanted = quantize ?? stored
  if (perRow % dtypes[wanted].block !== 0) return 'F16'
  return wanted === 'F64' ? 'F32' : wanted
}

export interface RowPiece {
  /** First row of the piece. */
  row: number
  rows: number
  /** Encoded in the format that was asked for; valid until the next piece. */
  bytes: Uint8Array
}

/**
 * Memory of conversions that is used again for every piece: left to the garbage collector, the pieces of a model were
 * half as much as the model beside it.
 */
export class RowScratch {
  readonly #buffers = {
    read: new ArrayBuffer(0),
    floats: new ArrayBuffer(0),
    turned: new ArrayBuffer(0),
    encoded: new ArrayBuffer(0),
  }

  /** The first `length` bytes; what was there before is gone. */
  bytes(use: 'read' | 'floats' | 'turned' | 'encoded', length: number): Uint8Array<ArrayBuffer> {
    if (this.#buffers[use].byteLength < length) this.#buffers[use] = new ArrayBuffer(length)
    return new Uint8Array(this.#buffers[use], 0, length)
  }

  floats(count: number, use: 'floats' | 'turned' = 'floats'): Float32Array<ArrayBuffer> {
    return new Float32Array(this.bytes(use, 4 * count).buffer, 0, count)
  }
}

/** Some rows of a parameter that is stored as it lies in memory. */
export interface RowRange {
  row: number
  rows: number
}

/** The rows [outputs, inputs] of parameter `name` in order, or those of `range`, encoded as `dtype`, a few megabytes at a time. */
export function* rowsOf(
  model: OpenModel,
  ggml: Ggml,
  name: string,
  dtype: DType,
  scratch = new RowScratch(),
  range?: RowRange,
): Generator<RowPiece> {
  const info = model.info(name)!
  if (model.transposed(name)) {
    assert(range === undefined, 'what is stored transposed is read whole')
    const [inputs, outputs] = info.shape as [number, number]
    const turned = transposedFloats(model, ggml, name, inputs, outputs, scratch)
    const into = scratch.bytes('encoded', dtype === 'F32' ? 0 : bytesOf(dtype, inputs * outputs))
    yield { row: 0, rows: outputs, bytes: encodeRows(ggml, turned, dtype, outputs, inputs, into) }
    return
  }
  // A vector is rows of one element, because a file's row order may touch a bias too.
  const order = model.rowOrder(name)
  const vector = info.shape.length < 2
  const perRow = vector && order !== undefined ? 1 : info.shape.at(-1)!
  const all = info.shape.reduce((a, b) => a * b, 1) / perRow
  const [first, total] = range === undefined ? [0, all] : [range.row, range.rows]
  assert(first + total <= all, `${name} has the rows that are asked for`)
  const rowBytes = bytesOf(info.dtype, perRow)
  const step = Math.max(1, Math.min(total, Math.floor(pieceBytesMax / Math.max(rowBytes, perRow * 4))))
  const piece = scratch.bytes('read', step * rowBytes)
  for (let row = first; row < first + total; row += step) {
    const rows = Math.min(step, first + total - row)
    const bytes = piece.subarray(0, rows * rowBytes)
    readRows(model, name, bytes, row, rows, rowBytes, order)
    yield { row, rows, bytes: convertRows(ggml, bytes, info.dtype, dtype, rows, perRow, scratch) }
  }
}

/** A whole vector as floats, in order. */
export function vectorOf(model: OpenModel, ggml: Ggml, name: string): Float32Array {
  const size = model.info(name)!.shape.reduce((a, b) => a * b, 1)
  const out = new Float32Array(size)
  const into = new Uint8Array(out.buffer)
  let at = 0
  for (const { bytes } of rowsOf(model, ggml, name, 'F32')) {
    into.set(bytes, at)
    at += bytes.length
  }
  return out
}

function readRows(
  model: OpenModel,
  name: string,
  into: Uint8Array,
  row: number,
  count: number,
  rowBytes: number,
  order: Int32Array | undefined,
): void {
  if (order === undefined) {
    model.read(name, into, row * rowBytes)
    return
  }
  for (let i = 0; i < count; i++) {
    model.read(name, into.subarray(i * rowBytes, (i + 1) * rowBytes), order[row + i]! * rowBytes)
  }
}

function transposedFloats(
  model: OpenModel,
  ggml: Ggml,
  name: string,
  inputs: number,
  outputs: number,
  scratch: RowScratch,
): Float32Array {
  const info = model.info(name)!
  const count = inputs * outputs
  const bytes = scratch.bytes('read', info.bytes)
  model.read(name, bytes)
  const stored =
    info.dtype === 'F32'
      ? new Float32Array(bytes.buffer, 0, count)
      : toFloats(ggml, bytes, info.dtype, count, scratch.floats(count)) //                  [inputs, outputs]
  const turned = scratch.floats(count, 'turned')
  for (let i = 0; i < inputs; i++) {
    for (let o = 0; o < outputs; o++) turned[o * inputs + i] = stored[i * outputs + o]!
  }
  return turned
}

function convertRows(
  ggml: Ggml,
  bytes: Uint8Array,
  from: DType,
  into: DType,
  rows: number,
  perRow: number,
  scratch: RowScratch,
): Uint8Array {
  if (from === into) return bytes
  const count = rows * perRow
  const floats = toFloats(ggml, bytes, from, count, scratch.floats(count))
  return encodeRows(ggml, floats, into, rows, perRow, scratch.bytes('encoded', bytesOf(into, count)))
}

/** Decodes any format to float32. */
function toFloats(
  ggml: Ggml,
  bytes: Uint8Array,
  dtype: DType,
  count: number,
  out = new Float32Array(count),
): Float32Array {
  if (dtype === 'F32') new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes)
  else if (dtype === 'F16') ggml.fp16ToFp32Row(bytes, out, count)
  else if (dtype === 'BF16') ggml.bf16ToFp32Row(bytes, out, count)
  else out.set(dequantize(dtype, bytes, count))
  return out
}

/** Encodes rows of float32 numbers, into `out` where it is given. */
export function encodeRows(
  ggml: Ggml,
  values: Float32Array,
  dtype: DType,
  rows: number,
  perRow: number,
  out = new Uint8Array(bytesOf(dtype, rows * perRow)),
): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  if (dtype === 'F16') ggml.fp32ToFp16Row(values, out, rows * perRow)
  else if (dtype === 'BF16') ggml.fp32ToBf16Row(values, out, rows * perRow)
  else ggml.quantizeChunk(dtypes[dtype].ggml, values, out, 0, rows, perRow, null)
  return out
}
