/**
 * The gradient of a slice is zero outside it. Keeping it as a slab lets slices that tile a tensor (the q, k
 * and v of one product) be joined by copying, without zeros and additions.
 */
import { assert } from '../base/assert.ts'
import type { OpAttributes } from '../runtime/op-attributes.ts'
import type { Ops } from '../runtime/ops.ts'
import type { Tensor } from '../runtime/tensor.ts'

/** A gradient that is zero outside [start, start + part.shape[dimension]) of one dimension. */
export interface Slab {
  dimension: number
  start: number
  part: Tensor
}

/** A gradient, whole or a slab of it. */
export type Contribution = Tensor | Slab

/** The sum of all contributions to the gradient of x. */
export function sumOf(ops: Ops, x: Tensor, contributions: readonly Contribution[]): Tensor {
  const slabs = contributions.filter((entry): entry is Slab => 'part' in entry)
  const whole = contributions.filter((entry): entry is Tensor => !('part' in entry))
  const spread = tiles(x, slabs)
    ? [cutFrom(x, slabs) ?? concatenated(ops, slabs)]
    : slabs.map((slab) => padded(ops, x, slab))
  const [first, ...others] = [...whole, ...spread]
  assert(first !== undefined, 'a gradient has at least one contribution')
  return others.reduce((sum, next) => ops.add(sum, next), first)
}

/** Whether the slabs cover x exactly once, all along one dimension. */
function tiles(x: Tensor, slabs: readonly Slab[]): boolean {
  const dimension = slabs[0]?.dimension
  if (dimension === undefined) return false
  let end = 0
  for (const slab of inOrder(slabs)) {
    if (slab.dimension !== dimension || slab.start !== end) return false
    end += slab.part.shape[dimension]!
  }
  return end === x.shape[dimension]
}

/** The tensor that slabs which cover x were cut from, when they lie in it as in x. */
function cutFrom(x: Tensor, slabs: readonly Slab[]): Tensor | undefined {
  const whole = slabs[0]!.part.inputs[0]
  const same = slabs.every(({ part, dimension, start }) => {
    if (part.op !== 'slice' || part.inputs[0] !== whole) return false
    const cut = part.attributes as OpAttributes['slice']
    return cut.dimension === dimension && cut.start === start
  })
  const fits =
    whole?.shape.length === x.shape.length && whole.shape.every((length, i) => length === x.shape[i])
  return same && fits ? whole : undefined
}

function inOrder(slabs: readonly Slab[]): Slab[] {
  return [...slabs].sort((a, b) => a.start - b.start)
}

function concatenated(ops: Ops, slabs: readonly Slab[]): Tensor {
  const parts = inOrder(slabs).map((slab) => slab.part)
  return parts.reduce((joined, part) => ops.concat(joined, part, slabs[0]!.dimension))
}

function padded(ops: Ops, x: Tensor, { dimension, start, part }: Slab): Tensor {
  const zeros = (from: number, length: number) =>
    ops.fill(ops.contiguous(ops.slice(x, dimension, from, length)), 0)
  const end = start + part.shape[dimension]!
  const length = x.shape[dimension]!
  const behind = start > 0 ? ops.concat(zeros(0, start), part, dimension) : part
  return end < length ? ops.concat(behind, zeros(end, length - end), dimension) : behind
}
