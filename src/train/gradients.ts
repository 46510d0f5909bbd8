/**
 * How each operation hands the gradient of its result back to its inputs.
 *
 * dy has the shape of y and is packed, but for ops that only move elements. A rule gives one entry per input: a function that makes that input's
 * gradient when somebody asks for it, or undefined where none exists (ids, masks, positions).
 */
import { assert } from '../base/assert.ts'
import type { OpAttributes, OpName } from '../runtime/op-attributes.ts'
import { geluSlope, type Ops } from '../runtime/ops.ts'
import type { Shape, Tensor } from '../runtime/tensor.ts'
import type { Contribution } from './slabs.ts'

export interface RuleContext {
  ops: Ops
  /** x itself, or a packed copy of a strided one; made once however many rules ask. */
  packed(x: Tensor): Tensor
  /** x with its two innermost dimensions swapped, packed; made once however many rules ask. */
  transposed(x: Tensor): Tensor
}

export type Gradient<Op extends OpName> = (
  context: RuleContext,
  y: Tensor<Op>,
  dy: Tensor,
) => readonly ((() => Contribution) | undefined)[]

/** A gradient of logits that comes from no result of theirs. */
export type LogitSlope = (ops: Ops, logits: Tensor) => Tensor

/** One rule per op, or 'none' for what training never differentiates. Leaving one out does not compile. */
export const gradients: { readonly [Op in OpName]: Gradient<Op> | 'none' } = {
  leaf: 'none',
  add: ({ ops }, { inputs: [, b] }, dy) => [() => dy, () => reduced(ops, dy, b!)],
  sub: ({ ops }, { inputs: [, b] }, dy) => [() => dy, () => reduced(ops, ops.scale(dy, -1), b!)],
  mul: ({ ops }, { inputs: [a, b] }, dy) => [
    () => ops.mul(dy, b!),
    () => overRows(ops, b!, dy, a!) ?? reduced(ops, ops.mul(dy, a!), b!),
  ],
  div: ({ ops }, y, dy) => {
    const b = y.inputs[1]!
    return [() => ops.div(dy, b), () => reduced(ops, ops.scale(ops.mul(ops.div(dy, b), y), -1), b)]
  },
  accumulate: 'none',
  scale: ({ ops }, y, dy) => [() => ops.scale(dy, y.attributes.factor)],
  affine: ({ ops }, y, dy) => [() => ops.scale(dy, y.attributes.factor)],
  fill: 'none',
  sqr: ({ ops }, { inputs: [x] }, dy) => [() => ops.scale(ops.mul(dy, x!), 2)],
  sqrt: ({ ops }, y, dy) => [() => ops.scale(ops.div(dy, y), 0.5)],
  log: ({ ops }, { inputs: [x] }, dy) => [() => ops.div(dy, x!)],
  exp: ({ ops }, y, dy) => [() => ops.mul(dy, y)],
  sigmoid: ({ ops }, y, dy) => [() => ops.mul(dy, ops.sub(y, ops.sqr(y)))],
  softplus: ({ ops }, { inputs: [x] }, dy) => [() => ops.mul(dy, ops.sigmoid(x!))],
  sum: ({ ops }, { inputs: [x] }, dy) => [() => ops.repeat(dy, x!)],
  sumRows: ({ ops }, { inputs: [x] }, dy) => [() => ops.repeat(dy, x!)],
  repeat: ({ ops }, { inputs: [x] }, dy) => [() => ops.repeatBack(dy, x!), undefined],
  repeatBack: 'none',
  concat: ({ ops }, { inputs: [a, b], attributes: { dimension } }, dy) => {
    const [before, after] = [a!.shape[dimension]!, b!.shape[dimension]!]
    return [
      () => ops.contiguous(ops.slice(dy, dimension, 0, before)),
      () => ops.contiguous(ops.slice(dy, dimension, before, after)),
    ]
  },
  silu: ({ ops }, { inputs: [x] }, dy) => [() => ops.mul(dy, siluSlope(ops, x!, ops.silu(x!)))],
  siluBack: 'none',
  gelu: ({ ops }, y, dy) => {
    const x = y.inputs[0]!
    return [() => ops.geluBack(dy, y) ?? ops.mul(dy, geluSlopeAt(ops, x, y))]
  },
  geluBack: 'none',
  tanh: ({ ops }, y, dy) => [() => ops.mul(dy, ops.affine(ops.sqr(y), -1, 1))],
  siluMul: ({ ops }, y, dy) => {
    const [gate, up] = y.inputs
    const slope = () => siluSlope(ops, gate!, ops.silu(gate!))
    return [
      () => ops.siluMulBack(dy, y, 'gate') ?? ops.mul(ops.mul(dy, up!), slope()),
      () => ops.siluMulBack(dy, y, 'up') ?? ops.mul(dy, ops.silu(gate!)),
    ]
  },
  siluMulBack: 'none',
  // Training gates by ops that have gradients (train/mixture.ts).
  clampedGate: 'none',
  clamp: ({ ops }, { inputs: [x], attributes: { low, high } }, dy) => [
    () => ops.mul(dy, ops.mul(ops.step(ops.affine(x!, 1, -low)), ops.step(ops.affine(x!, -1, high)))),
  ],
  step: 'none',
  rmsNorm: ({ ops }, { inputs: [x], attributes }, dy) => [() => ops.rmsNormBack(dy, x!, attributes.epsilon)],
  rmsNormBack: 'none',
  layerNorm: ({ ops }, { inputs: [x], attributes }, dy) => [
    () => ops.layerNormBack(dy, x!, attributes.epsilon) ?? layerNormBack(ops, dy, x!, attributes.epsilon),
  ],
  layerNormBack: 'none',
  sumOverRows: 'none',
  squareSums: 'none',
  chosenShares: 'none',
  chosenSharesBack: 'none',
  matmul: (context, { inputs: [a, b], attributes }, dy) => [
    () => productBackA(context, dy, a!, b!, attributes),
    () => productBackB(context, dy, a!, b!, attributes),
  ],
  outerProduct: 'none',
  softmax: ({ ops }, y, dy) => [() => ops.softmaxBack(dy, y, y.attributes.scale), undefined],
  softmaxBack: 'none',
  rope: ({ ops }, { inputs: [, positions, factors], attributes }, dy) => [
    () => ops.ropeBack(dy, positions!, attributes, factors),
    undefined,
    undefined,
  ],
  ropeBack: 'none',
  rows: ({ ops }, { inputs: [table, ids] }, dy) => [() => ops.rowsBack(dy, ids!, table!), undefined],
  rowsBack: 'none',
  setRows: 'none',
  contiguous: (_, __, dy) => [() => dy],
  cast: ({ ops }, { inputs: [x] }, dy) => [() => (x!.dtype === dy.dtype ? dy : ops.cast(dy, x!.dtype))],
  copy: 'none',
  reshape: ({ ops }, { inputs: [x] }, dy) => [() => ops.reshape(dy, x!.shape)],
  slice: (_, { attributes: { dimension, start } }, dy) => [() => ({ dimension, start, part: dy })],
  splitRows: ({ ops }, _, dy) => [() => ops.joinRows(dy)],
  window: 'none',
  permute: ({ ops }, { attributes: { order } }, dy) => [() => ops.permute(dy, inverse(order))],
  transposed: ({ ops }, _, dy) => [() => swapped(ops, dy)],
  argmax: 'none',
  argsort: 'none',
  expertProduct: 'none',
  expertBias: 'none',
  // Its gradient is that of the shares in it.
  route: ({ ops }, routes, dy) => [() => ops.routeBack(dy, routes)],
  routeBack: 'none',
  balanced: ({ ops }, { inputs: [x], attributes }, dy) => [
    () => ops.add(dy, (attributes.slope as LogitSlope)(ops, x!)),
  ],
  byExpert: ({ ops }, { inputs: [x, weight, routes], attributes: { experts } }, dy) => [
    () => ops.byExpertInputsBack(dy, weight!, routes!, experts),
    () => ops.byExpertWeightsBack(dy, x!, routes!, experts),
    undefined,
  ],
  mixExperts: ({ ops }, y, dy) => [
    () => ops.mixExpertsBack(dy, y),
    () => ops.sharesByExpertBack(dy, y),
    () => dy,
  ],
  mixExpertsBack: 'none',
  sharesByExpertBack: 'none',
  detached: 'none',
  attention: 'none',
  causalAttention: ({ ops }, y, dy) => {
    const [q, k] = y.inputs as [Tensor, Tensor]
    const [, heads, width] = q.shape as [number, number, number]
    const groups = k.shape[1]!
    let joined: Tensor | undefined
    const columns = (first: number, count: number) => {
      joined ??= ops.causalAttentionBack(dy, y)
      return ops.slice(joined, 1, first, count)
    }
    const part = (first: number, count: number) =>
      ops.splitRows(columns(first * width, count * width), count, width)
    return [
      () => part(0, heads),
      () => part(heads, groups),
      () => part(heads + groups, groups),
      undefined,
      () => ops.sumOverRows(ops.contiguous(columns((heads + 2 * groups) * width, heads)))!,
    ]
  },
  causalAttentionBack: 'none',
  adamw: 'none',
  custom: 'none',
}

/** Sums dy over the repetitions that gave b the shape of the result. */
function reduced(ops: Ops, dy: Tensor, b: Tensor): Tensor {
  if (sameShape(dy.shape, b.shape)) return dy
  return overRows(ops, b, dy) ?? ops.repeatBack(dy, b)
}

/** The sum over rows of dy, or of dy * a, for a row b that was repeated; undefined where it takes other ops. */
function overRows(ops: Ops, b: Tensor, dy: Tensor, a?: Tensor): Tensor | undefined {
  const repeated = b.shape.length === 1 && dy.shape.length > 1 && b.size > 1
  return repeated && b.size === dy.shape.at(-1) ? ops.sumOverRows(dy, a) : undefined
}

function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((length, i) => length === b[i])
}

function inverse(order: readonly number[]): number[] {
  const back = new Array<number>(order.length)
  for (const [to, from] of order.entries()) back[from] = to
  return back
}

/** Added above and below so that a quotient of two vanishing numbers takes its limit 1/2; far below any square that counts. */
const tiny = 2 ** -120

/** sigmoid of whatever makes y = x sigmoid: y/x, at zero too. */
function gateOf(ops: Ops, x: Tensor, y: Tensor): Tensor {
  return ops.div(ops.affine(ops.mul(x, y), 1, tiny / 2), ops.affine(ops.sqr(x), 1, tiny))
}

/**
 * d silu / dx = y + s (1 - y) with s the sigmoid and y = silu(x). ggml's own silu_back calls a scalar expf
 * for every element; these passes are several times faster.
 */
function siluSlope(ops: Ops, x: Tensor, y: Tensor): Tensor {
  return ops.add(y, ops.mul(gateOf(ops, x, y), ops.affine(y, -1, 1)))
}

/** d gelu / dx = s + y (1 - s) d(2u)/dx, with y = x s and 2u = linear x + cubic x^3 (see Ops.gelu). */
function geluSlopeAt(ops: Ops, x: Tensor, y: Tensor): Tensor {
  const gate = gateOf(ops, x, y)
  const inner = ops.affine(ops.sqr(x), 3 * geluSlope.cubic, geluSlope.linear)
  return ops.add(gate, ops.mul(ops.mul(y, ops.affine(gate, -1, 1)), inner))
}

/**
 * A layer norm is an RMS norm of centred rows. With an epsilon far above any variance, ggml's layer norm
 * only centres and divides by sqrt(epsilon): a power of two, so nothing is rounded. Two passes replace a
 * mean and a subtraction that ggml would do element by element.
 */
function layerNormBack(ops: Ops, dy: Tensor, x: Tensor, epsilon: number): Tensor {
  const centred = ops.layerNorm(x, 2 ** 40) //                          (x - mean) / 2^20
  const slope = ops.rmsNormBack(dy, centred, epsilon / 2 ** 40) //      2^20 times the gradient of x - mean
  return ops.scale(ops.layerNorm(slope, 2 ** 80), 2 ** 20)
}

// For products: y [..., M, N] = a [..., M, K] times b [..., N, K] transposed. Where one b serves several a,
// those are stacked along M, so that sums over them are part of the product.

function productBackA(
  { ops, transposed }: RuleContext,
  dy: Tensor,
  a: Tensor,
  b: Tensor,
  attributes: OpAttributes['matmul'],
): Tensor {
  // A frozen weight may be quantised along its inputs; the sum runs over its outputs, so ggml decodes it for this use.
  const dense = b.dtype === 'F32' || ops.readsFrozen(b) ? b : ops.cast(b, 'F32')
  const da = ops.matmul(stacked(ops, dy, b), transposed(dense), attributes) // [..., M, N] x [..., K, N]
  return sameShape(da.shape, a.shape) ? da : ops.reshape(da, a.shape)
}

function productBackB(
  { ops, packed, transposed }: RuleContext,
  dy: Tensor,
  a: Tensor,
  b: Tensor,
  { precise }: OpAttributes['matmul'],
): Tensor {
  const attributes = { aside: false, ...(precise && { precise }) }
  const x = stacked(ops, packed(a), b) //                               [..., M, K]
  const slope = stacked(ops, dy, b) //                                  [..., M, N]
  const [outputs, inputs] = b.shape.slice(-2) as [number, number]
  const matrices = b.shape.length === 2
  if (ops.readsTransposed && matrices) return ops.matmul(transposed(slope), transposed(x), attributes)
  // Between few columns, transposing costs more than the faster product gains (measured on AVX-512).
  if ((outputs * inputs) / (outputs + inputs) > 64) return ops.matmul(transposed(slope), transposed(x))
  return inputs >= outputs ? ops.outerProduct(x, slope) : swapped(ops, ops.outerProduct(slope, x))
}

/** A view of x with its two innermost dimensions swapped. */
function swapped(ops: Ops, x: Tensor): Tensor {
  const order = [...x.shape.keys()]
  return ops.permute(x, [...order.slice(0, -2), order.length - 1, order.length - 2])
}

/** x [..., M, K] with the outer dimensions of b: what shares one b moves into M. */
function stacked(ops: Ops, x: Tensor, b: Tensor): Tensor {
  const outer = b.shape.slice(0, -2)
  const own = x.shape.slice(0, -2)
  if (sameShape(outer, own)) return x
  const [b3, b2] = pair(outer)
  const [x3] = pair(own)
  assert(x3 === b3 || b2 === 1, `what shares one factor of a product is contiguous: ${x.shape}, ${b.shape}`)
  const width = x.shape.at(-1)!
  const rows = x.size / width / (b3 * b2)
  return ops.reshape(x, [...outer, rows, width])
}

function pair(outer: Shape): [number, number] {
  return [outer.at(-2) ?? 1, outer.at(-1) ?? 1]
}
