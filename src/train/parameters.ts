/**
 * What training changes: weights in F32, and beside each its gradient and AdamW's two moments.
 */
import { assert } from '../base/assert.ts'
import { atOnce, type Steps } from '../base/pauses.ts'
import { deriveSeed, Random } from '../base/random.ts'
import type { Adapter } from '../models/adapter.ts'
import type { LinearLayers, ParameterSpec } from '../models/architecture.ts'
import { openModel } from '../models/open.ts'
import { type ParameterAccess, plainLayers } from '../models/plain-layers.ts'
import { type Definition, defineModel } from '../models/registry.ts'
import { ropeFactorsOf } from '../models/rope.ts'
import { loadingWeights, Weights } from '../models/weights.ts'
import { Arena } from '../runtime/arena.ts'
import type { Device } from '../runtime/device.ts'
import type { Pointer } from '../runtime/ffi.ts'
import type { Ops } from '../runtime/ops.ts'
import type { Tensor } from '../runtime/tensor.ts'
import { trainedMixture } from './mixture.ts'

export interface Parameter {
  readonly spec: ParameterSpec
  readonly weight: Tensor
  readonly gradient: Tensor
  /** Running mean of the gradient: AdamW's m. */
  readonly mean: Tensor
  /** Running mean of the gradient's square: AdamW's v. */
  readonly square: Tensor
}

/** The part of a model that changes; the rest of it is frozen: no gradient, no moments. */
export interface TrainedPart extends Disposable {
  readonly specs: readonly ParameterSpec[]
  /** The trained weight of that name: F32. */
  weight(name: string): Tensor
  /** How the whole model multiplies. */
  layers(ops: Ops, frozen: ParameterAccess): LinearLayers
  readonly saved: SavedForm
  /** The adapter as it is now, where the part is one. */
  adapter?(): Adapter
}

/** How a checkpoint holds what was trained. */
export interface SavedForm {
  weightsName: string
  /** The file that says what the weights are, as `ropeway serve` and others read it. */
  description: { name: string; content: string }
}

export class Parameters implements Disposable {
  readonly definition: Definition
  /** What is trained. */
  readonly all: readonly Parameter[]
  readonly #weights: Weights
  readonly #part: TrainedPart
  readonly #gradients: Arena
  readonly #moments: Moments
  readonly #gradientBuffer: Pointer | undefined

  /**
   * Takes over `weights` and `part`. Without a part all weights are trained and must be F32. What is only `planned` is
   * never written, so that its memory is asked for and not used.
   */
  constructor(
    definition: Definition,
    weights: Weights,
    device: Device,
    part = wholeModel(definition, weights),
    state: 'ready' | 'planned' = 'ready',
  ) {
    const { specs } = part
    const gradients = new Arena(specs.length)
    const moments = new Moments(specs, device, state)
    this.all = specs.map((spec, index) => ({
      spec,
      weight: part.weight(spec.name),
      gradient: gradients.leaf('F32', spec.shape, `gradient of ${spec.name}`),
      get mean() {
        return moments.of(index).mean
      },
      get square() {
        return moments.of(index).square
      },
    }))
    this.definition = definition
    this.#weights = weights
    this.#part = part
    this.#gradients = gradients
    this.#moments = moments
    if (specs.length === 0) return
    this.#gradientBuffer = gradients.allocate(device.bufferType).buffer
    if (state === 'planned') return
    this.clearGradients()
  }

  /** Keeps moments of these parameters only; called before the first is asked for. */
  keepMoments(owns: (index: number) => boolean): void {
    this.#moments.keep(owns)
  }

  /** Whether this process keeps the moments of the parameter of that number. */
  ownsMoments(index: number): boolean {
    return this.#moments.owns(index)
  }

  /** How a checkpoint holds these parameters. */
  get saved(): SavedForm {
    return this.#part.saved
  }

  /** The model's own weights, adapters apart; they belong to these parameters. */
  get weights(): Weights {
    return this.#weights
  }

  /** The adapter in training as it is now, if that is what trains. */
  adapter(): Adapter | undefined {
    return this.#part.adapter?.()
  }

  /** Bytes of the model's weights, adapters apart. */
  get bytes(): number {
    return this.#weights.bytes
  }

  layers(ops: Ops): LinearLayers {
    return this.#part.layers(ops, this)
  }

  /** The weight of that name, or a constant that belongs to the model, such as rotary divisors. */
  weight(name: string): Tensor {
    return this.#weights.get(name)
  }

  has(name: string): boolean {
    return this.#weights.has(name)
  }

  /** Number of trained numbers. */
  get count(): number {
    return this.all.reduce((sum, { weight }) => sum + weight.size, 0)
  }

  /** Number of numbers that the model holds unchanged. */
  get frozenCount(): number {
    const { architecture, config } = this.definition
    const trained = new Set(this.all.map(({ spec }) => spec.name))
    const frozen = architecture.parameters(config).filter(({ name }) => !trained.has(name))
    return frozen.reduce((sum, { shape }) => sum + sizeOf(shape), 0)
  }

  clearGradients(): void {
    if (this.#gradientBuffer !== undefined) this.#gradients.ggml.bufferClear(this.#gradientBuffer, 0)
  }

  dispose(): void {
    this.#gradients.dispose()
    this.#moments[Symbol.dispose]()
    this.#part[Symbol.dispose]()
    this.#weights[Symbol.dispose]()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/** AdamW's moments, all zero at first; of the parameters that this process owns, all by default. */
class Moments implements Disposable {
  readonly #specs: readonly ParameterSpec[]
  readonly #device: Device
  readonly #state: 'ready' | 'planned'
  #owns: (index: number) => boolean = () => true
  #arena: Arena | undefined
  #tensors: ReadonlyMap<number, { mean: Tensor; square: Tensor }> = new Map()

  constructor(specs: readonly ParameterSpec[], device: Device, state: 'ready' | 'planned') {
    this.#specs = specs
    this.#device = device
    this.#state = state
  }

  keep(owns: (index: number) => boolean): void {
    assert(this.#arena === undefined, 'moments are divided before they are used')
    this.#owns = owns
  }

  owns(index: number): boolean {
    return this.#owns(index)
  }

  of(index: number): { mean: Tensor; square: Tensor } {
    if (this.#arena === undefined) this.#allocate()
    const tensors = this.#tensors.get(index)
    assert(tensors, 'this process keeps the moments that it is asked for')
    return tensors
  }

  #allocate(): void {
    const owned = this.#specs.flatMap((spec, index) => (this.#owns(index) ? [{ spec, index }] : []))
    const arena = new Arena(2 * owned.length)
    this.#tensors = new Map(
      owned.map(({ spec, index }) => [
        index,
        {
          mean: arena.leaf('F32', spec.shape, `mean of ${spec.name}`),
          square: arena.leaf('F32', spec.shape, `square of ${spec.name}`),
        },
      ]),
    )
    this.#arena = arena
    if (owned.length === 0) return
    const { buffer } = arena.allocate(this.#device.bufferType)
    if (this.#state === 'ready') arena.ggml.bufferClear(buffer, 0)
  }

  [Symbol.dispose](): void {
    this.#arena?.dispose()
  }
}

/** Trains everything. */
export function wholeModel({ architecture, config }: Definition, weights: Weights): TrainedPart {
  return {
    specs: architecture.parameters(config),
    weight: (name) => weights.get(name),
    layers: (ops, parameters) => ({
      ...plainLayers(ops, parameters),
      mixed: trainedMixture(ops, parameters),
    }),
    saved: {
      weightsName: 'model.safetensors',
      description: { name: 'config.json', content: `${JSON.stringify(config.source, null, 2)}\n` },
    },
    // The weights belong to whoever made this.
    [Symbol.dispose]: () => undefined,
  }
}

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1)
}

/** Fresh weights for a config.json object: a pure function of it and of the seed. */
export function createModel(config: Record<string, unknown>, seed: number, device: Device): Parameters {
  const definition = defineModel(config)
  const specs = definition.architecture.parameters(definition.config)
  const divisors = ropeFactorsOf(definition.config)
  const arena = new Arena(specs.length + 1)
  const tensors = new Map<string, Tensor>()
  for (const spec of specs) tensors.set(spec.name, arena.leaf('F32', spec.shape, spec.name))
  if (divisors !== undefined)
    tensors.set('rope_factors', arena.leaf('F32', [divisors.length], 'rope_factors'))
  const { bytes } = arena.allocate(device.bufferType)
  for (const spec of specs) tensors.get(spec.name)!.write(initialValues(spec, seed))
  if (divisors !== undefined) tensors.get('rope_factors')!.write(divisors)
  return new Parameters(definition, new Weights([arena], tensors, bytes), device)
}

/** The weights of a model on disk, in F32, to train on, with samples of at most `context` tokens. */
export function loadModel(path: string, device: Device, context?: number): Parameters {
  return atOnce(loadingModel(path, device, context))
}

export function* loadingModel(path: string, device: Device, context?: number): Steps<Parameters> {
  using model = openModel(path, context)
  return new Parameters(model.definition, yield* loadingWeights(model, device, { quantize: 'F32' }), device)
}

/** Every parameter draws from a stream of its own, so adding a layer does not change the others. */
function initialValues(spec: ParameterSpec, seed: number): Float32Array {
  const { init } = spec
  const size = sizeOf(spec.shape)
  if ('value' in init) return new Float32Array(size).fill(init.value)
  const random = new Random(deriveSeed(seed, spec.name))
  return Float32Array.from({ length: size }, () => random.normal() * init.std)
}
