/**
 * Log-probabilities of targets, and the gradient of whatever is made of them: a weight for every target's cross-entropy
 * that may depend on all of them.
 *
 * M rows with a target, V vocabulary, W width.
 */
import type { Graph } from '../runtime/graph.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { SplitForward } from './forward.ts'
import { type CrossEntropy, crossEntropy } from './loss.ts'
import { chunkBackward, expandBackward } from './loss-graph.ts'
import type { Parameters } from './parameters.ts'

/** Far below any probability that matters; keeps its logarithm finite. */
const probabilityFloor = 1e-37

export class TargetHead {
  /** [M, 1] */
  readonly logProbabilities: Tensor
  readonly #graph: Graph
  readonly #network: SplitForward
  readonly #cells: Tensor
  readonly #temperature: number
  /** Where the head is in one piece. */
  readonly #whole: { logits: Tensor; entropy: CrossEntropy } | undefined

  /** cells [M] as in {@link crossEntropy}, rows counted within their chunk. Logits are divided by `temperature`. */
  constructor(graph: Graph, network: SplitForward, cells: Tensor, temperature = 1) {
    const { ops } = graph
    this.#graph = graph
    this.#network = network
    this.#cells = cells
    this.#temperature = temperature
    if (network.hidden === undefined) {
      const logits = this.#logits(undefined) //                                             [M, V]
      this.#whole = { logits, entropy: crossEntropy(ops, logits, cells) }
    }
    const chosen = this.#whole?.entropy.chosen ?? this.#chosenInChunks(network.hidden!) //  [M, 1]
    this.logProbabilities = ops.log(ops.affine(chosen, 1, probabilityFloor))
  }

  #logits(rows: Tensor | undefined): Tensor {
    const logits = this.#network.logits(rows)
    return this.#temperature === 1 ? logits : this.#graph.ops.scale(logits, 1 / this.#temperature)
  }

  /** Each chunk's logits are gone before those of the next are computed. */
  #chosenInChunks(hidden: Tensor): Tensor {
    const { ops } = this.#graph
    const seen = ops.detached(hidden)
    const parts = this.#network.chunks.map(({ start, rows }) => {
      const logits = this.#logits(ops.slice(seen, 0, start, rows)) //                       [m, V]
      const { chosen } = crossEntropy(ops, logits, ops.slice(this.#cells, 0, start, rows))
      this.#graph.expand(chosen)
      return chosen
    })
    return parts.reduce((joined, next) => ops.concat(joined, next, 0))
  }

  /** Adds the gradient of sum(weight * cross-entropy) to the parameters'; weights [M, 1] are taken as they are. */
  expandBackward(parameters: Parameters, weights: Tensor, recompute: boolean): void {
    const { hidden } = this.#network
    if (this.#whole !== undefined) {
      const { logits, entropy } = this.#whole
      expandBackward(this.#graph, parameters, logits, entropy.gradient(weights), recompute)
    } else if (hidden !== undefined) this.#chunksBackward(parameters, hidden, weights, recompute)
  }

  /** The logits of each chunk once more: its weights depend on all of them. */
  #chunksBackward(parameters: Parameters, hidden: Tensor, weights: Tensor, recompute: boolean): void {
    const { ops } = this.#graph
    const seen = ops.detached(hidden)
    const parts = this.#network.chunks.map(({ start, rows }) => {
      const part = ops.slice(seen, 0, start, rows)
      const logits = this.#logits(part)
      const entropy = crossEntropy(ops, logits, ops.slice(this.#cells, 0, start, rows))
      const slope = entropy.gradient(ops.slice(weights, 0, start, rows))
      return chunkBackward(this.#graph, parameters, logits, slope, part)
    })
    const slope = parts.reduce((joined, next) => ops.concat(joined, next, 0)) //            [M, W]
    expandBackward(this.#graph, parameters, hidden, slope, recompute)
  }
}
