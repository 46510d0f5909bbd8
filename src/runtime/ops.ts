/**
 * The operations that models are written in. Each makes one ggml node and remembers its op, inputs and
 * attributes, so that the same definition serves and trains.
 *
 * Shapes are outermost first. M, N, K: sizes of a product; D: the innermost dimension.
 */
import { assert } from '../base/assert.ts'
import { type DType, dtypes } from '../base/dtype.ts'
import type { Arena } from './arena.ts'
import type { CustomOpPointer, Pointer } from './ffi.ts'
import type { KernelContext } from './kernels.ts'
import type { OpAttributes, OpName, RopeAttributes } from './op-attributes.ts'
import { contiguousStrides, ggmlLengths, type Shape, Tensor } from './tensor.ts'

/** GELU's 2u/x is linear + cubic x^2. */
export const geluSlope = {
  linear: 2 * Math.sqrt(2 / Math.PI),
  cubic: 2 * Math.sqrt(2 / Math.PI) * 0.044715,
} as const

export class Ops {
  readonly arena: Arena
  readonly #kernels: KernelContext | undefined

  /** With `kernels`, products of two F32 matrices run in our own; without, in ggml's. CPU only. */
  constructor(arena: Arena, kernels?: KernelContext) {
    this.arena = arena
    this.#kernels = kernels
  }

  /** True when a product reads transposed factors where they lie, so that nobody need copy them for it. */
  get readsTransposed(): boolean {
    return this.#kernels !== undefined
  }

  #make<Op extends OpName>(
    op: Op,
    pointer: Pointer,
    shape: Shape,
    inputs: readonly Tensor[],
    attributes: OpAttributes[Op],
    dtype: DType = 'F32',
    strides: readonly number[] = contiguousStrides(dtype, shape),
  ): Tensor<Op> {
    return new Tensor(this.arena.ggml, pointer, dtype, shape, strides, op, inputs, attributes)
  }

  #elementwise<Op extends 'add' | 'sub' | 'mul' | 'div'>(op: Op, a: Tensor, b: Tensor): Tensor<Op> {
    assert(broadcasts(b.shape, a.shape), `${op}: ${b.shape} repeats into ${a.shape}`)
    const pointer = this.arena.ggml[op](this.arena.context, a.pointer, b.pointer)
    return this.#make(op, pointer, a.shape, [a, b], {}, a.dtype)
  }

  #unary<Op extends 'sqr' | 'sqrt' | 'log' | 'exp' | 'sigmoid' | 'softplus' | 'silu' | 'tanh'>(
    op: Op,
    x: Tensor,
  ): Tensor<Op> {
    return this.#make(
      op,
      this.arena.ggml[op](this.arena.context, x.pointer),
      x.shape,
      [x],
      {} as OpAttributes[Op],
    )
  }

  /** a + b; b is repeated where a is longer. */
  add(a: Tensor, b: Tensor) {
    return this.#elementwise('add', a, b)
  }

  sub(a: Tensor, b: Tensor) {
    return this.#elementwise('sub', a, b)
  }

  mul(a: Tensor, b: Tensor) {
    return this.#elementwise('mul', a, b)
  }

  div(a: Tensor, b: Tensor) {
    return this.#elementwise('div', a, b)
  }

  /** Adds x to the memory of `into` (same shape). Returns `into` as it is after the addition. */
  accumulate(into: Tensor, x: Tensor) {
    const pointer = this.arena.ggml.addInplace(this.arena.context, into.pointer, x.pointer)
    return this.#make('accumulate', pointer, into.shape, [into, x], {}, into.dtype)
  }

  scale(x: Tensor, factor: number) {
    const pointer = this.arena.ggml.scale(this.arena.context, x.pointer, factor)
    return this.#make('scale', pointer, x.shape, [x], { factor })
  }

  /** x * factor + offset, in one pass. */
  affine(x: Tensor, factor: number, offset: number) {
    const pointer = this.arena.ggml.scaleBias(this.arena.context, x.pointer, factor, offset)
    return this.#make('affine', pointer, x.shape, [x], { factor, offset })
  }

  /** A tensor of x's shape that holds `value` everywhere; x must be contiguous. */
  fill(x: Tensor, value: number) {
    assert(x.contiguous, 'fill takes the shape of a contiguous tensor')
    const pointer = this.arena.ggml.fill(this.arena.context, x.pointer, value)
    return this.#make('fill', pointer, x.shape, [x], { value })
  }

  sqr(x: Tensor) {
    return this.#unary('sqr', x)
  }

  sqrt(x: Tensor) {
    return this.#unary('sqrt', x)
  }

  log(x: Tensor) {
    return this.#unary('log', x)
  }

  exp(x: Tensor) {
    return this.#unary('exp', x)
  }

  /** 1 / (1 + exp(-x)). */
  sigmoid(x: Tensor) {
    return this.#unary('sigmoid', x)
  }

  /** ln(1 + exp(x)): the negative logarithm of sigmoid(-x), without overflow. */
  softplus(x: Tensor) {
    return this.#unary('softplus', x)
  }

  silu(x: Tensor) {
    return this.#unary('silu', x)
  }

  /**
   * The tanh form of GELU, which GPT-2 calls gelu_new: 0.5 x (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3).
   *
   * ggml's own looks values up in half precision, which training does not forgive, and its tanh is slow.
   * The same function is x sigmoid(2u) = silu(x p) / p with p = 2u/x, whose steps are exact and vectorised.
   */
  gelu(x: Tensor) {
    const p = this.affine(this.sqr(x), geluSlope.cubic, geluSlope.linear)
    const y = this.div(this.silu(this.mul(x, p)), p)
    return this.#make('gelu', y.pointer, x.shape, [x], {})
  }

  tanh(x: Tensor) {
    return this.#unary('tanh', x)
  }

  /** Sum of all elements: [1]. Accumulated in float64 on the CPU. */
  sum(x: Tensor) {
    return this.#make('sum', this.arena.ggml.sum(this.arena.context, x.pointer), [1], [x], {})
  }

  /** Sum over the innermost dimension: [..., D] -> [..., 1]. */
  sumRows(x: Tensor) {
    const pointer = this.arena.ggml.sumRows(this.arena.context, x.pointer)
    return this.#make('sumRows', pointer, [...x.shape.slice(0, -1), 1], [x], {})
  }

  /** Repeats x until it has the shape of `like`. */
  repeat(x: Tensor, like: Tensor) {
    assert(broadcasts(x.shape, like.shape), `repeat: ${x.shape} repeats into ${like.shape}`)
    const pointer = this.arena.ggml.repeat(this.arena.context, x.pointer, like.pointer)
    return this.#make('repeat', pointer, like.shape, [x, like], {}, x.dtype)
  }

  /** The reverse of {@link repeat}: sums the repetitions of x down to the shape of `like`. */
  repeatBack(x: Tensor, like: Tensor) {
    const pointer = this.arena.ggml.repeatBack(this.arena.context, x.pointer, like.pointer)
    return this.#make('repeatBack', pointer, like.shape, [x, like], {})
  }

  concat(a: Tensor, b: Tensor, dimension: number) {
    const shape = a.shape.map((length, i) => (i === dimension ? length + b.shape[i]! : length))
    const native = a.shape.length - 1 - dimension
    const pointer = this.arena.ggml.concat(this.arena.context, a.pointer, b.pointer, native)
    return this.#make('concat', pointer, shape, [a, b], { dimension }, a.dtype)
  }

  /** silu(gate) * up, fused. */
  siluMul(gate: Tensor, up: Tensor) {
    const pointer = this.arena.ggml.swigluSplit(this.arena.context, gate.pointer, up.pointer)
    return this.#make('siluMul', pointer, gate.shape, [gate, up], {})
  }

  siluBack(dy: Tensor, x: Tensor) {
    const pointer = this.arena.ggml.siluBack(this.arena.context, dy.pointer, x.pointer)
    return this.#make('siluBack', pointer, x.shape, [dy, x], {})
  }

  /** x / sqrt(mean(x^2) + epsilon) over the innermost dimension, without a weight (Zhang 2019). */
  rmsNorm(x: Tensor, epsilon: number) {
    const pointer = this.arena.ggml.rmsNorm(this.arena.context, x.pointer, epsilon)
    return this.#make('rmsNorm', pointer, x.shape, [x], { epsilon })
  }

  rmsNormBack(dy: Tensor, x: Tensor, epsilon: number) {
    const pointer = this.arena.ggml.rmsNormBack(this.arena.context, dy.pointer, x.pointer, epsilon)
    return this.#make('rmsNormBack', pointer, x.shape, [dy, x], { epsilon })
  }

  /** (x - mean) / sqrt(variance + epsilon) over the innermost dimension, without weight and bias. */
  layerNorm(x: Tensor, epsilon: number) {
    const pointer = this.arena.ggml.norm(this.arena.context, x.pointer, epsilon)
    return this.#make('layerNorm', pointer, x.shape, [x], { epsilon })
  }

  /**
   * a [..., M, K] times b [..., N, K] transposed: [..., M, N]. Outer dimensions of b are repeated into a's,
   * which is also how grouped heads share keys. b may be quantised; the sum runs over the innermost K.
   */
  matmul(a: Tensor, b: Tensor) {
    assert(a.shape.at(-1) === b.shape.at(-1), `matmul: ${a.shape} and ${b.shape} share the innermost length`)
    const shape = [...a.shape.slice(0, -1), b.shape.length > 1 ? b.shape.at(-2)! : 1]
    const pointer =
      this.#kernelProduct(a, b, shape) ?? this.arena.ggml.mulMat(this.arena.context, b.pointer, a.pointer)
    return this.#make('matmul', pointer, shape, [a, b], {})
  }

  #kernelProduct(a: Tensor, b: Tensor, shape: Shape): Pointer | undefined {
    const matrix = (x: Tensor) => x.shape.length === 2 && x.dtype === 'F32'
    if (this.#kernels === undefined || !matrix(a) || !matrix(b)) return undefined
    // The packed copy of a transposed factor is then nobody's, and is never computed.
    const source = (x: Tensor) => (x.op === 'transposed' && x.inputs[0]!.contiguous ? x.inputs[0]! : x)
    const [left, right] = [source(a), source(b)]
    const { fn, userdata } = this.#kernels.call('matmul_f32', {
      aTransposed: left === a ? 0 : 1,
      bTransposed: right === b ? 0 : 1,
      added: 0,
    })
    return this.custom('matmul_f32', fn, 'F32', shape, [left, right], userdata).pointer
  }

  /**
   * a [..., M, K] and b [..., M, N]: their product summed over rows, [..., N, K]. Needs no transposed copies,
   * but ggml computes it at half the rate of {@link matmul}, and slowly where K is small.
   */
  outerProduct(a: Tensor, b: Tensor) {
    const pointer = this.arena.ggml.outProd(this.arena.context, a.pointer, b.pointer)
    const shape = [...a.shape.slice(0, -2), b.shape.at(-1)!, a.shape.at(-1)!]
    return this.#make('outerProduct', pointer, shape, [a, b], {})
  }

  /** softmax(x * scale + mask) over the innermost dimension; mask [N, D] F32 or F16, or absent. */
  softmax(x: Tensor, mask: Tensor | undefined, scale: number) {
    const pointer = this.arena.ggml.softMaxExt(this.arena.context, x.pointer, mask?.pointer ?? null, scale, 0)
    return this.#make('softmax', pointer, x.shape, mask ? [x, mask] : [x], { scale })
  }

  /** Gradient of {@link softmax} with respect to x, from dy and the result y. */
  softmaxBack(dy: Tensor, y: Tensor, scale: number) {
    // ggml's planner may lay the result over y, which its kernel still reads. Outputs are never overlaid; only this
    // look at y is marked as one, so that y's own memory is free again afterwards.
    const seen = this.reshape(y, y.shape)
    this.arena.ggml.setOutput(seen.pointer)
    const pointer = this.arena.ggml.softMaxExtBack(this.arena.context, dy.pointer, seen.pointer, scale, 0)
    return this.#make('softmaxBack', pointer, y.shape, [dy, y], { scale })
  }

  /** Rotary embedding (Su 2021) of x [T, H, D] at positions [T] (I32); factors [dimensions/2] divide the frequencies. */
  rope(x: Tensor, positions: Tensor, attributes: RopeAttributes, factors?: Tensor) {
    return this.#rope('rope', x, positions, attributes, factors)
  }

  ropeBack(dy: Tensor, positions: Tensor, attributes: RopeAttributes, factors?: Tensor) {
    return this.#rope('ropeBack', dy, positions, attributes, factors)
  }

  #rope<Op extends 'rope' | 'ropeBack'>(
    op: Op,
    x: Tensor,
    positions: Tensor,
    a: RopeAttributes,
    factors?: Tensor,
  ) {
    const native = op === 'rope' ? this.arena.ggml.ropeExt : this.arena.ggml.ropeExtBack
    const pointer = native(
      this.arena.context,
      x.pointer,
      positions.pointer,
      factors?.pointer ?? null,
      a.dimensions,
      a.layout === 'neox' ? 2 : 0,
      a.contextOriginal,
      a.base,
      a.scale,
      a.extFactor,
      a.attnFactor,
      a.betaFast,
      a.betaSlow,
    )
    const inputs = factors ? [x, positions, factors] : [x, positions]
    return this.#make(op, pointer, x.shape, inputs, a as OpAttributes[Op])
  }

  /** Rows of table [R, D] named by ids [N] (I32): [N, D] in F32 (I32 tables give I32). */
  rows(table: Tensor, ids: Tensor) {
    const pointer = this.arena.ggml.getRows(this.arena.context, table.pointer, ids.pointer)
    const dtype = table.dtype === 'I32' ? 'I32' : 'F32'
    return this.#make('rows', pointer, [...ids.shape, table.shape.at(-1)!], [table, ids], {}, dtype)
  }

  /** Adds row n of dy [N, D] into row ids[n] of a zero tensor shaped like `table`. */
  rowsBack(dy: Tensor, ids: Tensor, table: Tensor) {
    const pointer = this.arena.ggml.getRowsBack(this.arena.context, dy.pointer, ids.pointer, table.pointer)
    return this.#make('rowsBack', pointer, table.shape, [dy, ids, table], {})
  }

  /** Writes row n of rows [N, D] (F32) to row ids[n] (I32 or I64) of `into` [R, D], converting to its dtype. Returns `into`. */
  setRows(into: Tensor, rows: Tensor, ids: Tensor) {
    const pointer = this.arena.ggml.setRows(this.arena.context, into.pointer, rows.pointer, ids.pointer)
    return this.#make('setRows', pointer, into.shape, [into, rows, ids], {}, into.dtype)
  }

  /** A packed copy; needed behind permute and slice where an op wants contiguous rows. */
  contiguous(x: Tensor) {
    return this.#make(
      'contiguous',
      this.arena.ggml.cont(this.arena.context, x.pointer),
      x.shape,
      [x],
      {},
      x.dtype,
    )
  }

  cast(x: Tensor, dtype: DType) {
    const pointer = this.arena.ggml.cast(this.arena.context, x.pointer, dtypes[dtype].ggml)
    return this.#make('cast', pointer, x.shape, [x], {}, dtype)
  }

  /** Copies x into the memory of `into` (same number of elements), converting. */
  copy(x: Tensor, into: Tensor) {
    const pointer = this.arena.ggml.cpy(this.arena.context, x.pointer, into.pointer)
    return this.#make('copy', pointer, into.shape, [x, into], {}, into.dtype)
  }

  /** The same elements in another shape; x must be contiguous. */
  reshape(x: Tensor, shape: Shape) {
    assert(x.contiguous, 'reshape needs contiguous elements')
    const size = shape.reduce((product, length) => product * length, 1)
    assert(size === x.size, `reshape keeps ${x.shape}, not ${shape}`)
    const pointer = this.arena.ggml.reshape4d(this.arena.context, x.pointer, ...ggmlLengths(shape))
    return this.#make('reshape', pointer, shape, [x], {}, x.dtype)
  }

  /** [N, count*width] as [N, count, width], without a copy also where the rows are strided. */
  splitRows(x: Tensor, count: number, width: number): Tensor {
    const rows = x.shape[0]!
    if (x.contiguous) return this.reshape(x, [rows, count, width])
    const [rowStride, elementStride] = x.strides as [number, number]
    return this.window(x, [rows, count, width], [rowStride, width * elementStride, elementStride], 0)
  }

  /** Elements [start, start+length) of one dimension, without a copy. */
  slice(x: Tensor, dimension: number, start: number, length: number) {
    assert(start >= 0 && start + length <= x.shape[dimension]!, 'a slice stays inside its tensor')
    const shape = x.shape.map((old, i) => (i === dimension ? length : old))
    const innermost = dimension === x.shape.length - 1
    const step = innermost ? dtypes[x.dtype].bytes / dtypes[x.dtype].block : x.strides[dimension]!
    const pointer = this.#view(x, shape, x.strides, start * step)
    return this.#make('slice', pointer, shape, [x], { dimension, start }, x.dtype, x.strides)
  }

  /** Any strided look at x's memory: shape, strides and offset in bytes. Has no gradient. */
  window(x: Tensor, shape: Shape, strides: readonly number[], offset: number) {
    const pointer = this.#view(x, shape, strides, offset)
    return this.#make('window', pointer, shape, [x], { offset }, x.dtype, strides)
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
    return this.#make('permute', pointer, shape, [x], { order }, x.dtype, strides)
  }

  /** Swaps the two innermost dimensions and packs: what {@link matmul} wants to sum over the other side. */
  transposed(x: Tensor): Tensor {
    const [rows, columns] = x.shape.slice(-2) as [number, number]
    const outer = x.shape.slice(0, -2)
    const order = [...outer.keys(), outer.length + 1, outer.length]
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
    return this.#make('transposed', this.reshape(packed, shape).pointer, shape, [x], {})
  }

  /** x for the eyes of the trainer: its gradient goes no further than here. */
  detached(x: Tensor): Tensor {
    return this.#make('detached', x.pointer, x.shape, [], {}, x.dtype, x.strides)
  }

  /** Index of the largest element of each row of x [N, D]: [N] (I32). */
  argmax(x: Tensor) {
    const pointer = this.arena.ggml.argmax(this.arena.context, x.pointer)
    return this.#make('argmax', pointer, x.shape.slice(0, -1), [x], {}, 'I32')
  }

  /**
   * Flash attention (Dao 2022): q [S, H, T, D] F32, k and v [S, G, P, D] (strided, any float dtype),
   * mask [S, 1, T, P] F16. Result [S, T, H, D]; heads are grouped H/G to one.
   */
  attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | undefined, scale: number) {
    const { ggml, context } = this.arena
    const pointer = ggml.flashAttnExt(
      context,
      q.pointer,
      k.pointer,
      v.pointer,
      mask?.pointer ?? null,
      scale,
      0,
      0,
    )
    ggml.flashAttnSetPrec(pointer, 10)
    const [s, h, t] = q.shape as [number, number, number, number]
    const shape = [s, t, h, v.shape.at(-1)!]
    return this.#make('attention', pointer, shape, mask ? [q, k, v, mask] : [q, k, v], { scale })
  }

  /**
   * One AdamW step in place (Loshchilov 2017): parameters [7] F32 are learning rate, beta1, beta2, epsilon,
   * weight decay, 1/(1-beta1^t), 1/(1-beta2^t).
   */
  adamw(weight: Tensor, gradient: Tensor, m: Tensor, v: Tensor, parameters: Tensor) {
    const { ggml, context } = this.arena
    const inputs = [weight, gradient, m, v, parameters]
    // ggml refuses to step a tensor that was not declared trainable.
    ggml.setParam(weight.pointer)
    const pointer = ggml.optStepAdamw(
      context,
      weight.pointer,
      gradient.pointer,
      m.pointer,
      v.pointer,
      parameters.pointer,
    )
    return this.#make('adamw', pointer, weight.shape, inputs, {})
  }

  /** A native kernel as a node: it runs in the device's own threads. CPU only. */
  custom(
    name: string,
    kernel: CustomOpPointer,
    dtype: DType,
    shape: Shape,
    inputs: readonly Tensor[],
    userdata?: Pointer,
  ): Tensor<'custom'> {
    const { ggml, context } = this.arena
    const pointers = BigUint64Array.from(inputs, (input) => input.pointer)
    const pointer = ggml.custom4d(
      context,
      dtypes[dtype].ggml,
      ...ggmlLengths(shape),
      pointers,
      inputs.length,
      kernel,
      // GGML_N_TASKS_MAX: as many tasks as there are threads.
      -1,
      userdata ?? null,
    )
    return this.#make('custom', pointer, shape, inputs, { name }, dtype)
  }
}

/** True when `small` repeats a whole number of times into `large` in every dimension. */
function broadcasts(small: Shape, large: Shape): boolean {
  if (small.length > large.length) return false
  return small.every((length, i) => large[large.length - small.length + i]! % length === 0)
}
