/**
 * Reverse-mode differentiation over the record that every tensor keeps of its making: visit results before
 * what they were made from, add up what each one contributes, hand the sum on.
 */
import { assert } from '../base/assert.ts'
import type { OpName } from '../runtime/op-attributes.ts'
import type { Ops } from '../runtime/ops.ts'
import type { Tensor } from '../runtime/tensor.ts'
import { type Gradient, gradients, type RuleContext } from './gradients.ts'
import { cutsOf, replayed } from './replay.ts'
import { type Contribution, sumOf } from './slabs.ts'

/** What receives gradients. It is told of every use of a tensor apart, as soon as that part is known. */
export type GradientSink = (wanted: Tensor, gradient: Tensor) => void

/**
 * {@link backward} with less memory: what lies between the cuts of the network is computed again, segment by segment
 * from the last to the first, when its gradients are due. `expand` runs a tensor now.
 */
export function backwardInSegments(
  ops: Ops,
  y: Tensor,
  dy: Tensor,
  wanted: ReadonlySet<Tensor>,
  sink: GradientSink,
  expand: (tensor: Tensor) => void,
): void {
  let [end, slope] = [y, dy]
  let isLast = true
  for (const cut of cutsOf(dependents(y, wanted)).reverse()) {
    // The last segment was computed just now, so its own tensors are still there.
    const start = isLast ? cut : ops.detached(cut)
    const result = isLast ? end : replayed(ops, end, cut, start)
    isLast = false
    const parts: Tensor[] = []
    backward(ops, result, slope, new Set([...wanted, start]), (tensor, part) =>
      tensor === start ? void parts.push(part) : sink(tensor, part),
    )
    slope = parts.reduce((sum, part) => ops.add(sum, part))
    expand(slope)
    end = cut
  }
  backward(ops, isLast ? end : replayed(ops, end), slope, wanted, sink)
}

/**
 * Adds the nodes that compute the gradients of `wanted` from the gradient dy of y. The caller runs them in
 * the order it hears of them, so that memory of what lies behind is free again.
 */
export function backward(ops: Ops, y: Tensor, dy: Tensor, wanted: ReadonlySet<Tensor>, sink: GradientSink) {
  const order = dependents(y, wanted)
  const relevant = new Set(order)
  const context = ruleContext(ops)
  const waiting = new Map<Tensor, Contribution[]>([[y, [dy]]])
  for (const tensor of order.reverse()) {
    const contributions = waiting.get(tensor)
    waiting.delete(tensor)
    if (contributions === undefined || tensor.inputs.length === 0) continue
    const sum = sumOf(ops, tensor, contributions)
    const stays = movers.has(tensor.op) || (tensor.op === 'slice' && sum.op === 'slice')
    const total = stays ? sum : context.packed(sum)
    const rule = ruleOf(tensor)(context, tensor, total)
    for (const [index, input] of tensor.inputs.entries()) {
      const make = rule[index]
      if (make === undefined || !relevant.has(input)) continue
      if (!wanted.has(input)) waiting.set(input, [...(waiting.get(input) ?? []), make()])
      else sink(input, context.packed(sumOf(ops, input, [make()])))
    }
  }
}

/** Ops whose gradient is another view of what they are given: packing can wait, often until it is not needed. */
const movers: ReadonlySet<OpName> = new Set([
  ...(['permute', 'transposed', 'contiguous', 'splitRows'] as const),
])

function ruleOf(tensor: Tensor): Gradient<OpName> {
  const rule = gradients[tensor.op]
  assert(rule !== 'none', `${tensor.op} can be differentiated`)
  // The table is keyed by op, so the rule takes tensors of that op; TypeScript cannot relate the two.
  return rule as Gradient<OpName>
}

/** All tensors between `wanted` and y, inputs before results. */
export function dependents(y: Tensor, wanted: ReadonlySet<Tensor>): Tensor[] {
  const order: Tensor[] = []
  const needed = new Map<Tensor, boolean>()
  const visit = (tensor: Tensor): boolean => {
    const known = needed.get(tensor)
    if (known !== undefined) return known
    let needs = wanted.has(tensor)
    for (const input of tensor.inputs) if (visit(input)) needs = true
    needed.set(tensor, needs)
    if (needs) order.push(tensor)
    return needs
  }
  visit(y)
  return order
}

function ruleContext(ops: Ops): RuleContext {
  const packed = memoised((x: Tensor) => (x.contiguous ? x : ops.contiguous(x)))
  const transposed = (x: Tensor) => (x.op === 'transposed' ? x.inputs[0]! : ops.transposed(x))
  return { ops, packed, transposed: memoised(transposed) }
}

function memoised(make: (x: Tensor) => Tensor): (x: Tensor) => Tensor {
  const made = new Map<Tensor, Tensor>()
  return (x) => {
    const known = made.get(x) ?? make(x)
    made.set(x, known)
    return known
  }
}
