/**
 * The operations that models are written in. Each makes one ggml node and remembers its op, inputs and
 * attributes, so that the same definition serves and trains.
 *
 * Shapes are outermost first. M, N, K: sizes of a product; D: the innermost dimension.
 */
import { assert } from '../base/assert.ts'
import type { Pointer } from './ffi.ts'
import { matmulBehind } from './kernel-ops.ts'
import type { OpAttributes, OpName, RopeAttributes } from './op-attributes.ts'
import type { Shape, Tensor } from './tensor.ts'
import { sameShape, TrainingOps } from './training-ops.ts'

/** GELU's 2u/x is linear + cubic x^2. */
export const geluSlope = {
  linear: 2 * Math.sqrt(2 / Math.PI),
  cubic: 2 * Math.sqrt(2 / Math.PI) * 0.044715,
} as const

type BehindKind = keyof typeof matmulBehind

type Factors = readonly [a: Tensor, b: Tensor]

/** One op of ours: a product, a tail of few inputs added to it (an adapter's beside its base), and what else is added. */
interface Sum {
  product: Factors
  aside: boolean
  precise?: true | undefined
  tail?: Factors | undefined
  source?: Tensor | undefined
  second?: Tensor | undefined
}

/** Looks at the two results of one product. */
interface Halves {
  first: Tensor
  second: Tensor
}

export class Ops extends TrainingOps {
  #productBytes = 0
  /** How sums that are one op were made. */
  readonly #sums = new WeakMap<Tensor, Sum>()
  /** What activations are that a product stored two results of: looks at both of these. */
  readonly #activated = new WeakMap<Tensor, Halves>()
  /** Gradients of both inputs of a {@link siluMul}, which one product stored, and what they were made from. */
  readonly #gateGradients = new WeakMap<Tensor, Halves & { dy: Tensor }>()

  /** Bytes that the largest of our own products puts its factors in order in, about. */
  get productBytes(): number {
    return Math.max(this.#productBytes, this.expertBytes)
  }

  /** a + b; b is repeated where a is longer. What is added to a product of ours, or to a norm's gradient, is added
   * while that is stored. */
  add(a: Tensor, b: Tensor): Tensor<'add'> {
    const sum = this.#joined(a, b) ?? this.#joined(b, a) ?? this.#plus(b, a) ?? this.#plus(a, b)
    const product = sum && this.#kernelProduct(sum, a.shape, sum.source && 'adds')
    const pointer = product ?? this.normBackAnd(b, a) ?? this.normBackAnd(a, b)
    if (pointer === undefined) return this.elementwise('add', a, b)
    const made = this.make('add', pointer, a.shape, [a, b], {})
    if (sum !== undefined && product !== undefined) this.#sums.set(made, sum)
    return made
  }

  /** The op of ours that x is; undefined where it is something else. */
  #sumOf(x: Tensor): Sum | undefined {
    const made = this.#sums.get(x)
    if (made !== undefined || x.op !== 'matmul') return made
    const product = x.inputs as [Tensor, Tensor]
    const { aside, precise } = (x as Tensor<'matmul'>).attributes
    return this.#multiplies(product) ? { product, aside, precise } : undefined
  }

  /** x with a product behind it, the one the other's tail. */
  #joined(x: Tensor, product: Tensor): Sum | undefined {
    const [sum, other] = [this.#sumOf(x), this.#sumOf(product)]
    if (sum === undefined || other === undefined || !sameShape(x, product)) return undefined
    if (sum.tail !== undefined || other.tail !== undefined || other.source !== undefined) return undefined
    if (sum.precise !== other.precise) return undefined
    if (sum.aside === other.aside || !liesAs(sum.product, other.product)) return undefined
    if (other.aside) return { ...sum, tail: other.product }
    return { ...other, tail: sum.product, source: sum.source }
  }

  /** x with something behind it, a row for all rows or one for each. */
  #plus(x: Tensor, source: Tensor): Sum | undefined {
    const sum = this.#sumOf(x)
    const fits = source.shape.length === 1 ? source.size === x.shape[1] : sameShape(source, x)
    return sum !== undefined && sum.source === undefined && fits && isSource(source)
      ? { ...sum, source }
      : undefined
  }

  sub(a: Tensor, b: Tensor) {
    return this.elementwise('sub', a, b)
  }

  /** a * b; b is repeated where a is longer. A norm's weight is multiplied while that is stored. */
  mul(a: Tensor, b: Tensor): Tensor<'mul'> {
    const pointer = this.normTimes(a, b)
    return pointer === undefined
      ? this.elementwise('mul', a, b)
      : this.make('mul', pointer, a.shape, [a, b], {})
  }

  div(a: Tensor, b: Tensor) {
    return this.elementwise('div', a, b)
  }

  /** Adds x to the memory of `into` (same shape). */
  accumulate(into: Tensor, x: Tensor): Tensor<'accumulate'> {
    const own = sameShape(into, x) ? this.#productAnd('addsInto', x, into) : undefined
    if (own !== undefined) return this.make('accumulate', own, [4], [into, x], {})
    const added =
      this.scatterInto(x, into) ??
      this.expertsInto(x, into) ??
      (sameShape(x, into) && this.ownElementwise('add', into, x, true))
    if (added) return this.make('accumulate', added, [4], [into, x], {})
    const pointer = this.arena.ggml.addInplace(this.arena.context, into.pointer, x.pointer)
    return this.make('accumulate', pointer, into.shape, [into, x], {}, into.dtype)
  }

  scale(x: Tensor, factor: number) {
    const pointer =
      this.ownAffine(x, factor, 0) ?? this.arena.ggml.scale(this.arena.context, x.pointer, factor)
    return this.make('scale', pointer, x.shape, [x], { factor })
  }

  /** x * factor + offset, in one pass. */
  affine(x: Tensor, factor: number, offset: number) {
    const pointer =
      this.ownAffine(x, factor, offset) ??
      this.arena.ggml.scaleBias(this.arena.context, x.pointer, factor, offset)
    return this.make('affine', pointer, x.shape, [x], { factor, offset })
  }

  sqr(x: Tensor) {
    return this.unary('sqr', x)
  }

  sqrt(x: Tensor) {
    return this.unary('sqrt', x)
  }

  log(x: Tensor) {
    return this.unary('log', x)
  }

  exp(x: Tensor) {
    return this.unary('exp', x)
  }

  /** 1 / (1 + exp(-x)). */
  sigmoid(x: Tensor) {
    return this.unary('sigmoid', x)
  }

  /** ln(1 + exp(x)): the negative logarithm of sigmoid(-x), without overflow. */
  softplus(x: Tensor) {
    return this.unary('softplus', x)
  }

  silu(x: Tensor) {
    return this.unary('silu', x)
  }

  /**
   * The tanh form of GELU, which GPT-2 calls gelu_new: 0.5 x (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3).
   *
   * ggml's own looks values up in half precision, which training does not forgive, and its tanh is slow.
   * The same function is x sigmoid(2u) = silu(x p) / p with p = 2u/x, whose steps are exact and vectorised.
   */
  gelu(x: Tensor) {
    const sum = this.#sumOf(x)
    const both = sum && this.#twoResults(sum, x.shape, sum.source ? 'addsGelu' : 'gelu')
    if (both !== undefined)
      return this.#activation(this.make('gelu', both.first.pointer, x.shape, [x], {}), both)
    const own = x.contiguous ? this.kernelOp('gelu', {}, x.shape, [x]) : undefined
    if (own !== undefined) return this.make('gelu', own, x.shape, [x], {})
    const p = this.affine(this.sqr(x), geluSlope.cubic, geluSlope.linear)
    const y = this.div(this.silu(this.mul(x, p)), p)
    return this.make('gelu', y.pointer, x.shape, [x], {})
  }

  /** A product that stores two results of its shape: the product itself is then nobody's, and is never stored. */
  #twoResults(sum: Sum, shape: Shape, kind: BehindKind, second?: Tensor): Halves | undefined {
    const pointer = this.#kernelProduct({ ...sum, second }, [2, ...shape], kind)
    if (pointer === undefined) return undefined
    const both = this.make('custom', pointer, [2, ...shape], [], { name: kind })
    const half = (index: number) => this.reshape(this.slice(both, 0, index, 1), shape)
    return { first: half(0), second: half(1) }
  }

  #activation<Op extends OpName>(y: Tensor<Op>, both: Halves): Tensor<Op> {
    this.#activated.set(y, both)
    return y
  }

  tanh(x: Tensor) {
    return this.unary('tanh', x)
  }

  /** Sum of all elements: [1]. Accumulated in float64 on the CPU. */
  sum(x: Tensor) {
    return this.make('sum', this.arena.ggml.sum(this.arena.context, x.pointer), [1], [x], {})
  }

  /** Sum over the innermost dimension: [..., D] -> [..., 1]. */
  sumRows(x: Tensor) {
    const pointer = this.arena.ggml.sumRows(this.arena.context, x.pointer)
    return this.make('sumRows', pointer, [...x.shape.slice(0, -1), 1], [x], {})
  }

  /** silu(gate) * up; in the pass of the product that up is, if it is one. */
  siluMul(gate: Tensor, up: Tensor) {
    const sum = isSource(gate) ? this.#bareSum(up, gate) : undefined
    const both = sum && this.#twoResults({ ...sum, source: gate }, up.shape, 'siluMul')
    if (both !== undefined)
      return this.#activation(this.make('siluMul', both.first.pointer, gate.shape, [gate, up], {}), both)
    const pointer =
      this.ownPass('silu_mul', [gate, up]) ??
      this.arena.ggml.swigluSplit(this.arena.context, gate.pointer, up.pointer)
    return this.make('siluMul', pointer, gate.shape, [gate, up], {})
  }

  /** Gradient of one input of y, a {@link siluMul}; of both in the pass of the product that dy comes from, if it does. */
  siluMulBack(dy: Tensor, y: Tensor<'siluMul'>, of: 'gate' | 'up') {
    const [gate, up] = y.inputs as [Tensor, Tensor]
    const kept = this.#activated.get(y)
    // Where a product stored up beside the result, nobody else has it.
    const both = kept && this.#siluMulGradients(dy, y, kept.second)
    if (both === undefined) return this.ownSiluMulBack(dy, gate, kept?.second ?? up, of)
    const half = of === 'gate' ? both.first : both.second
    const gradient = this.make('siluMulBack', half.pointer, dy.shape, [dy, gate, up], {})
    return this.#activation(gradient, { first: half, second: half })
  }

  #siluMulGradients(dy: Tensor, y: Tensor<'siluMul'>, up: Tensor): Halves | undefined {
    const known = this.#gateGradients.get(y)
    if (known?.dy === dy) return known
    const gate = y.inputs[0]!
    const sum = this.#bareSum(dy, gate)
    const both = sum && this.#twoResults({ ...sum, source: gate }, dy.shape, 'siluMulBack', up)
    if (both !== undefined) this.#gateGradients.set(y, { ...both, dy })
    return both
  }

  /** The product of ours that x is, of the shape of `other`, where nothing comes behind it yet. */
  #bareSum(x: Tensor, other: Tensor): Sum | undefined {
    const sum = this.#sumOf(x)
    return sum !== undefined && sum.source === undefined && sameShape(x, other) ? sum : undefined
  }

  siluBack(dy: Tensor, x: Tensor) {
    const pointer = this.arena.ggml.siluBack(this.arena.context, dy.pointer, x.pointer)
    return this.make('siluBack', pointer, x.shape, [dy, x], {})
  }

  /** x / sqrt(mean(x^2) + epsilon) over the innermost dimension, without a weight (Zhang 2019). */
  rmsNorm(x: Tensor, epsilon: number) {
    const pointer =
      this.ownNorm(x, 0, epsilon) ?? this.arena.ggml.rmsNorm(this.arena.context, x.pointer, epsilon)
    return this.make('rmsNorm', pointer, x.shape, [x], { epsilon })
  }

  rmsNormBack(dy: Tensor, x: Tensor, epsilon: number) {
    const pointer =
      this.ownNormBack(dy, x, 0, epsilon) ??
      this.arena.ggml.rmsNormBack(this.arena.context, dy.pointer, x.pointer, epsilon)
    return this.make('rmsNormBack', pointer, x.shape, [dy, x], { epsilon })
  }

  /** (x - mean) / sqrt(variance + epsilon) over the innermost dimension, without weight and bias. */
  layerNorm(x: Tensor, epsilon: number) {
    const pointer =
      this.ownNorm(x, 1, epsilon) ?? this.arena.ggml.norm(this.arena.context, x.pointer, epsilon)
    return this.make('layerNorm', pointer, x.shape, [x], { epsilon })
  }

  /**
   * a [..., M, K] times b [..., N, K] transposed: [..., M, N]. Outer dimensions of b are repeated into a's,
   * which is also how grouped heads share keys. b may be quantised; the sum runs over the innermost K.
   */
  matmul(a: Tensor, b: Tensor, attributes: OpAttributes['matmul'] = { aside: false }) {
    assert(a.shape.at(-1) === b.shape.at(-1), `matmul: ${a.shape} and ${b.shape} share the innermost length`)
    const shape = [...a.shape.slice(0, -1), b.shape.length > 1 ? b.shape.at(-2)! : 1]
    const pointer =
      this.#kernelProduct({ product: [a, b], ...attributes }, shape) ??
      this.arena.ggml.mulMat(this.arena.context, b.pointer, a.pointer)
    return this.make('matmul', pointer, shape, [a, b], attributes)
  }

  /** Whether our kernels have this product. */
  #multiplies([a, b]: Factors): boolean {
    const matrix = (x: Tensor) => x.shape.length === 2 && x.dtype === 'F32'
    return this.kernels !== undefined && matrix(a) && (matrix(b) || this.readsFrozen(b))
  }

  #kernelProduct(
    { product, precise, tail, source, second }: Sum,
    shape: Shape,
    kind: BehindKind = 'nothing',
  ): Pointer | undefined {
    if (!this.#multiplies(product)) return undefined
    const [left, right] = product.map(stored) as [Tensor, Tensor]
    this.#productBytes = Math.max(this.#productBytes, 4 * (left.size + right.size))
    const narrow = this.precision === 'bf16' && !precise
    const op = narrow ? 'matmul_bf16' : 'matmul_f32'
    const params = {
      aTransposed: left === product[0] ? 0 : 1,
      bTransposed: right === product[1] ? 0 : 1,
      behind: matmulBehind[kind],
    }
    const [a, b, ...behind] = [left, right, ...(tail?.map(stored) ?? [])].map((x) =>
      narrow ? this.factor(x) : x,
    )
    // Sources keep all of their digits, but for what a product stored beside an activation, which is rounded like that.
    const kept = kind === 'times' ? [source] : [second]
    const read = (x: Tensor | undefined) => (x === undefined ? [] : kept.includes(x) ? [this.factor(x)] : [x])
    const sources = [a!, b!, ...read(source), ...read(second), ...behind]
    return this.kernelOp(op, params, kind === 'addsInto' ? [4] : shape, sources)
  }

  /**
   * The product that x is, made again with something behind it: what x alone would be is then nobody's, and is never
   * computed. Undefined where x is no product of ours, or already has something behind it.
   */
  #productAnd(kind: 'addsInto' | 'times', x: Tensor, source: Tensor): Pointer | undefined {
    const sum = this.#sumOf(x)
    if (sum === undefined || sum.source !== undefined || !isSource(source)) return undefined
    return this.#kernelProduct({ ...sum, source }, x.shape, kind)
  }

  /** Gradient of the x that y is the {@link gelu} of; in the pass of the product that dy comes from, if it does. */
  geluBack(dy: Tensor, y: Tensor<'gelu'>) {
    const x = y.inputs[0]!
    const slope = this.#activated.get(y)?.second
    if (slope === undefined) return this.ownGeluBack(dy, x)
    const pointer = sameShape(dy, x) ? this.#productAnd('times', dy, slope) : undefined
    return pointer === undefined ? this.mul(dy, slope) : this.make('geluBack', pointer, x.shape, [dy, x], {})
  }

  /** One of a product's two results is seen as a part of both. */
  protected override factor(x: Tensor): Tensor {
    const half = this.#activated.get(x)?.first
    if (half === undefined) return super.factor(x)
    const narrow = super.factor(half)
    return narrow === half ? x : narrow
  }

  /**
   * a [..., M, K] and b [..., M, N]: their product summed over rows, [..., N, K]. Needs no transposed copies,
   * but ggml computes it at half the rate of {@link matmul}, and slowly where K is small.
   */
  outerProduct(a: Tensor, b: Tensor) {
    const pointer = this.arena.ggml.outProd(this.arena.context, a.pointer, b.pointer)
    const shape = [...a.shape.slice(0, -2), b.shape.at(-1)!, a.shape.at(-1)!]
    return this.make('outerProduct', pointer, shape, [a, b], {})
  }

  /** softmax(x * scale + mask) over the innermost dimension; mask [N, D] F32 or F16, or absent. */
  softmax(x: Tensor, mask: Tensor | undefined, scale: number) {
    const pointer = this.arena.ggml.softMaxExt(this.arena.context, x.pointer, mask?.pointer ?? null, scale, 0)
    return this.make('softmax', pointer, x.shape, mask ? [x, mask] : [x], { scale })
  }

  /** Gradient of {@link softmax} with respect to x, from dy and the result y. */
  softmaxBack(dy: Tensor, y: Tensor, scale: number) {
    // ggml's planner may lay the result over y, which its kernel still reads. Outputs are never overlaid; only this
    // look at y is marked as one, so that y's own memory is free again afterwards.
    const seen = this.reshape(y, y.shape)
    this.arena.ggml.setOutput(seen.pointer)
    const pointer = this.arena.ggml.softMaxExtBack(this.arena.context, dy.pointer, seen.pointer, scale, 0)
    return this.make('softmaxBack', pointer, y.shape, [dy, y], { scale })
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
    const inputs = factors ? [x, positions, factors] : [x, positions]
    const own = this.ownRope(op, x, positions, a, factors)
    if (own !== undefined) return this.make(op, own, x.shape, inputs, a as OpAttributes[Op])
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
    return this.make(op, pointer, x.shape, inputs, a as OpAttributes[Op])
  }

  /** Rows of table [R, D] named by ids [N] (I32): [N, D] in F32 (I32 tables give I32). */
  rows(table: Tensor, ids: Tensor) {
    const pointer =
      this.ownGather(table, ids) ?? this.arena.ggml.getRows(this.arena.context, table.pointer, ids.pointer)
    const dtype = table.dtype === 'I32' ? 'I32' : 'F32'
    return this.make('rows', pointer, [...ids.shape, table.shape.at(-1)!], [table, ids], {}, dtype)
  }

  /** Adds row n of dy [N, D] into row ids[n] of a zero tensor shaped like `table`. */
  rowsBack(dy: Tensor, ids: Tensor, table: Tensor) {
    const pointer =
      this.ownScatter(dy, ids, table) ??
      this.arena.ggml.getRowsBack(this.arena.context, dy.pointer, ids.pointer, table.pointer)
    return this.make('rowsBack', pointer, table.shape, [dy, ids, table], {})
  }

  /** Writes row n of rows [N, D] (F32) to row ids[n] (I32 or I64) of `into` [R, D], converting to its dtype. Returns `into`. */
  setRows(into: Tensor, rows: Tensor, ids: Tensor) {
    const pointer = this.arena.ggml.setRows(this.arena.context, into.pointer, rows.pointer, ids.pointer)
    return this.make('setRows', pointer, into.shape, [into, rows, ids], {}, into.dtype)
  }

  /** Index of the largest element of each row of x [N, D]: [N] (I32). */
  argmax(x: Tensor) {
    const pointer = this.arena.ggml.argmax(this.arena.context, x.pointer)
    return this.make('argmax', pointer, x.shape.slice(0, -1), [x], {}, 'I32')
  }

  /**
   * Flash attention (Dao 2022): q [S, H, T, D] F32, k and v [S, G, P, D] (strided, any float dtype),
   * mask [S, 1, T, P] F16. Result [S, T, H, D]; heads are grouped H/G to one. A sink [H] is a score of its own, without a value.
   */
  attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | undefined, scale: number, sinks?: Tensor) {
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
    if (sinks !== undefined) ggml.flashAttnAddSinks(pointer, sinks.pointer)
    const [s, h, t] = q.shape as [number, number, number, number]
    const shape = [s, t, h, v.shape.at(-1)!]
    const inputs = [q, k, v, mask, sinks].filter((one) => one !== undefined)
    return this.make('attention', pointer, shape, inputs, { scale })
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
    return this.make('adamw', pointer, weight.shape, inputs, {})
  }
}

/** Where a factor lies: the packed copy of a transposed one is then nobody's, and is never computed. */
function stored(factor: Tensor): Tensor {
  return factor.op === 'transposed' && factor.inputs[0]!.contiguous ? factor.inputs[0]! : factor
}

function isSource(x: Tensor): boolean {
  return x.contiguous && x.dtype === 'F32'
}

/** Whether the factors of two products lie the same way, as those of a product and its tail must. */
function liesAs(one: Factors, other: Factors): boolean {
  const turned = ([a, b]: Factors) => (stored(a) === a ? stored(b) !== b : undefined)
  return turned(one) !== undefined && turned(one) === turned(other)
}
