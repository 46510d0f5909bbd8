/**
 * Adapters in plain operations, for products that are not packed: each run of neighbouring rows with one adapter
 * gains scale * x aᵀ bᵀ, and is multiplied by a factor per output where the adapter has some. The runs are part of
 * the graph.
 *
 * N rows, K inputs, M outputs, r ranks.
 */
import type { Ops } from '../runtime/ops.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { InputNorm, LinearLayers } from './architecture.ts'
import { gatedBy, gatedHalves, normalised } from './plain-layers.ts'

/** Neighbouring rows with the same adapter; a negative slot is none. */
export interface AdapterRun {
  slot: number
  rows: number
}

/** What an adapter adds to one product. */
export interface FactorTensors {
  /** [r, K] F32 */
  a: Tensor
  /** [M, r] F32 */
  b: Tensor
  scale: number
  /** [M]: factors of the outputs, and what of the bias they took with them; with DoRA only. */
  factor?: Tensor
  biasRest?: Tensor
}

export interface AdapterRuns {
  /** The runs of a tensor with so many rows. */
  runs(rows: number): readonly AdapterRun[]
  /** Undefined where the adapter in this slot leaves the product alone. */
  factors(slot: number, name: string): FactorTensors | undefined
  /** Ask a lone row twice: products of floats round differently for one row than for several. */
  exact: boolean
}

export function adapterLayers(ops: Ops, plain: LinearLayers, adapters: AdapterRuns): LinearLayers {
  const linear = (x: Tensor, name: string, around: { norm?: InputNorm; residual?: Tensor } = {}) => {
    const runs = adapters.runs(x.shape[0]!)
    if (runs.every(({ slot }) => slot < 0 || adapters.factors(slot, name) === undefined))
      return plain.linear(x, name, around)
    const { norm, residual } = around
    const y = plain.linear(x, name, norm === undefined ? {} : { norm })
    const own = changed(ops, normalised(ops, x, norm), y, name, runs, adapters)
    return residual === undefined ? own : ops.add(residual, own)
  }
  return {
    embed: plain.embed,
    linear,
    joined: (x, names, norm) => names.map((name) => linear(x, name, norm === undefined ? {} : { norm })),
    gated: (x, gate, up, activation, { norm } = {}) => {
      const around = norm === undefined ? {} : { norm }
      return gatedBy(ops, activation, linear(x, gate, around), linear(x, up, around))
    },
    gatedHalves: (x, both, norm) => gatedHalves(ops, linear(x, both, norm === undefined ? {} : { norm })),
    // No adapter changes experts, nor what chooses them.
    mixed: plain.mixed,
  }
}

function changed(
  ops: Ops,
  x: Tensor,
  y: Tensor,
  name: string,
  runs: readonly AdapterRun[],
  adapters: AdapterRuns,
): Tensor {
  let first = 0
  let all: Tensor | undefined
  for (const { slot, rows } of runs) {
    let part: Tensor = ops.slice(y, 0, first, rows) //                             [rows, M]
    const factors = slot < 0 ? undefined : adapters.factors(slot, name)
    if (factors !== undefined) {
      const own = ops.slice(x, 0, first, rows)
      const twice = rows === 1 && adapters.exact
      const lowered = ops.matmul(twice ? ops.concat(own, own, 0) : own, factors.a) // [rows, r]
      const raised = ops.scale(ops.matmul(lowered, factors.b), factors.scale)
      part = ops.add(part, twice ? ops.slice(raised, 0, 0, 1) : raised)
      if (factors.factor !== undefined) part = ops.mul(part, factors.factor)
      if (factors.biasRest !== undefined) part = ops.add(part, factors.biasRest)
    }
    all = all === undefined ? part : ops.concat(all, part, 0)
    first += rows
  }
  return all!
}
