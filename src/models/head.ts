import { assert } from '../base/assert.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { ForwardPass } from './architecture.ts'
import { normalised } from './plain-layers.ts'
import type { Definition } from './registry.ts'

/**
 * Runs the network with `head` in the place of its last product. `head` gets what that multiplies, behind the last norm
 * ([M, W]), and the product itself ([M, V]) to be computed or not. What an architecture has behind its head is applied to
 * whatever `head` returns.
 */
export function forwardWithHead(
  { architecture, config }: Definition,
  pass: ForwardPass,
  head: (states: Tensor, logits: () => Tensor) => Tensor,
): Tensor {
  const last = architecture.products(config).at(-1)!.names[0]!
  let isSeen = false
  const result = architecture.forward(config, {
    ...pass,
    linear: (x, name, around = {}) => {
      if (name !== last) return pass.linear(x, name, around)
      assert(!isSeen && around.residual === undefined, 'the head is the last product')
      isSeen = true
      return head(normalised(pass.ops, x, around.norm), () => pass.linear(x, name, around))
    },
  })
  assert(isSeen, 'an architecture ends with its head')
  return result
}
