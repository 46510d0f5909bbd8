/**
 * AdamW with decoupled weight decay (Loshchilov and Hutter 2017) and clipping by the global norm, as graphs
 * that are built once. Only matrices decay: norms and biases do not.
 */
import type { Device } from '../runtime/device.ts'
import { Graph } from '../runtime/graph.ts'
import type { CallTime, KernelContext } from '../runtime/kernels.ts'
import type { Tensor } from '../runtime/tensor.ts'
import { trainingKernels } from './own-kernels.ts'
import type { Parameter, Parameters } from './parameters.ts'

export interface AdamWOptions {
  beta1: number
  beta2: number
  epsilon: number
  weightDecay: number
  /** Longest gradient that is followed as it is; 0 never clips. */
  clipNorm: number
}

/**
 * Up to so many parameters, sums of squares and updates take a few milliseconds at most and run where the step is awaited:
 * each hop to a thread and back takes a part of that, and much more beside busy neighbours.
 */
const computedHereMax = 1 << 22

/** Runs a graph over all parameters. */
async function compute(graph: Graph, parameters: Parameters): Promise<void> {
  const size = parameters.all.reduce((sum, { weight }) => sum + weight.size, 0)
  if (size <= computedHereMax) graph.compute()
  else await graph.computeAsync()
}

export class AdamW implements Disposable {
  readonly #parameters: Parameters
  readonly #options: AdamWOptions
  readonly #kernels: KernelContext | undefined
  readonly #norms: NormGraph
  readonly #updates: UpdateGraph

  constructor(parameters: Parameters, device: Device, options: AdamWOptions) {
    this.#parameters = parameters
    this.#options = options
    this.#kernels = trainingKernels(parameters, device)
    this.#norms = new NormGraph(parameters, device, this.#kernels)
    this.#updates = new UpdateGraph(parameters, device, this.#kernels)
  }

  /** Bytes that the graphs need between inputs and outputs. */
  get scratchBytes(): number {
    return this.#norms.scratchBytes + this.#updates.scratchBytes
  }

  /** What each of our ops has taken so far; nothing may be computing. */
  opTimes(): CallTime[] {
    return this.#kernels?.times() ?? []
  }

  /** Length of each parameter's gradient, in the order of the parameters. */
  async gradientNorms(): Promise<number[]> {
    return this.#norms.run()
  }

  /** Moves the weights by the gradients, whose global length is `norm`. `step` counts from 0. */
  async update(step: number, learningRate: number, norm: number): Promise<void> {
    const { clipNorm } = this.#options
    // The small number is PyTorch's (clip_grad_norm_), so that runs can be compared.
    const factor = clipNorm > 0 ? Math.min(1, clipNorm / (norm + 1e-6)) : 1
    const settings = (decays: boolean) => this.#settings(step, learningRate, decays, factor)
    await this.#updates.run(factor, settings(true), settings(false))
    this.#parameters.clearGradients()
  }

  #settings(step: number, learningRate: number, decays: boolean, factor: number): Float32Array {
    const { beta1, beta2, epsilon, weightDecay } = this.#options
    const decay = decays ? weightDecay : 0
    const correction = (beta: number) => 1 / (1 - beta ** (step + 1))
    const corrections = [correction(beta1), correction(beta2)]
    return Float32Array.of(learningRate, beta1, beta2, epsilon, decay, ...corrections, factor)
  }

  dispose(): void {
    this.#norms.dispose()
    this.#updates.dispose()
    this.#kernels?.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

class NormGraph {
  readonly #graph: Graph
  readonly #parameters: Parameters
  readonly #squares: Tensor[]

  constructor(parameters: Parameters, device: Device, kernels: KernelContext | undefined) {
    const graph = new Graph(device, 8 * parameters.all.length + 16, 64, { kernels })
    const { ops } = graph
    this.#graph = graph
    this.#parameters = parameters
    this.#squares = parameters.all.map(({ gradient }) => {
      // A product of each row with itself is spread over threads; ggml's own sums are not.
      const width = gradient.shape.at(-1)!
      const rows = () => ops.reshape(gradient, [gradient.size / width, 1, width])
      return graph.output(ops.squareSums(gradient) ?? ops.sum(ops.matmul(rows(), rows())))
    })
    graph.allocate()
  }

  get scratchBytes(): number {
    return this.#graph.scratchBytes
  }

  async run(): Promise<number[]> {
    await compute(this.#graph, this.#parameters)
    return this.#squares.map((square) => Math.sqrt(square.toFloats().reduce((a, b) => a + b)))
  }

  dispose(): void {
    this.#graph.dispose()
  }
}

class UpdateGraph {
  readonly #graph: Graph
  readonly #parameters: Parameters
  readonly #decaying: Tensor
  readonly #steady: Tensor
  /** A row of equal factors: ggml multiplies by a row many times faster than by one number. Ours needs none. */
  readonly #factors: Tensor | undefined

  constructor(parameters: Parameters, device: Device, kernels: KernelContext | undefined) {
    const graph = new Graph(device, 8 * parameters.all.length + 16, 64, { kernels })
    const { ops } = graph
    const widest = Math.max(...parameters.all.map(({ gradient }) => gradient.shape.at(-1)!))
    this.#graph = graph
    this.#parameters = parameters
    this.#decaying = graph.input('F32', [8], 'settings with decay')
    this.#steady = graph.input('F32', [8], 'settings without decay')
    this.#factors = kernels === undefined ? graph.input('F32', [widest], 'clip factors') : undefined
    // The others are some other process's to move.
    const owned = parameters.all.filter((_, index) => parameters.ownsMoments(index))
    for (const { weight, gradient, mean, square } of owned) {
      const settings = weight.shape.length > 1 ? this.#decaying : this.#steady
      const own = ops.fusedAdamw(weight, gradient, mean, square, settings)
      graph.expand(own ?? this.#plain(graph, { weight, gradient, mean, square }, settings))
    }
    graph.allocate()
  }

  #plain(
    graph: Graph,
    { weight, gradient, mean, square }: Omit<Parameter, 'spec'>,
    settings: Tensor,
  ): Tensor {
    const { ops } = graph
    const factors = ops.slice(this.#factors!, 0, 0, gradient.shape.at(-1)!)
    return ops.adamw(weight, ops.mul(gradient, factors), mean, square, ops.slice(settings, 0, 0, 7))
  }

  get scratchBytes(): number {
    return this.#graph.scratchBytes
  }

  async run(factor: number, decaying: Float32Array, steady: Float32Array): Promise<void> {
    this.#decaying.write(decaying)
    this.#steady.write(steady)
    this.#factors?.write(new Float32Array(this.#factors.size).fill(factor))
    await compute(this.#graph, this.#parameters)
  }

  dispose(): void {
    this.#graph.dispose()
  }
}
