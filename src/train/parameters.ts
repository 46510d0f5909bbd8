/**
 * What training changes: weights in F32, and beside each its gradient and AdamW's two moments.
 */
import { deriveSeed, Random } from '../base/random.ts'
import type { ParameterSpec } from '../models/architecture.ts'
import { openModel } from '../models/open.ts'
import { type Definition, defineModel } from '../models/registry.ts'
import { loadWeights, Weights } from '../models/weights.ts'
import { Arena } from '../runtime/arena.ts'
import type { Device } from '../runtime/device.ts'
import type { Pointer } from '../runtime/ffi.ts'
import type { Tensor } from '../runtime/tensor.ts'

export interface Parameter {
  readonly spec: ParameterSpec
  readonly weight: Tensor
  readonly gradient: Tensor
  /** Running mean of the gradient: AdamW's m. */
  readonly mean: Tensor
  /** Running mean of the gradient's square: AdamW's v. */
  readonly square: Tensor
}

export class Parameters implements Disposable {
  readonly definition: Definition
  readonly all: readonly Parameter[]
  readonly #weights: Weights
  readonly #gradients: Arena
  readonly #moments: Arena
  readonly #gradientBuffer: Pointer

  /** Takes over `weights`, which must be F32. */
  constructor(definition: Definition, weights: Weights, device: Device) {
    const specs = definition.architecture.parameters(definition.config)
    const gradients = new Arena(specs.length)
    const moments = new Arena(2 * specs.length)
    this.all = specs.map((spec) => ({
      spec,
      weight: weights.get(spec.name),
      gradient: gradients.leaf('F32', spec.shape, `gradient of ${spec.name}`),
      mean: moments.leaf('F32', spec.shape, `mean of ${spec.name}`),
      square: moments.leaf('F32', spec.shape, `square of ${spec.name}`),
    }))
    this.definition = definition
    this.#weights = weights
    this.#gradients = gradients
    this.#moments = moments
    this.#gradientBuffer = gradients.allocate(device.bufferType).buffer
    gradients.ggml.bufferClear(moments.allocate(device.bufferType).buffer, 0)
    this.clearGradients()
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

  clearGradients(): void {
    this.#gradients.ggml.bufferClear(this.#gradientBuffer, 0)
  }

  dispose(): void {
    this.#gradients.dispose()
    this.#moments.dispose()
    this.#weights[Symbol.dispose]()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/** Fresh weights for a config.json object: a pure function of it and of the seed. */
export function createModel(config: Record<string, unknown>, seed: number, device: Device): Parameters {
  const definition = defineModel(config)
  const specs = definition.architecture.parameters(definition.config)
  const divisors = rotaryDivisors(definition)
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

/** The weights of a model on disk, in F32, to train on. */
export function loadModel(path: string, device: Device): Parameters {
  using model = openModel(path)
  return new Parameters(model.definition, loadWeights(model, device, { quantize: 'F32' }), device)
}

function rotaryDivisors({ config }: Definition): Float32Array | undefined {
  return 'rope' in config ? (config.rope as { factors: Float32Array | undefined }).factors : undefined
}

/** Every parameter draws from a stream of its own, so adding a layer does not change the others. */
function initialValues(spec: ParameterSpec, seed: number): Float32Array {
  const { init } = spec
  const size = spec.shape.reduce((product, length) => product * length, 1)
  if ('value' in init) return new Float32Array(size).fill(init.value)
  const random = new Random(deriveSeed(seed, spec.name))
  return Float32Array.from({ length: size }, () => random.normal() * init.std)
}
