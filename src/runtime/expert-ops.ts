/** Operations of mixtures of experts. N rows, E experts, K used by a row, W inputs, F outputs of an expert. */
import { assert } from '../base/assert.ts'
import type { Tensor } from './tensor.ts'
import { ViewOps } from './view-ops.ts'

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
}
