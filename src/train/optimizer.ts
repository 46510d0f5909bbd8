/**
 * AdamW with decoupled weight decay (Loshchilov and Hutter 2017) and clipping by the global norm, as graphs
 * that are built once. Only matrices decay: norms and biases do not.
 */
import type { Device } from '../runtime/device.ts'
import { Graph } from '../runtime/graph.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { Parameters } from './parameters.ts'

export interface AdamWOptions {
  beta1: number
  beta2: number
  epsilon: number
  weightDecay: number
  /** Longest gradient that is followed as it is; 0 never clips. */
  clipNorm: number
}

export class AdamW implements Disposable {
  readonly #parameters: Parameters
  readonly #options: AdamWOptions
  readonly #norms: NormGraph
  readonly #plain: UpdateGraph
  readonly #clipped: UpdateGraph

  constructor(parameters: Parameters, device: Device, options: AdamWOptions) {
    this.#parameters = parameters
    this.#options = options
    this.#norms = new NormGraph(parameters, device)
    this.#plain = new UpdateGraph(parameters, device, 'plain')
    this.#clipped = new UpdateGraph(parameters, device, 'clipped')
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
    const graph = factor < 1 ? this.#clipped : this.#plain
    await graph.run(
      factor,
      this.#settings(step, learningRate, true),
      this.#settings(step, learningRate, false),
    )
    this.#parameters.clearGradients()
  }

  #settings(step: number, learningRate: number, decays: boolean): Float32Array {
    const { beta1, beta2, epsilon, weightDecay } = this.#options
    const decay = decays ? weightDecay : 0
    const correction = (beta: number) => 1 / (1 - beta ** (step + 1))
    return Float32Array.of(learningRate, beta1, beta2, epsilon, decay, correction(beta1), correction(beta2))
  }

  dispose(): void {
    for (const graph of [this.#norms, this.#plain, this.#clipped]) graph.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

class NormGraph {
  readonly #graph: Graph
  readonly #squares: Tensor[]

  constructor(parameters: Parameters, device: Device) {
    const graph = new Graph(device, 8 * parameters.all.length + 16)
    const { ops } = graph
    this.#graph = graph
    this.#squares = parameters.all.map(({ gradient }) => {
      // A product of each row with itself is spread over threads; ggml's own sums are not.
      const width = gradient.shape.at(-1)!
      const rows = ops.reshape(gradient, [gradient.size / width, 1, width])
      return graph.output(ops.sum(ops.matmul(rows, rows)))
    })
    graph.allocate()
  }

  async run(): Promise<number[]> {
    await this.#graph.computeAsync()
    return this.#squares.map((square) => Math.sqrt(square.toFloats()[0]!))
  }

  dispose(): void {
    this.#graph.dispose()
  }
}

class UpdateGraph {
  readonly #graph: Graph
  readonly #decaying: Tensor
  readonly #steady: Tensor
  readonly #factors: Tensor | undefined

  constructor(parameters: Parameters, device: Device, mode: 'plain' | 'clipped') {
    const graph = new Graph(device, 8 * parameters.all.length + 16)
    const { ops } = graph
    const widest = Math.max(...parameters.all.map(({ gradient }) => gradient.shape.at(-1)!))
    this.#graph = graph
    this.#decaying = graph.input('F32', [7], 'settings with decay')
    this.#steady = graph.input('F32', [7], 'settings without decay')
    // A row of equal factors: ggml multiplies by a row many times faster than by one number.
    this.#factors = mode === 'clipped' ? graph.input('F32', [widest], 'clip factors') : undefined
    for (const { weight, gradient, mean, square } of parameters.all) {
      const factors = this.#factors && ops.slice(this.#factors, 0, 0, gradient.shape.at(-1)!)
      const followed = factors === undefined ? gradient : ops.mul(gradient, factors)
      const settings = weight.shape.length > 1 ? this.#decaying : this.#steady
      graph.expand(ops.adamw(weight, followed, mean, square, settings))
    }
    graph.allocate()
  }

  async run(factor: number, decaying: Float32Array, steady: Float32Array): Promise<void> {
    this.#decaying.write(decaying)
    this.#steady.write(steady)
    this.#factors?.write(new Float32Array(this.#factors.size).fill(factor))
    await this.#graph.computeAsync()
  }

  dispose(): void {
    this.#graph.dispose()
  }
}
