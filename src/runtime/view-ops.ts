/** Operations that move elements or look at them otherwise. */
import { assert } from '../base/assert.ts'
import { type DType, dtypes } from '../base/dtype.ts'
import type { Pointer } from './ffi.ts'
import type { OpAttributes } from './op-attributes.ts'
import { broadcasts, OpMaker } from './op-maker.ts'
import { contiguousStrides, ggmlLengths, type Shape, type Tensor } from './tensor.ts'

export class ViewOps extends OpMaker {
  /** A tensor of x's shape that holds `value` everywhere; x must be contiguous. */
  fill(x: Tensor, value: number) {
    assert(x.contiguous, 'fill takes the shape of a contiguous tensor')
    const pointer = this.arena.ggml.fill(this.arena.context, x.pointer, value)
    return this.make('fill', pointer, x.shape, [x], { value })
  }

  /** Repeats x until it has the shape of `like`. */
  repeat(x: Tensor, like: Tensor) {
    assert(broadcasts(x.shape, like.shape), `repeat: ${x.shape} repeats into ${like.shape}`)
    const pointer = this.arena.ggml.repeat(this.arena.context, x.pointer, like.pointer)
    return this.make('repeat', pointer, like.shape, [x, like], {}, x.dtype)
  }

  /** The reverse of {@link repeat}: sums the repetitions of x down to the shape of `like`. */
  repeatBack(x: Tensor, like: Tensor) {
    const pointer = this.arena.ggml.repeatBack(this.arena.context, x.pointer, like.pointer)
    return this.make('repeatBack', pointer, like.shape, [x, like], {})
  }

  concat(a: Tensor, b: Tensor, dimension: number) {
    const shape = a.shape.map((length, i) => (i === dimension ? length + b.shape[i]! : length))
    const native = a.shape.length - 1 - dimension
    const pointer = this.arena.ggml.concat(this.arena.context, a.pointer, b.pointer, native)
    return this.make('concat', pointer, shape, [a, b], { dimension }, a.dtype)
  }

  /** A packed copy; needed behind permute and slice where an op wants contiguous rows. */
  contiguous(x: Tensor) {
    const own = x.dtype === 'F32' ? this.kernelOp('packed', {}, x.shape, [x]) : undefined
    const pointer = own ?? this.arena.ggml.cont(this.arena.context, x.pointer)
    return this.make('contiguous', pointer, x.shape, [x], {}, x.dtype)
  }

  cast(x: Tensor, dtype: DType) {
    const pointer = this.arena.ggml.cast(this.arena.context, x.pointer, dtypes[dtype].ggml)
    return this.make('cast', pointer, x.shape, [x], {}, dtype)
  }

  /** Copies x into the memory of `into` (same number of elements), converting. */
  copy(x: Tensor, into: Tensor) {
    const pointer = this.arena.ggml.cpy(this.arena.context, x.pointer, into.pointer)
    return this.make('copy', pointer, into.shape, [x, into], {}, into.dtype)
  }

  /** The same elements in another shape; x must be contiguous. */
  reshape(x: Tensor, shape: Shape) {
    assert(x.contiguous, 'reshape needs contiguous elements')
    const size = shape.reduce((product, length) => product * length, 1)
    assert(size === x.size, `reshape keeps ${x.shape}, not ${shape}`)
    const pointer = this.arena.ggml.reshape4d(this.arena.context, x.pointer, ...ggmlLengths(shape))
    return this.make('reshape', pointer, shape, [x], {}, x.dtype)
  }

  /** [N, count*width] as [N, count, width], without a copy also where the rows are strided. */
  splitRows(x: Tensor, count: number, width: number): Tensor {
    const rows = x.shape[0]!
    if (x.contiguous) return this.reshape(x, [rows, count, width])
    const [rowStride, elementStride] = x.strides as [number, number]
    const shape = [rows, count, width]
    const strides = [rowStride, width * elementStride, elementStride]
    return this.make('splitRows', this.#view(x, shape, strides, 0), shape, [x], {}, x.dtype, strides)
  }

  /** The reverse of {@link splitRows}; packs what was not split from one tensor. */
  joinRows(x: Tensor): Tensor {
    const [rows, count, width] = x.shape as [number, number, number]
    if (x.op === 'splitRows') return x.inputs[0]!
    return this.reshape(x.contiguous ? x : this.contiguous(x), [rows, count * width])
  }

  /** {@link narrowed} also through views: the same look at what they look at. */
  protected factor(x: Tensor): Tensor {
    const narrow = this.narrowed(x)
    if (narrow !== x || (x.op !== 'reshape' && x.op !== 'splitRows' && x.op !== 'slice')) return narrow
    const seen = x.inputs[0]!
    const base = this.factor(seen)
    if (base === seen) return x
    if (x.op === 'reshape') return this.reshape(base, x.shape)
    if (x.op === 'splitRows') return this.splitRows(base, x.shape[1]!, x.shape[2]!)
    const { dimension, start } = x.attributes as OpAttributes['slice']
    return this.slice(base, dimension, start, x.shape[dimension]!)
  }

  /** Elements [start, start+length) of one dimension, without a copy. */
  slice(x: Tensor, dimension: number, start: number, length: number) {
    assert(start >= 0 && start + length <= x.shape[dimension]!, 'a slice stays inside its tensor')
    const shape = x.shape.map((old, i) => (i === dimension ? length : old))
    const innermost = dimension === x.shape.length - 1
    const step = innermost ? dtypes[x.dtype].bytes / dtypes[x.dtype].block : x.strides[dimension]!
    const pointer = this.#view(x, shape, x.strides, start * step)
    return this.make('slice', pointer, shape, [x], { dimension, start }, x.dtype, x.strides)
  }

  /** Any strided look at x's memory: shape, strides and offset in bytes. Has no gradient. */
  window(x: Tensor, shape: Shape, strides: readonly number[], offset: number) {
    const pointer = this.#view(x, shape, strides, offset)
    return this.make('window', pointer, shape, [x], { offset }, x.dtype, strides)
  }

  /** The bits of a contiguous x as numbers of another format in another shape. Has no gradient. */
  retyped(x: Tensor, dtype: DType, shape: Shape) {
    const strides = contiguousStrides(dtype, shape)
    assert(x.contiguous && strides[0]! * shape[0]! === x.bytes, 'the same bits make the other tensor')
    const pointer = this.#view(x, x.shape, x.strides, 0)
    const lengths = ggmlLengths(shape)
    const native = lengths.map((_, i) => (i < shape.length ? strides[shape.length - 1 - i]! : x.bytes))
    this.arena.ggml.retype(pointer, dtypes[dtype].ggml, lengths, native)
    return this.make('window', pointer, shape, [x], { offset: 0 }, dtype)
  }

  #view(x: Tensor, shape: Shape, strides: readonly number[], offset: number): Pointer {
    const rank = shape.length
    assert(
      shape.at(-1) === 1 || strides.at(-1) === dtypes[x.dtype].bytes,
      'a view reads neighbours in its innermost dimension: slice before permuting',
    )
    // ggml wants nb1..nb3; dimensions beyond the rank have length one, so any stride serves.
    const nb = (i: number) => (rank - 1 - i >= 0 ? strides[rank - 1 - i]! : strides[0]! * shape[0]!)
    const { ggml, context } = this.arena
    return ggml.view4d(context, x.pointer, ...ggmlLengths(shape), nb(1), nb(2), nb(3), offset)
  }

  /** Dimension i of the result is dimension order[i] of x, as in numpy's transpose; no copy. */
  permute(x: Tensor, order: readonly number[]) {
    const rank = x.shape.length
    const axes = [0, 1, 2, 3]
    for (let i = 0; i < rank; i++) axes[rank - 1 - order[i]!] = rank - 1 - i
    const { ggml, context } = this.arena
    const pointer = ggml.permute(context, x.pointer, axes[0]!, axes[1]!, axes[2]!, axes[3]!)
    const shape = order.map((from) => x.shape[from]!)
    const strides = order.map((from) => x.strides[from]!)
    return this.make('permute', pointer, shape, [x], { order }, x.dtype, strides)
  }

  /** Swaps the two innermost dimensions and packs: what {@link matmul} wants to sum over the other side. */
  transposed(x: Tensor): Tensor {
    const [rows, columns] = x.shape.slice(-2) as [number, number]
    const outer = x.shape.slice(0, -2)
    const order = [...outer.keys(), outer.length + 1, outer.length]
    // Only our products take it, and they read the weight itself: nobody computes this node.
    if (this.readsFrozen(x))
      return this.make('transposed', this.permute(x, order).pointer, [columns, rows], [x], {}, x.dtype)
    if (!x.contiguous || x.dtype !== 'F32' || columns % 2 !== 0)
      return this.contiguous(this.permute(x, order))
    // ggml joins two strided halves 1.3 to 1.9 times as fast as it packs one strided whole, in threads over
    // the third dimension: without outer dimensions, pairs of columns make one.
    const batches = outer.reduce((product, length) => product * length, 1)
    const split =
      outer.length > 0 ? this.reshape(x, [batches, rows, columns]) : this.reshape(x, [rows, columns / 2, 2])
    const length = split.shape[2]! / 2
    const half = (start: number) =>
      this.permute(this.slice(split, 2, start, length), outer.length > 0 ? [0, 2, 1] : [1, 2, 0])
    const packed = this.concat(half(0), half(length), 1)
    const shape = [...outer, columns, rows]
    return this.make('transposed', this.reshape(packed, shape).pointer, shape, [x], {})
  }

  /** x for the eyes of the trainer: its gradient goes no further than here. */
  detached(x: Tensor): Tensor {
    return this.make('detached', x.pointer, x.shape, [], {}, x.dtype, x.strides)
  }
}
