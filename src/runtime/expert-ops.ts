/** Operations of mixtures of experts. N rows, E experts, K used by a row, W inputs, F outputs of an expert. */
import { assert } from '../base/assert.ts'
import type { Tensor } from './tensor.ts'
import { ViewOps } from './view-ops.ts'

/** What a clamped gate's inputs are multiplied by in front of the sigmoid. */
export const gateSteepness = 1.702

export class ExpertOps extends ViewOps {
  /** Indices of the elements of each row of x [N, E], the largest first: [N, E] (I32). */
  argsort(x: Tensor) {
    // GGML_SORT_ORDER_DESC
    const pointer = this.arena.ggml.argsort(this.arena.context, x.pointer, 1)
    return this.make('argsort', pointer, x.shape, [x], {}, 'I32')
  }

  /**
   * x [N, K, W], or [N, 1, W] for the same row K times, by the experts `ids` [N, K] (I32) of a weight that holds `experts`
   * below one another, [E*F, W], in any format: [N, K, F].
   */
  expertProduct(x: Tensor, weight: Tensor, experts: number, ids: Tensor): Tensor<'expertProduct'> {
    const [rows, inputs] = weight.shape as [number, number]
    const outputs = rows / experts
    assert(
      Number.isInteger(outputs) && x.shape[2] === inputs,
      `experts of ${weight.shape} multiply ${x.shape}`,
    )
    const { ggml, context } = this.arena
    const each = this.reshape(weight, [experts, outputs, inputs])
    const pointer = ggml.mulMatId(context, each.pointer, x.pointer, ids.pointer)
    return this.make('expertProduct', pointer, [...ids.shape, outputs], [x, weight, ids], { experts })
  }

  /** x [N, K, F] plus, of biases [E, F], that of each of the experts `ids` [N, K] (I32). */
  expertBias(x: Tensor, biases: Tensor, ids: Tensor): Tensor<'expertBias'> {
    const { ggml, context } = this.arena
    const pointer = ggml.addId(context, x.pointer, biases.pointer, ids.pointer)
    return this.make('expertBias', pointer, x.shape, [x, biases, ids], {})
  }

  /** gate sigmoid(1.702 gate) (up + 1), gate at most `limit` and up at most that far from 0 (gpt-oss: Agarwal 2025). */
  clampedGate(gate: Tensor, up: Tensor, limit: number) {
    const { ggml, context } = this.arena
    const pointer = ggml.swigluOai(context, gate.pointer, up.pointer, gateSteepness, limit)
    return this.make('clampedGate', pointer, gate.shape, [gate, up], { limit })
  }

  /** x, but at least `low` and at most `high`. */
  clamp(x: Tensor, low: number, high: number) {
    const pointer = this.arena.ggml.clamp(this.arena.context, x.pointer, low, high)
    return this.make('clamp', pointer, x.shape, [x], { low, high })
  }

  /** 1 where x is above 0, else 0. */
  step(x: Tensor) {
    return this.make('step', this.arena.ggml.step(this.arena.context, x.pointer), x.shape, [x], {})
  }
}
