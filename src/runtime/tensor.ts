import { assert } from '../base/assert.ts'
import { bytesOf, type DType, dtypes } from '../base/dtype.ts'
import type { Ggml, Pointer } from './ffi.ts'
import type { OpAttributes, OpName } from './op-attributes.ts'

/** Outermost dimension first, as in Hugging Face; at most four dimensions. ggml's `ne` is the reverse. */
export type Shape = readonly number[]

/**
 * A handle to a native tensor plus how it was made. The record of op, inputs and attributes is what the
 * trainer walks backwards; serving never looks at it.
 */
export class Tensor<Op extends OpName = OpName> {
  readonly pointer: Pointer
  readonly dtype: DType
  readonly shape: Shape
  /** Bytes between neighbours of each dimension, outermost first like `shape`. */
  readonly strides: readonly number[]
  readonly op: Op
  readonly inputs: readonly Tensor[]
  readonly attributes: OpAttributes[Op]
  readonly #ggml: Ggml

  constructor(
    ggml: Ggml,
    pointer: Pointer,
    dtype: DType,
    shape: Shape,
    strides: readonly number[],
    op: Op,
    inputs: readonly Tensor[],
    attributes: OpAttributes[Op],
  ) {
    this.#ggml = ggml
    this.pointer = pointer
    this.dtype = dtype
    this.shape = shape
    this.strides = strides
    this.op = op
    this.inputs = inputs
    this.attributes = attributes
  }

  /** Number of elements. */
  get size(): number {
    return this.shape.reduce((product, length) => product * length, 1)
  }

  /** Bytes of the whole tensor when it is contiguous. */
  get bytes(): number {
    return bytesOf(this.dtype, this.size)
  }

  get contiguous(): boolean {
    const expected = contiguousStrides(this.dtype, this.shape)
    return this.strides.every((stride, i) => this.shape[i] === 1 || stride === expected[i])
  }

  /** Copies bytes into the tensor, whatever device holds it. */
  write(data: ArrayBufferView, offset = 0): void {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    assert(offset + bytes.length <= this.bytes, 'a write stays inside its tensor')
    if (bytes.length > 0) this.#ggml.tensorSet(this.pointer, bytes, offset, bytes.length)
  }

  /** Copies bytes out of the tensor. */
  read(into: ArrayBufferView, offset = 0): void {
    const bytes = new Uint8Array(into.buffer, into.byteOffset, into.byteLength)
    assert(offset + bytes.length <= this.bytes, 'a read stays inside its tensor')
    if (bytes.length > 0) this.#ggml.tensorGet(this.pointer, bytes, offset, bytes.length)
  }

  /** All elements of an F32 tensor, copied. */
  toFloats(): Float32Array {
    assert(this.dtype === 'F32', 'toFloats reads F32')
    const out = new Float32Array(this.size)
    this.read(out)
    return out
  }

  /** Where its memory lies; valid while its arena or graph lives. */
  get address(): Pointer {
    const data = this.#ggml.getData(this.pointer)
    assert(data, 'a tensor has memory before it is looked at')
    return data
  }

  /** The tensor's own memory, for host buffers only; valid while its arena or graph lives. */
  hostView(): ArrayBuffer {
    return this.#ggml.view(this.address, this.bytes)
  }
}

export function contiguousStrides(dtype: DType, shape: Shape): number[] {
  const strides = new Array<number>(shape.length)
  let stride: number = dtypes[dtype].bytes
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride
    stride *= i === shape.length - 1 ? shape[i]! / dtypes[dtype].block : shape[i]!
  }
  return strides
}

/** ggml's four lengths, innermost first, ones where the shape has fewer dimensions. */
export function ggmlLengths(shape: Shape): [number, number, number, number] {
  const ne: [number, number, number, number] = [1, 1, 1, 1]
  for (let i = 0; i < shape.length; i++) ne[i] = shape[shape.length - 1 - i]!
  return ne
}
