/**
 * Operations that only our kernels have, for training: each is one pass where ggml would need several. A method
 * that gives undefined asks for those.
 *
 * N tokens, H heads, G key/value heads, D head width, W width.
 */
import { assert } from '../base/assert.ts'
import type { Pointer } from './ffi.ts'
import { rotaryPairs } from './kernel-ops.ts'
import { MixtureOps } from './mixture-ops.ts'
import type { RopeAttributes } from './op-attributes.ts'
import { rotaryMix } from './rotary.ts'
import type { Tensor } from './tensor.ts'

export interface CausalAttributes {
  /** How many sequences the tokens are. */
  sequences: number
  scale: number
}

interface NormAttributes {
  epsilon: number
}

/** What a norm without weight was made from, where our kernels can make it, too. */
function normOf(y: Tensor): { x: Tensor; centred: 0 | 1; epsilon: number } | undefined {
  if (y.op !== 'layerNorm' && y.op !== 'rmsNorm') return undefined
  const x = y.inputs[0]!
  const { epsilon } = y.attributes as NormAttributes
  return x.contiguous && x.dtype === 'F32' ? { x, centred: y.op === 'layerNorm' ? 1 : 0, epsilon } : undefined
}

/** Whether each row of x can be multiplied by it. */
function isRowOf(row: Tensor, x: Tensor): boolean {
  return row.shape.length === 1 && row.dtype === 'F32' && row.contiguous && row.size === x.shape.at(-1)
}

export function sameShape(a: Tensor, b: Tensor): boolean {
  return a.shape.length === b.shape.length && a.shape.every((length, i) => length === b.shape[i])
}

export class TrainingOps extends MixtureOps {
  /** True when {@link causalAttention} is there. */
  get attendsCausally(): boolean {
    return this.kernels !== undefined
  }

  /**
   * Causal attention of whole sequences without a matrix of all scores: q [N, H, D], k and v [N, G, D] (rows may be
   * strided), first [N] I32: the first row that each token sees, of its own sequence and never falling within it.
   * Gives [N, H*D]. Sinks [H] are scores of heads beside those of every row, without a value.
   */
  causalAttention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    first: Tensor,
    attributes: CausalAttributes,
    sinks?: Tensor,
  ) {
    const [tokens, heads, width] = q.shape as [number, number, number]
    const shape = [tokens, heads * width]
    const inputs = [q, k, v, first, ...(sinks === undefined ? [] : [sinks])]
    const sources = [...[q, k, v].map((x) => this.factor(x)), ...inputs.slice(3)]
    const pointer = this.kernelOp('causal_attention', this.#attention(attributes), shape, sources)
    assert(pointer !== undefined, 'causal attention is asked for where kernels are')
    return this.make('causalAttention', pointer, shape, inputs, attributes)
  }

  /**
   * Gradients of q, k and v side by side, [N, (H + 2G)*D], from that of the result y. With sinks [N, (H + 2G)*D + H]: behind
   * them what each row adds to those of sinks, whose sums over rows are their gradients.
   */
  causalAttentionBack(dy: Tensor, y: Tensor<'causalAttention'>) {
    const [q, k, , , sinks] = y.inputs as [Tensor, Tensor, Tensor, Tensor, Tensor?]
    const [tokens, heads, width] = q.shape as [number, number, number]
    const shape = [tokens, (heads + 2 * k.shape[1]!) * width + (sinks === undefined ? 0 : heads)]
    const inputs = [...y.inputs, dy]
    const sources = inputs.map((x) => this.factor(x))
    const pointer = this.kernelOp('causal_attention_back', this.#attention(y.attributes), shape, sources)
    assert(pointer !== undefined, 'causal attention is differentiated where kernels are')
    return this.make('causalAttentionBack', pointer, shape, inputs, {})
  }

  #attention(attributes: CausalAttributes) {
    return { ...attributes, pairs: this.precision === 'bf16' ? 1 : 0 }
  }

  /** Gradient of GELU in a pass of its own. */
  protected ownGeluBack(dy: Tensor, x: Tensor) {
    if (!x.contiguous || !dy.contiguous) return undefined
    const pointer = this.kernelOp('gelu_back', {}, x.shape, [dy, x])
    return pointer === undefined ? undefined : this.make('geluBack', pointer, x.shape, [dy, x], {})
  }

  /** Gradient of silu(gate) * up with respect to one of the two, in a pass of its own. */
  protected ownSiluMulBack(dy: Tensor, gate: Tensor, up: Tensor, of: 'gate' | 'up') {
    const inputs = [dy, gate, up]
    if (!inputs.every((x) => x.contiguous)) return undefined
    const pointer = this.kernelOp('silu_mul_back', { ofUp: of === 'up' ? 1 : 0 }, dy.shape, inputs)
    return pointer === undefined ? undefined : this.make('siluMulBack', pointer, dy.shape, inputs, {})
  }

  /** Gradient of a layer norm without weight. */
  layerNormBack(dy: Tensor, x: Tensor, epsilon: number) {
    const pointer = this.ownNormBack(dy, x, 1, epsilon)
    return pointer === undefined
      ? undefined
      : this.make('layerNormBack', pointer, x.shape, [dy, x], { epsilon })
  }

  /**
   * The gradient of x through a norm, plus `added`. Where dy is a product with the norm's weight, that is made on the
   * way, and the product is nobody's.
   */
  protected ownNormBack(dy: Tensor, x: Tensor, centred: 0 | 1, epsilon: number, added?: Tensor) {
    const weight = dy.op === 'mul' && isRowOf(dy.inputs[1]!, x) ? dy.inputs[1]! : undefined
    const slope = weight === undefined ? dy : dy.inputs[0]!
    const sources = [slope, x, ...(weight ? [weight] : []), ...(added ? [added] : [])]
    if (!sources.every((source) => source.contiguous && source.dtype === 'F32')) return undefined
    if (added !== undefined && !sameShape(added, x)) return undefined
    const params = { centred, epsilon, weighted: weight ? 1 : 0, added: added ? 1 : 0 }
    return this.kernelOp('norm_back', params, x.shape, sources)
  }

  /** The gradient that y is, through a norm, made again with something added. */
  protected normBackAnd(y: Tensor, added: Tensor): Pointer | undefined {
    if (y.op !== 'layerNormBack' && y.op !== 'rmsNormBack') return undefined
    const { epsilon } = y.attributes as NormAttributes
    return this.ownNormBack(y.inputs[0]!, y.inputs[1]!, y.op === 'layerNormBack' ? 1 : 0, epsilon, added)
  }

  /** The norm that y is times a weight, in one pass. */
  protected normTimes(y: Tensor, weight: Tensor): Pointer | undefined {
    const norm = normOf(y)
    if (norm === undefined || !isRowOf(weight, y)) return undefined
    const { x, centred, epsilon } = norm
    return this.kernelOp('norm', { centred, epsilon, weighted: 1 }, x.shape, [x, weight])
  }

  /** A norm without weight. */
  protected ownNorm(x: Tensor, centred: 0 | 1, epsilon: number): Pointer | undefined {
    if (!x.contiguous || x.dtype !== 'F32') return undefined
    return this.kernelOp('norm', { centred, epsilon, weighted: 0 }, x.shape, [x])
  }

  /** Sum over all rows of a [..., W], or of a * b: [W]. A norm b is made on the way. */
  sumOverRows(a: Tensor, b?: Tensor) {
    if (!a.contiguous || b?.contiguous === false) return undefined
    const shape = [a.shape.at(-1)!]
    const inputs = b === undefined ? [a] : [a, b]
    const norm = b && normOf(b)
    const pointer = norm
      ? this.kernelOp('norm_weight_back', { centred: norm.centred, epsilon: norm.epsilon }, shape, [
          a,
          norm.x,
        ])
      : this.kernelOp('sum_over_rows', { product: inputs.length - 1 }, shape, inputs)
    return pointer === undefined ? undefined : this.make('sumOverRows', pointer, shape, inputs, {})
  }

  /** Share of each row's target in the softmax of logits [M, V]: [M, 1]; cells [M] I32: row * V + target. */
  chosenShares(logits: Tensor, cells: Tensor) {
    const shape = [logits.shape[0]!, 1]
    const pointer = this.ownPass('chosen_shares', [logits, cells], shape)
    return pointer === undefined ? undefined : this.make('chosenShares', pointer, shape, [logits, cells], {})
  }

  /** Gradient of the logits [M, V] of {@link chosenShares} for sum(weight * -ln(share)), weights [M, 1]. */
  chosenSharesBack(logits: Tensor, cells: Tensor, weights: Tensor) {
    const inputs = [logits, cells, weights]
    const pointer = this.ownPass('shares_back', inputs)
    assert(pointer !== undefined, 'shares are differentiated where they were found')
    return this.make('chosenSharesBack', pointer, logits.shape, inputs, {})
  }

  /** An op without parameters over contiguous tensors, of which the first has the shape of the result by default. */
  protected ownPass(
    op: 'silu_mul' | 'chosen_shares' | 'shares_back',
    inputs: readonly Tensor[],
    shape = inputs[0]!.shape,
  ) {
    if (!inputs.every((x) => x.contiguous && (x.dtype === 'F32' || x.dtype === 'I32'))) return undefined
    return this.kernelOp(op, {}, shape, inputs)
  }

  protected ownAffine(x: Tensor, factor: number, offset: number): Pointer | undefined {
    if (!x.contiguous || x.dtype !== 'F32') return undefined
    return this.kernelOp('affine', { factor, offset }, x.shape, [x])
  }

  protected ownGather(table: Tensor, ids: Tensor): Pointer | undefined {
    const fits =
      table.dtype === 'F32' && table.contiguous && table.shape.length === 2 && ids.shape.length === 1
    return fits ? this.kernelOp('gather_rows', {}, [ids.size, table.shape[1]!], [table, ids]) : undefined
  }

  protected ownScatter(dy: Tensor, ids: Tensor, table: Tensor): Pointer | undefined {
    if (!dy.contiguous || dy.shape.length !== 2 || table.shape.length !== 2) return undefined
    return this.kernelOp('scatter_rows', { into: 0 }, table.shape, [dy, ids])
  }

  /** The rows that x, a gradient of a table, would be made of, added to `into` itself; x is then nobody's. */
  protected scatterInto(x: Tensor, into: Tensor): Pointer | undefined {
    if (x.op !== 'rowsBack' || !into.contiguous || into.dtype !== 'F32' || into.shape.length !== 2)
      return undefined
    const [dy, ids] = x.inputs as [Tensor, Tensor]
    if (!dy.contiguous || dy.shape.length !== 2) return undefined
    return this.kernelOp('scatter_rows', { into: 1 }, [4], [dy, ids, into])
  }

  readonly #angles = new Map<string, Tensor>()

  /** x turned, or turned back. */
  protected ownRope(
    op: 'rope' | 'ropeBack',
    x: Tensor,
    positions: Tensor,
    attributes: RopeAttributes,
    factors?: Tensor,
  ): Pointer | undefined {
    const strided = x.dtype === 'F32' && x.shape.length === 3 && x.strides[2] === 4
    if (!strided || this.kernels === undefined) return undefined
    const table = this.#anglesOf(op === 'rope' ? 1 : -1, positions, attributes, factors)
    const pairs = rotaryPairs[attributes.layout === 'neox' ? 'halves' : 'neighbours']
    return this.kernelOp('rope', { pairs }, x.shape, [x, table])
  }

  /** Cosines and sines [N, R] of one direction, computed once for all layers. */
  #anglesOf(sign: 1 | -1, positions: Tensor, attributes: RopeAttributes, factors?: Tensor): Tensor {
    const key = [sign, positions.pointer, factors?.pointer, JSON.stringify(attributes)].join(' ')
    const known = this.#angles.get(key)
    if (known !== undefined) return known
    const { dimensions, base, scale, extFactor } = attributes
    const params = { base, scale, mixed: extFactor, ...rotaryMix(attributes), sign, divided: factors ? 1 : 0 }
    const shape = [positions.size, dimensions]
    const pointer = this.kernelOp('rope_angles', params, shape, factors ? [positions, factors] : [positions])!
    const table = this.make('custom', pointer, shape, [], { name: 'rope_angles' })
    this.#angles.set(key, table)
    return table
  }

  /** Sums of the squares of 8192 elements each, one behind the other. */
  squareSums(x: Tensor) {
    const shape = [Math.ceil(x.size / 8192)]
    const pointer = this.kernelOp('square_sum', {}, shape, [x])
    return pointer === undefined ? undefined : this.make('squareSums', pointer, shape, [x], {})
  }

  /**
   * One AdamW step in place (Loshchilov 2017): settings [8] F32 are learning rate, beta1, beta2, epsilon, weight
   * decay, 1/(1-beta1^t), 1/(1-beta2^t) and a factor on the gradient.
   */
  fusedAdamw(weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, settings: Tensor) {
    const inputs = [weight, gradient, mean, square, settings]
    const pointer = this.kernelOp('adamw', {}, [4], inputs)
    return pointer === undefined ? undefined : this.make('adamw', pointer, [4], inputs, {})
  }
}
