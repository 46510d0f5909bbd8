import { assert } from '../base/assert.ts'
import { encodedSize } from './shape.ts'
import type { TensorToWrite } from './source.ts'

/** The size that the tensor's dtype and shape promise. */
export function writtenBytes({ name, dtype, shape }: Omit<TensorToWrite, 'data'>): number {
  const size = encodedSize(dtype, shape)
  assert(size.ok, `tensor ${name} can exist${size.ok ? '' : `: ${size.why}`}`)
  return size.bytes
}

/** The tensor's data, held to the size that the header already states. */
export function* checkedPieces(tensor: TensorToWrite): Generator<Uint8Array> {
  const due = writtenBytes(tensor)
  let written = 0
  for (const piece of typeof tensor.data === 'function' ? tensor.data() : [tensor.data]) {
    written += piece.length
    assert(written <= due, `tensor ${tensor.name} brings no more than its ${due} bytes`)
    yield piece
  }
  assert(written === due, `tensor ${tensor.name} brings all of its ${due} bytes, not ${written}`)
}

export function appendTensor(tensor: TensorToWrite, append: (bytes: Uint8Array) => void): void {
  for (const piece of checkedPieces(tensor)) append(piece)
}
