import { bytesOf } from '../../base/dtype.ts'
import { dequantize } from '../../formats/convert.ts'
import type { Tensor } from '../../runtime/tensor.ts'

/** Sum of the squares of every row of a weight [rows, columns], in float64, whatever its number format. */
export function rowSquares(weight: Tensor): Float64Array {
  const [rows, columns] = weight.shape as [number, number]
  const bytes = new Uint8Array(bytesOf(weight.dtype, columns))
  return Float64Array.from({ length: rows }, (_, row) => {
    weight.read(bytes, row * bytes.length)
    return dequantize(weight.dtype, bytes).reduce((sum, value) => sum + value * value, 0)
  })
}
