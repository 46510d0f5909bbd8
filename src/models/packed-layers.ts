/** The products of a network by our kernels, each with the norm in front and the bias, gate or residual behind. */

import { type KernelOp, type KernelParams, linearGates } from '../runtime/kernel-ops.ts'
import {
  expertOps,
  type KernelCall,
  type KernelContext,
  linearOps,
  packedFormats,
} from '../runtime/kernels.ts'
import type { Ops } from '../runtime/ops.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { GateActivation, InputNorm, LinearLayers } from './architecture.ts'
import type { PackedProduct, PackedWeights } from './packed-weights.ts'
import { gatedBy } from './plain-layers.ts'

/** The calls of one compute context, one for each way of calling: they keep no state between ops. */
export class PackedCalls {
  /** Whether two products can hand activations over as codes. */
  readonly handsCodesOver: boolean
  readonly #context: KernelContext
  readonly #calls = new Map<string, KernelCall>()

  constructor(context: KernelContext) {
    this.#context = context
    this.handsCodesOver = context.offers('linear_q8_into_codes')
  }

  call<Op extends KernelOp>(op: Op, params: KernelParams<Op>): KernelCall {
    const key = `${op} ${JSON.stringify(params)}`
    let call = this.#calls.get(key)
    if (call === undefined) this.#calls.set(key, (call = this.#context.call(op, params)))
    return call
  }
}

/** Which adapter each row has, for the kernels to look up. */
export interface AdaptedTensors {
  /** I32 [rows]: slots of the rows of a tensor with so many. */
  slots(rows: number): Tensor
  /** The factors of each slot at this product. */
  tableOf(product: PackedProduct): Tensor
}

/**
 * Whether a gated product may leave the codes that its only reader multiplies where its floats would be. Both ops do so where rows
 * are many, and move a quarter of the bytes then. One thread makes a whole block of codes, for which its second cache has to hold
 * 32 panels of the product: hence the limit on inputs.
 */
function handedOver(calls: PackedCalls, product: PackedProduct, reader: PackedProduct | undefined): boolean {
  if (product.group.kind !== 'gated' || product.format !== 'q8' || reader?.format !== 'q8') return false
  const fits = product.inputs <= 2048 && product.outputs % 32 === 0 && reader.inputs === product.outputs
  return fits && calls.handsCodesOver
}

/** Products that were not packed go to `plain`. */
export function packedLayers(
  ops: Ops,
  packed: PackedWeights,
  calls: PackedCalls,
  plain: LinearLayers,
  adapted?: AdaptedTensors,
): LinearLayers {
  /** Results that lie in memory as `handedOver` says. */
  const codes = new WeakSet<Tensor>()
  const run = (
    product: PackedProduct,
    x: Tensor,
    norm: InputNorm | undefined,
    {
      residual,
      activation = 'silu',
      reader,
    }: {
      residual?: Tensor | undefined
      activation?: GateActivation
      reader?: PackedProduct | undefined
    } = {},
  ) => {
    const hands = adapted === undefined && handedOver(calls, product, reader)
    const rows = x.shape[0]!
    const adapters = adapted === undefined ? [] : [adapted.slots(rows), adapted.tableOf(product)]
    const present = [norm?.weight, product.bias, residual, ...adapters]
    const params = {
      normed: norm === undefined ? 0 : 1,
      biased: product.bias === undefined ? 0 : 1,
      residual: residual === undefined ? 0 : 1,
      gated: product.group.kind === 'gated' ? linearGates[activation] : 0,
      adapted: adapted === undefined ? 0 : 1,
      epsilon: norm?.epsilon ?? 0,
    }
    const name = hands
      ? 'linear_q8_into_codes'
      : codes.has(x)
        ? 'linear_q8_of_codes'
        : linearOps[product.format]
    const { op, fn, userdata } = calls.call(name, params)
    const inputs = [x, product.weight, ...present.filter((tensor) => tensor !== undefined)]
    const result = ops.custom(op, fn, 'F32', [rows, product.outputs], inputs, userdata) //  [N, outputs]
    if (hands) codes.add(result)
    return result
  }
  /** By each expert's own panels; x is by rows with a norm in front, or else by slots: [S, outputs]. */
  const byExpert = (
    product: PackedProduct,
    x: Tensor,
    routes: Tensor,
    slots: number,
    norm: InputNorm | undefined,
    limit: number | undefined,
  ) => {
    const { op, fn, userdata } = calls.call(expertOps[product.format], {
      experts: product.experts!,
      bySlots: norm === undefined ? 1 : 0,
      normed: norm === undefined ? 0 : 1,
      gated:
        product.group.kind !== 'gated' ? 0 : limit === undefined ? linearGates.silu : linearGates.clamped,
      biased: product.bias === undefined ? 0 : 1,
      epsilon: norm?.epsilon ?? 0,
      limit: limit ?? 0,
    })
    const present = [norm?.weight, product.bias].filter((tensor) => tensor !== undefined)
    const inputs = [x, product.weight, routes, ...present]
    return ops.custom(op, fn, 'F32', [slots, product.outputs], inputs, userdata)
  }
  const single = (name: string) => packed.find([name])?.[0]
  return {
    embed: (ids, name) => {
      const product = single(name)
      if (product === undefined) return plain.embed(ids, name)
      const { op, fn, userdata } = calls.call('embed', { format: packedFormats[product.format] })
      return ops.custom(op, fn, 'F32', [ids.shape[0]!, product.inputs], [ids, product.weight], userdata)
    },
    linear: (x, name, around = {}) => {
      const product = single(name)
      if (product === undefined) return plain.linear(x, name, around)
      return run(product, x, around.norm, { residual: around.residual })
    },
    joined: (x, names, norm) => {
      const products = packed.find(names)
      if (products === undefined) return plain.joined(x, names, norm)
      return products.flatMap((product) => {
        const all = run(product, x, norm)
        return product.members.map(({ first, outputs }) => ops.slice(all, 1, first, outputs))
      })
    },
    gated: (x, gate, up, activation, { norm, reader } = {}) => {
      const products = packed.find([gate, up])
      if (products === undefined) return plain.gated(x, gate, up, activation, { norm })
      const [first, second] = products.map((product) =>
        run(product, x, norm, { activation, reader: reader === undefined ? undefined : single(reader) }),
      ) as [Tensor, Tensor?]
      return second === undefined ? first : gatedBy(ops, activation, first, second)
    },
    gatedHalves: (x, both, norm) => {
      const product = single(both)
      return product === undefined ? plain.gatedHalves(x, both, norm) : run(product, x, norm)
    },
    mixed: (x, names, mixture, norm, residual) => {
      const products = packed.find([names.router, names.gate, names.up, names.down])
      if (products === undefined) return plain.mixed(x, names, mixture, norm, residual)
      const [router, gateUp, down] = products as [PackedProduct, PackedProduct, PackedProduct]
      const { experts, used, normalised, limit } = mixture
      const [rows, width] = residual.shape as [number, number]
      const slots = rows * used
      const route = calls.call('route', { used, normalised: normalised ? 1 : 0 })
      const logits = run(router, x, norm) //                                             [N, E]
      const routes = ops.custom(
        route.op,
        route.fn,
        'I32',
        [5 * slots + experts + 1],
        [logits],
        route.userdata,
      )
      const open = byExpert(gateUp, x, routes, slots, norm, limit) //                    [S, F]
      const made = byExpert(down, open, routes, slots, undefined, undefined) //          [S, W]
      const mix = calls.call('mix_experts', { experts })
      return ops.custom(mix.op, mix.fn, 'F32', [rows, width], [made, routes, residual], mix.userdata)
    },
  }
}
