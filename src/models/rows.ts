/** Rows of tensors on their way from a file into memory: read, decoded and encoded again. */
import { bytesOf, type DType, dtypes } from '../base/dtype.ts'
import { dequantize } from '../formats/convert.ts'
import type { Ggml } from '../runtime/ffi.ts'
import type { OpenModel } from './open.ts'

/** Reads `count` rows from row `row` on; `order` says which row of the file each one is. */
export function readRows(
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

/** Rows in another number format; the same bytes when it is the same. */
export function convertRows(
  ggml: Ggml,
  bytes: Uint8Array,
  from: DType,
  into: DType,
  rows: number,
  perRow: number,
): Uint8Array {
  if (from === into) return bytes
  return encodeRows(ggml, toFloats(ggml, bytes, from, rows * perRow), into, rows, perRow)
}

/** Decodes any format to float32. */
export function toFloats(ggml: Ggml, bytes: Uint8Array, dtype: DType, count: number): Float32Array {
  const out = new Float32Array(count)
  if (dtype === 'F32') new Uint8Array(out.buffer).set(bytes)
  else if (dtype === 'F16') ggml.fp16ToFp32Row(bytes, out, count)
  else if (dtype === 'BF16') ggml.bf16ToFp32Row(bytes, out, count)
  else out.set(dequantize(dtype, bytes, count))
  return out
}

/** Encodes rows of float32 numbers. */
export function encodeRows(
  ggml: Ggml,
  values: Float32Array,
  dtype: DType,
  rows: number,
  perRow: number,
): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  const out = new Uint8Array(bytesOf(dtype, rows * perRow))
  if (dtype === 'F16') ggml.fp32ToFp16Row(values, out, rows * perRow)
  else if (dtype === 'BF16') ggml.fp32ToBf16Row(values, out, rows * perRow)
  else ggml.quantizeChunk(dtypes[dtype].ggml, values, out, 0, rows, perRow, null)
  return out
}
