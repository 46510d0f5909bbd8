/**
 * Parameters on a device, loaded a few rows at a time: the file's bytes go straight into the tensor's
 * memory where formats agree, and through one small scratch buffer where they do not.
 */
import { assert } from '../base/assert.ts'
import type { DType } from '../base/dtype.ts'
import { UserError } from '../base/errors.ts'
import type { TensorInfo } from '../formats/source.ts'
import { Arena } from '../runtime/arena.ts'
import type { Device } from '../runtime/device.ts'
import type { Kernels } from '../runtime/kernels.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { ParameterSpec } from './architecture.ts'
import type { OpenModel } from './open.ts'
import { type PackedWeights, packWeights } from './packed-weights.ts'
import { keptDtype, rowsOf } from './rows.ts'

export interface LoadOptions {
  /** Store products and embeddings in this format instead of the file's own. */
  quantize?: DType | undefined
  /** Pack products for these kernels where they can multiply them; CPU only. */
  kernels?: Kernels | undefined
  /** Called now and then with the share that is done, in [0, 1]. */
  onProgress?: (share: number) => void
}

/** Packing takes most of the loading. */
const packedShare = 0.8
export class Weights implements Disposable {
  /** Packed products included. */
  readonly bytes: number
  /** Products in the layout of our kernels; what is in there is not here. */
  readonly packed: PackedWeights | undefined
  readonly #arena: Arena
  readonly #tensors: ReadonlyMap<string, Tensor>

  constructor(arena: Arena, tensors: ReadonlyMap<string, Tensor>, bytes: number, packed?: PackedWeights) {
    this.#arena = arena
    this.#tensors = tensors
    this.bytes = bytes + (packed?.bytes ?? 0)
    this.packed = packed
  }

  get(name: string): Tensor {
    const tensor = this.#tensors.get(name)
    assert(tensor, `the model has a parameter ${name}`)
    return tensor
  }

  has(name: string): boolean {
    return this.#tensors.has(name)
  }

  names(): string[] {
    return [...this.#tensors.keys()]
  }

  [Symbol.dispose](): void {
    this.packed?.[Symbol.dispose]()
    this.#arena.dispose()
  }
}

/** Loads every parameter that the architecture names. Throws a UserError for a missing or misshapen one. */
export function loadWeights(model: OpenModel, device: Device, options: LoadOptions = {}): Weights {
  const { architecture, config } = model.definition
  const all = architecture.parameters(config)
  for (const spec of all) checkedInfo(model, spec)
  const { kernels, quantize, onProgress } = options
  const packed =
    kernels && packWeights(model, device, kernels, quantize, (share) => onProgress?.(share * packedShare))
  const elsewhere = packed?.parameterNames()
  const specs = all.filter(({ name }) => !elsewhere?.has(name))
  const factors = ropeFactors(model)
  const arena = new Arena(specs.length + 1)
  try {
    const tensors = new Map<string, Tensor>()
    for (const spec of specs) {
      const info = checkedInfo(model, spec)
      tensors.set(spec.name, arena.leaf(dtypeOf(spec, info, quantize), spec.shape, spec.name))
    }
    if (factors !== undefined)
      tensors.set('rope_factors', arena.leaf('F32', [factors.length], 'rope_factors'))
    const { bytes, buffer } = arena.allocate(device.bufferType)
    // GGML_BACKEND_BUFFER_USAGE_WEIGHTS: a scheduler over several devices then keeps products beside them.
    arena.ggml.bufferSetUsage(buffer, 1)
    for (const [index, spec] of specs.entries()) {
      fill(model, spec, tensors.get(spec.name)!, device)
      onProgress?.(packedShare + ((1 - packedShare) * (index + 1)) / specs.length)
    }
    if (factors !== undefined) tensors.get('rope_factors')!.write(factors)
    return new Weights(arena, tensors, bytes, packed)
  } catch (error) {
    packed?.[Symbol.dispose]()
    arena.dispose()
    throw error
  }
}

/** Divisors of rotary frequencies, where the model's scaling has them. */
function ropeFactors(model: OpenModel): Float32Array | undefined {
  const { config } = model.definition
  return 'rope' in config ? (config.rope as { factors: Float32Array | undefined }).factors : undefined
}

function checkedInfo(model: OpenModel, spec: ParameterSpec): TensorInfo {
  const info = model.info(spec.name)
  if (info === undefined) {
    throw new UserError(
      `${model.path} has no tensor ${spec.name}, which ${model.definition.config.modelType} needs.`,
      {
        fix: 'The download may be incomplete, or config.json belongs to another model.',
      },
    )
  }
  const stored = model.transposed(spec.name) ? [...spec.shape].reverse() : spec.shape
  if (stored.join() !== info.shape.join()) {
    throw new UserError(
      `${model.path}: tensor ${spec.name} has shape [${info.shape}], config.json implies [${stored}].`,
    )
  }
  return info
}

function dtypeOf(spec: ParameterSpec, info: TensorInfo, quantize: DType | undefined): DType {
  return spec.role === 'vector' ? 'F32' : keptDtype(info.dtype, spec.shape.at(-1)!, quantize)
}

function fill(model: OpenModel, spec: ParameterSpec, tensor: Tensor, device: Device): void {
  const info = model.info(spec.name)!
  const asItIs =
    info.dtype === tensor.dtype && !model.transposed(spec.name) && model.rowOrder(spec.name) === undefined
  if (asItIs && device.isHost) {
    model.read(spec.name, new Uint8Array(tensor.hostView()))
    return
  }
  let offset = 0
  for (const { bytes } of rowsOf(model, device.ggml, spec.name, tensor.dtype)) {
    tensor.write(bytes, offset)
    offset += bytes.length
  }
}
