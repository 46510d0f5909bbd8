/**
 * Mixtures of experts in training: by our kernels each expert computes the rows that chose it, without them every expert computes
 * every row and the shares of those that were not chosen are zero.
 *
 * N rows, E experts, K used, S = N K slots sorted by expert, F feed-forward of an expert, W width.
 */
import type { LinearLayers, Mixture } from '../models/architecture.ts'
import { normalised, type ParameterAccess } from '../models/plain-layers.ts'
import { type ExpertWeights, expertWeights } from '../models/plain-mixture.ts'
import type { Ops } from '../runtime/ops.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { RouterBalance } from './router-balance.ts'

/** With `balance`, it is told which experts are used, and moves the routers. */
export function trainedMixture(
  ops: Ops,
  parameters: ParameterAccess,
  balance?: RouterBalance,
): LinearLayers['mixed'] {
  return (x, names, mixture, norm, residual) => {
    const h = normalised(ops, x, norm)
    // Rounded, the logits would choose other experts than a model that serves.
    const plain = ops.matmul(h, parameters.weight(`${names.router}.weight`), { aside: false, precise: true })
    const logits = balance?.seen(ops, plain) ?? plain
    const weights = expertWeights(parameters, names)
    return ops.mixes([weights.gate, weights.up, weights.down])
      ? bySlots(ops, h, logits, weights, mixture, residual, balance)
      : ops.add(residual, dense(ops, h, logits, weights, mixture, balance))
  }
}

function bySlots(
  ops: Ops,
  h: Tensor,
  logits: Tensor,
  weights: ExpertWeights,
  { experts, used, normalised }: Mixture,
  residual: Tensor,
  balance: RouterBalance | undefined,
): Tensor {
  const routes = ops.route(logits, { used, normalised })
  if (balance !== undefined) {
    const cells = ops.reshape(ops.detached(logits), [logits.size, 1])
    const ids = ops.cellsOfSlots(routes)
    const ones = ops.fill(ops.rows(cells, ids), 1) //                                   [S, 1]
    balance.use(ops, ops.reshape(ops.rowsBack(ones, ids, cells), logits.shape))
  }
  const x = ops.rows(h, ops.rowsOfSlots(routes)) //                                     [S, W]
  const product = (x: Tensor, weight: Tensor) => ops.byExpert(x, weight, routes, experts)
  const gated = ops.siluMul(product(x, weights.gate), product(x, weights.up)) //        [S, F]
  return ops.mixExperts(product(gated, weights.down), routes, residual, experts) //     [N, W]
}

/** Every expert computes every row. */
function dense(
  ops: Ops,
  h: Tensor,
  logits: Tensor,
  { gate, up, down }: ExpertWeights,
  mixture: Mixture,
  balance: RouterBalance | undefined,
): Tensor {
  const { experts } = mixture
  const [rows, width] = h.shape as [number, number]
  const feedForward = down.shape[1]!
  const all = ops.siluMul(ops.matmul(h, gate), ops.matmul(h, up)) //                    [N, E*F]
  const shares = ops.reshape(denseShares(ops, logits, mixture, balance), [rows, experts, 1])
  const shared = ops.mul(ops.reshape(all, [rows, experts, feedForward]), shares) //     [N, E, F]
  const byExpert = ops.contiguous(ops.permute(shared, [1, 0, 2])) //                    [E, N, F]
  const made = ops.matmul(byExpert, ops.reshape(down, [experts, width, feedForward])) // [E, N, W]
  const sum = ops.sumRows(ops.contiguous(ops.permute(made, [1, 2, 0]))) //              [N, W, 1]
  return ops.reshape(sum, [rows, width])
}

/** [N, E]: zero where an expert is not chosen. */
function denseShares(
  ops: Ops,
  logits: Tensor,
  { experts, used, normalised }: Mixture,
  balance: RouterBalance | undefined,
): Tensor {
  const [rows] = logits.shape as [number]
  const chosen = ops.slice(ops.argsort(logits), 1, 0, used) //                          [N, K]
  const cells = ops.reshape(logits, [rows, experts, 1])
  /** `inside` for those that are chosen, `outside` for the others. */
  const marked = (inside: number, outside: number) => {
    const values = ops.slice(ops.fill(cells, inside), 1, 0, used) //                    [N, K, 1]
    const marks = ops.setRows(ops.fill(cells, outside), values, chosen)
    return ops.detached(ops.reshape(marks, [rows, experts]))
  }
  balance?.use(ops, marked(1, 0))
  if (normalised) return ops.softmax(logits, marked(0, Number.NEGATIVE_INFINITY), 1)
  return ops.mul(ops.softmax(logits, undefined, 1), marked(1, 0))
}
