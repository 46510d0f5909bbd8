/**
 * Operations that only our kernels have, for training: each is one pass where ggml would need several. A method
 * that gives undefined asks for those.
 *
 * N tokens, H heads, G key/value heads, D head width, W width.
 */
import { assert } from '../base/assert.ts'
import type { Pointer } from './ffi.ts'
import type { Tensor } from './tensor.ts'
import { ViewOps } from './view-ops.ts'

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

export class TrainingOps extends ViewOps {
  /** True when {@link causalAttention} is there. */
  get attendsCausally(): boolean {
    return this.kernels !== undefined
  }

  /**
   * Causal attention of whole sequences without a matrix of all scores: q [N, H, D], k and v [N, G, D] (rows may be
   * strided), first [N] I32: the first row that each token sees, of its own sequence and never falling within it.
   * Gives [N, H*D].
   */
  causalAttention(q: Tensor, k: Tensor, v: Tensor, first: Tensor, attributes: CausalAttributes) {
    const [tokens, heads, width] = q.shape as [number, number, number]
    const shape = [tokens, heads * width]
    const inputs = [q, k, v, first]
    const pointer = this.kernelOp('causal_attention', this.#attention(attributes), shape, inputs)
    assert(pointer !== undefined, 'causal attention is asked for where kernels are')
    return this.make('causalAttention', pointer, shape, inputs, attributes)
  }

  /** Gradients of q, k and v side by side, [N, (H + 2G)*D], from that of the result y. */
  causalAttentionBack(dy: Tensor, y: Tensor<'causalAttention'>) {
    const [q, k] = y.inputs as [Tensor, Tensor]
    const [tokens, heads, width] = q.shape as [number, number, number]
    const shape = [tokens, (heads + 2 * k.shape[1]!) * width]
    const inputs = [...y.inputs, dy]
    const pointer = this.kernelOp('causal_attention_back', this.#attention(y.attributes), shape, inputs)
    assert(pointer !== undefined, 'causal attention is differentiated where kernels are')
    return this.make('causalAttentionBack', pointer, shape, inputs, {})
  }

  #attention(attributes: CausalAttributes) {
    return { ...attributes, pairs: this.precision === 'bf16' ? 1 : 0 }
  }

  geluBack(dy: Tensor, x: Tensor) {
    if (!x.contiguous || !dy.contiguous) return undefined
    const pointer = this.kernelOp('gelu_back', {}, x.shape, [dy, x])
    return pointer === undefined ? undefined : this.make('geluBack', pointer, x.shape, [dy, x], {})
  }

  /** Gradient of silu(gate) * up with respect to one of the two. */
  siluMulBack(dy: Tensor, gate: Tensor, up: Tensor, of: 'gate' | 'up') {
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
