/**
 * Parameters on a device, loaded a few rows at a time: the file's bytes go straight into the tensor's
 * memory where formats agree, and through one small scratch buffer where they do not.
 */
import { assert } from '../base/assert.ts'
import type { DType } from '../base/dtype.ts'
import { UserError } from '../base/errors.ts'
import { atOnce, type Steps } from '../base/pauses.ts'
import type { TensorInfo } from '../formats/source.ts'
import { Arena } from '../runtime/arena.ts'
import type { Device } from '../runtime/device.ts'
import type { Pointer } from '../runtime/ffi.ts'
import type { Kernels } from '../runtime/kernels.ts'
import type { Tensor } from '../runtime/tensor.ts'
import { type ParameterSpec, staysFloat } from './architecture.ts'
import type { OpenModel } from './open.ts'
import { type PackedWeights, packWeights } from './packed-weights.ts'
import { ropeFactorsOf } from './rope.ts'
import { keptDtype, RowScratch, rowsOf } from './rows.ts'

export interface LoadOptions {
  /** Store products and embeddings in this format instead of the file's own. */
  quantize?: DType | undefined
  /** Pack products for these kernels where they can multiply them; CPU only. */
  kernels?: Kernels | undefined
  /** Keep weights in plain memory, as they are encoded: training decodes them, other memory rearranges them. */
  asEncoded?: boolean
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
  readonly #arenas: readonly Arena[]
  readonly #tensors: ReadonlyMap<string, Tensor>

  constructor(
    arenas: readonly Arena[],
    tensors: ReadonlyMap<string, Tensor>,
    bytes: number,
    packed?: PackedWeights,
  ) {
    this.#arenas = arenas
    this.#tensors = tensors
    this.bytes = bytes
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

  /** The same tensors for somebody else, who does not give them back. */
  lent(): Weights {
    return new Weights([], this.#tensors, this.bytes)
  }

  [Symbol.dispose](): void {
    this.packed?.[Symbol.dispose]()
    for (const arena of this.#arenas) arena.dispose()
  }
}

/** Loads every parameter that the architecture names. Throws a UserError for a missing or misshapen one. */
export function loadWeights(model: OpenModel, device: Device, options: LoadOptions = {}): Weights {
  return atOnce(loadingWeights(model, device, options))
}

/** The same in steps of a few megabytes, but for weights that are packed. */
export function* loadingWeights(model: OpenModel, device: Device, options: LoadOptions = {}): Steps<Weights> {
  const all = checkedParameters(model)
  const { kernels, quantize, onProgress } = options
  const packed =
    kernels && packWeights(model, device, kernels, quantize, (share) => onProgress?.(share * packedShare))
  const elsewhere = packed?.parameterNames()
  const specs = all.filter(({ name }) => !elsewhere?.has(name))
  const arenas = new Map<Pointer, Arena>()
  let loaded: Weights | undefined
  try {
    const tensors = place(model, device, specs, options, arenas)
    let bytes = packed?.bytes ?? 0
    for (const [bufferType, arena] of arenas) {
      const allocated = arena.allocate(bufferType)
      // GGML_BACKEND_BUFFER_USAGE_WEIGHTS: a scheduler over several devices then keeps products beside them.
      arena.ggml.bufferSetUsage(allocated.buffer, 1)
      bytes += allocated.bytes
    }
    const scratch = new RowScratch()
    for (const [index, spec] of specs.entries()) {
      const { tensor, bufferType } = tensors.get(spec.name)!
      yield* fill(model, spec, tensor, device, bufferType !== device.bufferType, scratch)
      onProgress?.(packedShare + ((1 - packedShare) * (index + 1)) / specs.length)
    }
    tensors.get('rope_factors')?.tensor.write(ropeFactorsOf(model.definition.config)!)
    const byName = new Map([...tensors].map(([name, { tensor }]) => [name, tensor]))
    loaded = new Weights([...arenas.values()], byName, bytes, packed)
    return loaded
  } finally {
    if (loaded === undefined) {
      packed?.[Symbol.dispose]()
      for (const arena of arenas.values()) arena.dispose()
    }
  }
}

/** Decides for each parameter in which kind of memory it lives; products go where they run fastest. */
function place(
  model: OpenModel,
  device: Device,
  specs: readonly ParameterSpec[],
  { quantize, asEncoded }: LoadOptions,
  arenas: Map<Pointer, Arena>,
): Map<string, { tensor: Tensor; bufferType: Pointer }> {
  const tensors = new Map<string, { tensor: Tensor; bufferType: Pointer }>()
  const factors = ropeFactorsOf(model.definition.config)
  const add = (name: string, dtype: DType, shape: readonly number[], bufferType: Pointer) => {
    let arena = arenas.get(bufferType)
    if (arena === undefined) arenas.set(bufferType, (arena = new Arena(specs.length + 1)))
    tensors.set(name, { tensor: arena.leaf(dtype, shape, name), bufferType })
  }
  for (const spec of specs) {
    const dtype = dtypeOf(spec, model.info(spec.name)!, quantize)
    const [rows, inputs] = spec.shape as [number, number]
    // Other memory rearranges a weight for one product; those of experts are many in one parameter.
    let bufferType =
      spec.role === 'product' && spec.experts === undefined && asEncoded !== true
        ? device.productBufferType(dtype, rows, inputs)
        : device.bufferType
    if (!device.holds(dtype, spec.shape)) {
      bufferType = device.cpuBufferType
      device.sharesWithCpu = true
    }
    add(spec.name, dtype, spec.shape, bufferType)
  }
  if (factors !== undefined) add('rope_factors', 'F32', [factors.length], device.bufferType)
  return tensors
}

/** Every parameter that the architecture names. Throws a UserError for one that the files lack or hold in another shape. */
export function checkedParameters(model: OpenModel): ParameterSpec[] {
  const { architecture, config } = model.definition
  const specs = architecture.parameters(config)
  for (const spec of specs) check(model, spec)
  return specs
}

function check(model: OpenModel, spec: ParameterSpec): void {
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
}

function dtypeOf(spec: ParameterSpec, info: TensorInfo, quantize: DType | undefined): DType {
  return staysFloat(spec) ? 'F32' : keptDtype(info.dtype, spec.shape.at(-1)!, quantize)
}

/** `whole`: the memory rearranges what is written, which it can do only with all of it at once. */
function* fill(
  model: OpenModel,
  spec: ParameterSpec,
  tensor: Tensor,
  device: Device,
  whole: boolean,
  scratch: RowScratch,
): Steps<void> {
  const info = model.info(spec.name)!
  const asItIs =
    info.dtype === tensor.dtype && !model.transposed(spec.name) && model.rowOrder(spec.name) === undefined
  if (asItIs && device.isHost && !whole) {
    model.read(spec.name, new Uint8Array(tensor.hostView()))
    yield
    return
  }
  const all = whole ? new Uint8Array(tensor.bytes) : undefined
  let offset = 0
  for (const { bytes } of rowsOf(model, device.ggml, spec.name, tensor.dtype, scratch)) {
    if (all === undefined) tensor.write(bytes, offset)
    else all.set(bytes, offset)
    offset += bytes.length
    yield
  }
  if (all !== undefined) tensor.write(all)
}
