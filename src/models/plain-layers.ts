/** The products of a network written in separate operations: for training, and for serving without kernels. */
import type { Ops } from '../runtime/ops.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { GateActivation, InputNorm, LinearLayers } from './architecture.ts'
import { expertWeights, mixedBy } from './plain-mixture.ts'

export interface ParameterAccess {
  weight(name: string): Tensor
  has(name: string): boolean
}

/** x [N, inputs] times the weight of that name, without its bias: [N, outputs]. */
export type Multiply = (x: Tensor, name: string) => Tensor

/** `multiply` says how products are computed: by their weight alone unless told otherwise. */
export function plainLayers(
  ops: Ops,
  parameters: ParameterAccess,
  multiply: Multiply = (x, name) => ops.matmul(x, parameters.weight(`${name}.weight`)),
): LinearLayers {
  const product = (x: Tensor, name: string) => {
    const y = multiply(x, name)
    const bias = `${name}.bias`
    return parameters.has(bias) ? ops.add(y, parameters.weight(bias)) : y
  }
  return {
    embed: (ids, name) => ops.rows(parameters.weight(`${name}.weight`), ids),
    linear: (x, name, { norm, residual } = {}) => {
      const y = product(normalised(ops, x, norm), name)
      return residual === undefined ? y : ops.add(residual, y)
    },
    joined: (x, names, norm) => {
      const h = normalised(ops, x, norm)
      return names.map((name) => product(h, name))
    },
    gated: (x, gate, up, activation, { norm } = {}) => {
      const h = normalised(ops, x, norm)
      return gatedBy(ops, activation, product(h, gate), product(h, up))
    },
    gatedHalves: (x, both, norm) => gatedHalves(ops, product(normalised(ops, x, norm), both)),
    mixed: (x, names, mixture, norm, residual) => {
      const h = normalised(ops, x, norm)
      const made = mixedBy(ops, h, product(h, names.router), expertWeights(parameters, names), mixture)
      return ops.add(residual, made)
    },
  }
}

/** silu(gate) * up of y [N, 2F], which holds gate and then up: [N, F]. */
export function gatedHalves(ops: Ops, y: Tensor): Tensor {
  const width = y.shape[1]! / 2
  return ops.siluMul(ops.slice(y, 1, 0, width), ops.slice(y, 1, width, width))
}

/** activation(gate) * up. */
export function gatedBy(ops: Ops, activation: GateActivation, gate: Tensor, up: Tensor): Tensor {
  return activation === 'silu' ? ops.siluMul(gate, up) : ops.mul(ops.gelu(gate), up)
}

/** RMS norm with its weight, or x itself. */
export function normalised(ops: Ops, x: Tensor, norm: InputNorm | undefined): Tensor {
  return norm === undefined ? x : ops.mul(ops.rmsNorm(x, norm.epsilon), norm.weight)
}
