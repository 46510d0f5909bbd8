/**
 * Making the same tensors again, for training with less memory: what lies between two cuts of a network is forgotten
 * after the forward pass and computed once more when its gradients are due (Chen 2016).
 */
import { assert } from '../base/assert.ts'
import type { OpName } from '../runtime/op-attributes.ts'
import type { Ops } from '../runtime/ops.ts'
import type { Tensor } from '../runtime/tensor.ts'

type Replay<Op extends OpName> = (ops: Ops, tensor: Tensor<Op>, inputs: readonly Tensor[]) => Tensor

/** How each op is made again from other inputs, or 'none' for what no forward pass in training has. */
const replays: { readonly [Op in OpName]: Replay<Op> | 'none' } = {
  leaf: 'none',
  add: (ops, _, [a, b]) => ops.add(a!, b!),
  sub: (ops, _, [a, b]) => ops.sub(a!, b!),
  mul: (ops, _, [a, b]) => ops.mul(a!, b!),
  div: (ops, _, [a, b]) => ops.div(a!, b!),
  accumulate: 'none',
  scale: (ops, { attributes }, [x]) => ops.scale(x!, attributes.factor),
  affine: (ops, { attributes }, [x]) => ops.affine(x!, attributes.factor, attributes.offset),
  fill: (ops, { attributes }, [x]) => ops.fill(x!, attributes.value),
  sqr: (ops, _, [x]) => ops.sqr(x!),
  sqrt: (ops, _, [x]) => ops.sqrt(x!),
  log: (ops, _, [x]) => ops.log(x!),
  exp: (ops, _, [x]) => ops.exp(x!),
  sigmoid: (ops, _, [x]) => ops.sigmoid(x!),
  softplus: (ops, _, [x]) => ops.softplus(x!),
  sum: (ops, _, [x]) => ops.sum(x!),
  sumRows: (ops, _, [x]) => ops.sumRows(x!),
  repeat: (ops, _, [x, like]) => ops.repeat(x!, like!),
  repeatBack: 'none',
  concat: (ops, { attributes }, [a, b]) => ops.concat(a!, b!, attributes.dimension),
  silu: (ops, _, [x]) => ops.silu(x!),
  siluBack: 'none',
  gelu: (ops, _, [x]) => ops.gelu(x!),
  tanh: (ops, _, [x]) => ops.tanh(x!),
  siluMul: (ops, _, [gate, up]) => ops.siluMul(gate!, up!),
  clampedGate: (ops, { attributes }, [gate, up]) => ops.clampedGate(gate!, up!, attributes.limit),
  clamp: (ops, { attributes }, [x]) => ops.clamp(x!, attributes.low, attributes.high),
  step: (ops, _, [x]) => ops.step(x!),
  rmsNorm: (ops, { attributes }, [x]) => ops.rmsNorm(x!, attributes.epsilon),
  rmsNormBack: 'none',
  layerNorm: (ops, { attributes }, [x]) => ops.layerNorm(x!, attributes.epsilon),
  matmul: (ops, { attributes }, [a, b]) => ops.matmul(a!, b!, attributes),
  outerProduct: 'none',
  softmax: (ops, { attributes }, [x, mask]) => ops.softmax(x!, mask, attributes.scale),
  softmaxBack: 'none',
  rope: (ops, { attributes }, [x, positions, factors]) => ops.rope(x!, positions!, attributes, factors),
  ropeBack: 'none',
  rows: (ops, _, [table, ids]) => ops.rows(table!, ids!),
  rowsBack: 'none',
  setRows: 'none',
  contiguous: (ops, _, [x]) => ops.contiguous(x!),
  cast: (ops, { dtype }, [x]) => ops.cast(x!, dtype),
  copy: 'none',
  reshape: (ops, { shape }, [x]) => ops.reshape(x!, shape),
  slice: (ops, { shape, attributes: { dimension, start } }, [x]) =>
    ops.slice(x!, dimension, start, shape[dimension]!),
  splitRows: (ops, { shape }, [x]) => ops.splitRows(x!, shape[1]!, shape[2]!),
  window: (ops, { shape, strides, attributes }, [x]) => ops.window(x!, shape, strides, attributes.offset),
  permute: (ops, { attributes }, [x]) => ops.permute(x!, attributes.order),
  transposed: (ops, _, [x]) => ops.transposed(x!),
  argmax: 'none',
  argsort: (ops, _, [x]) => ops.argsort(x!),
  expertProduct: (ops, { attributes }, [x, weight, ids]) =>
    ops.expertProduct(x!, weight!, attributes.experts, ids!),
  expertBias: (ops, _, [x, biases, ids]) => ops.expertBias(x!, biases!, ids!),
  route: (ops, { attributes }, [logits]) => ops.route(logits!, attributes),
  routeBack: 'none',
  balanced: (ops, { attributes }, [logits]) => ops.balanced(logits!, attributes),
  byExpert: (ops, { attributes }, [x, weight, routes]) =>
    ops.byExpert(x!, weight!, routes!, attributes.experts),
  mixExperts: (ops, { attributes }, [made, routes, residual]) =>
    ops.mixExperts(made!, routes!, residual!, attributes.experts),
  mixExpertsBack: 'none',
  sharesByExpertBack: 'none',
  detached: 'none',
  attention: 'none',
  causalAttention: (ops, { attributes }, [q, k, v, first, sinks]) =>
    ops.causalAttention(q!, k!, v!, first!, attributes, sinks),
  causalAttentionBack: 'none',
  geluBack: 'none',
  siluMulBack: 'none',
  layerNormBack: 'none',
  sumOverRows: 'none',
  squareSums: 'none',
  chosenShares: 'none',
  chosenSharesBack: 'none',
  adamw: 'none',
  custom: 'none',
}

/** `end` made again from `start`, which stands for `from`; without them, from the leaves. */
export function replayed(ops: Ops, end: Tensor, from?: Tensor, start?: Tensor): Tensor {
  const made = new Map<Tensor, Tensor>()
  if (from !== undefined && start !== undefined) made.set(from, start)
  const again = (tensor: Tensor): Tensor => {
    const known = made.get(tensor)
    if (known !== undefined) return known
    // Weights, inputs, and what gradients do not pass stay as they are.
    if (tensor.inputs.length === 0) return tensor
    const replay = replays[tensor.op]
    assert(replay !== 'none', `${tensor.op} can be computed again`)
    const copy = (replay as Replay<OpName>)(ops, tensor, tensor.inputs.map(again))
    made.set(tensor, copy)
    return copy
  }
  return again(end)
}

/** Fewer tensors between two cuts are not worth one. */
const segmentTensorsMin = 8

/**
 * The tensors at which nothing else is under way: between them, segments of a network. `order` holds tensors with
 * inputs before results; the last is the network's result and is no cut.
 */
export function cutsOf(order: readonly Tensor[]): Tensor[] {
  const inside = new Set(order)
  const uses = new Map<Tensor, number>()
  for (const { inputs } of order)
    for (const input of new Set(inputs)) if (inside.has(input)) uses.set(input, (uses.get(input) ?? 0) + 1)
  const live = new Set<Tensor>()
  const cuts: Tensor[] = []
  let since = 0
  for (const tensor of order.slice(0, -1)) {
    if (tensor.inputs.length === 0) continue
    live.add(tensor)
    since++
    for (const input of new Set(tensor.inputs)) {
      const left = (uses.get(input) ?? 0) - 1
      uses.set(input, left)
      if (left <= 0) live.delete(input)
    }
    // A view's memory is its input's, which may be used again.
    const joins = tensor.op === 'add' || tensor.op === 'mixExperts'
    const isCut = live.size === 1 && live.has(tensor) && tensor.contiguous && joins
    if (!isCut || since < segmentTensorsMin) continue
    cuts.push(tensor)
    since = 0
  }
  return cuts
}
