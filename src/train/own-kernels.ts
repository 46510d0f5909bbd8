/** Our kernels for the graphs of a training, and whose threads they run on. */
import type { Device } from '../runtime/device.ts'
import { KernelContext, loadKernels } from '../runtime/kernels.ts'
import { readsFrozenAs } from '../runtime/op-maker.ts'
import type { Parameters } from './parameters.ts'

/** A context for one graph; undefined where ggml computes all of it. */
export function trainingKernels(
  parameters: Parameters,
  device: Device,
  wanted = true,
): KernelContext | undefined {
  const kernels = device.isHost && wanted ? loadKernels() : undefined
  if (kernels === undefined) return undefined
  return new KernelContext(
    kernels,
    bringsThreads(parameters, device) ? device.kernelPool(kernels) : undefined,
  )
}

/**
 * Whether a step runs on threads of ours, which share work with whoever comes. ggml's wait at a barrier behind every
 * operation, and are needed only where it multiplies by weights in a format that our products do not read.
 */
export function bringsThreads(parameters: Parameters, device: Device): boolean {
  if (!device.isHost || loadKernels() === undefined) return false
  const { architecture, config } = parameters.definition
  return architecture
    .products(config)
    .flatMap(({ names }) => names)
    .every((name) => {
      const { dtype } = parameters.weight(`${name}.weight`)
      return dtype === 'F32' || readsFrozenAs(dtype)
    })
}
