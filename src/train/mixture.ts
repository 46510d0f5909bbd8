/**
 * Mixtures of experts in training: by our kernels each expert computes the rows that chose it, without them every expert computes
 * every row and the shares of those that were not chosen are zero.
 *
 * N rows, E experts, K used, S = N K slots sorted by expert, F feed-forward of an expert, W width.
 */
import type { LinearLayers, Mixture } from '../models/architecture.ts'
import { normalised, type ParameterAccess } from '../models/plain-layers.ts'
import { type ExpertWeights, expertWeights } from '../models/plain-mixture.ts'
import { gateSteepness } from '../runtime/expert-ops.ts'
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
    const products = ops.matmul(h, parameters.weight(`${names.router}.weight`), {
      aside: false,
      precise: true,
    })
    const bias = `${names.router}.bias`
    const plain = parameters.has(bias) ? ops.add(products, parameters.weight(bias)) : products
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
  { experts, used, normalised, limit }: Mixture,
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
  const of = weights.biases && ops.expertsOfSlots(routes)
  const product = (x: Tensor, name: 'gate' | 'up' | 'down') => {
    const y = ops.byExpert(x, weights[name], routes, experts)
    return of === undefined ? y : ops.add(y, ops.rows(weights.biases![name], of))
  }
  const gated = trainedGate(ops, product(x, 'gate'), product(x, 'up'), limit) //        [S, F]
  return ops.mixExperts(product(gated, 'down'), routes, residual, experts) //           [N, W]
}

/** silu(gate) * up, or gpt-oss's clamped form of ops that have gradients. */
function trainedGate(ops: Ops, gate: Tensor, up: Tensor, limit: number | undefined): Tensor {
  if (limit === undefined) return ops.siluMul(gate, up)
  const [low, high] = [ops.clamp(gate, -floatMax, limit), ops.clamp(up, -limit, limit)]
  return ops.mul(ops.mul(low, ops.sigmoid(ops.scale(low, gateSteepness))), ops.affine(high, 1, 1))
}

/** Far below any number that a gate gets; what lies below is no number that matters. */
const floatMax = 1e30

/** Every expert computes every row. */
function dense(
  ops: Ops,
  h: Tensor,
  logits: Tensor,
  { gate, up, down, biases }: ExpertWeights,
  mixture: Mixture,
  balance: RouterBalance | undefined,
): Tensor {
  const { experts } = mixture
  const [rows, width] = h.shape as [number, number]
  const feedForward = down.shape[1]!
  const product = (weight: Tensor, bias: Tensor | undefined) => {
    const y = ops.matmul(h, weight)
    return bias === undefined ? y : ops.add(y, ops.reshape(bias, [bias.size]))
  }
  const [open, beside] = [product(gate, biases?.gate), product(up, biases?.up)]
  const all = trainedGate(ops, open, beside, mixture.limit) //                          [N, E*F]
  const each = denseShares(ops, logits, mixture, balance) //                            [N, E]
  const shares = ops.reshape(each, [rows, experts, 1])
  const shared = ops.mul(ops.reshape(all, [rows, experts, feedForward]), shares) //     [N, E, F]
  const byExpert = ops.contiguous(ops.permute(shared, [1, 0, 2])) //                    [E, N, F]
  const made = ops.matmul(byExpert, ops.reshape(down, [experts, width, feedForward])) // [E, N, W]
  const sum = ops.sumRows(ops.contiguous(ops.permute(made, [1, 2, 0]))) //              [N, W, 1]
  const mixed = ops.reshape(sum, [rows, width])
  return biases === undefined ? mixed : ops.add(mixed, ops.matmul(each, ops.transposed(biases.down)))
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
