/**
 * The model, its loss and, for training, its backward pass as one graph that is built once and run on every
 * micro-batch. Gradients are added to the parameters' own.
 *
 * B sequences of T tokens, N = B*T; M rows with a loss; V vocabulary.
 */
import { assert } from '../base/assert.ts'
import type { Device } from '../runtime/device.ts'
import { Graph } from '../runtime/graph.ts'
import { KernelContext, loadKernels } from '../runtime/kernels.ts'
import type { Tensor } from '../runtime/tensor.ts'
import { causalMask, documentMask, wholeSequences } from './attention.ts'
import { backward } from './backward.ts'
import type { Batch } from './batch.ts'
import { crossEntropy, weightedLoss } from './loss.ts'
import type { GraphShape, LearningGraph } from './objective.ts'
import type { Parameters } from './parameters.ts'

/** What every graph over sequences reads. */
export interface Inputs {
  ids: Tensor
  positions: Tensor
  mask: Tensor
  rows: Tensor | undefined
  cells: Tensor
  weights: Tensor
}

export class LossGraph implements LearningGraph {
  readonly shape: Required<GraphShape>
  readonly #graph: Graph
  readonly #kernels: KernelContext | undefined
  readonly #inputs: Inputs
  readonly #chosen: Tensor
  readonly #vocabulary: number
  readonly #maskValues: Float32Array

  constructor(parameters: Parameters, device: Device, shape: GraphShape, mode: 'train' | 'evaluate') {
    const { config } = parameters.definition
    const all = shape.sequences * shape.tokens
    this.shape = { supervisedMax: all, packed: false, ownKernels: true, ...shape }
    this.#vocabulary = config.vocabularySize
    const nodesMax = 1024 + 512 * config.layers
    const kernels = device.isHost && this.shape.ownKernels ? loadKernels() : undefined
    this.#kernels = kernels && new KernelContext(kernels)
    const graph = new Graph(device, nodesMax, 64, { kernels: this.#kernels })
    this.#graph = graph
    this.#inputs = declareInputs(graph, this.shape)
    const { ops } = graph
    const { mask, cells, weights } = this.#inputs
    const logits = logitsOf(graph, parameters, shape, this.#inputs)
    const loss = crossEntropy(ops, logits, cells)
    this.#chosen = graph.output(loss.chosen)
    if (mode === 'train') expandBackward(graph, parameters, logits, loss.gradient(weights))
    graph.allocate()
    this.#maskValues = new Float32Array(mask.size)
    if (!this.shape.packed) mask.write(causalMask(shape.tokens))
  }

  /** Bytes between inputs and outputs, activations included. */
  get scratchBytes(): number {
    return this.#graph.scratchBytes
  }

  /**
   * Runs the batch with its weights times `scale`. Returns the sum of weight * scale * loss; in training, that
   * sum's gradient is added to the parameters' gradients.
   */
  async run(batch: Batch, scale: number): Promise<number> {
    const weights = this.#write(batch, scale)
    await this.#graph.computeAsync()
    const chosen = new Float32Array(weights.length)
    this.#chosen.read(chosen)
    return weightedLoss(chosen, weights)
  }

  #write(batch: Batch, scale: number): Float32Array {
    const { shape } = this
    assert(batch.sequences === shape.sequences && batch.tokens === shape.tokens, 'a batch fits its graph')
    assert(shape.packed || batch.documents === undefined, 'documents need a graph for packed rows')
    const { ids, positions, mask, rows, cells, weights } = this.#inputs
    const chosen = rows === undefined ? allRows(batch) : supervisedRows(batch, shape.supervisedMax)
    const padded = new Int32Array(shape.supervisedMax)
    padded.set(chosen)
    // Rows that only fill up the shape compute the first row again and weigh nothing.
    const counting = new Float32Array(shape.supervisedMax)
    for (const [i, row] of chosen.entries()) counting[i] = batch.weights[row]! * scale
    ids.write(batch.ids)
    positions.write(batch.positions)
    rows?.write(padded)
    cells.write(padded.map((row, i) => i * this.#vocabulary + batch.targets[row]!))
    weights.write(counting)
    if (shape.packed) {
      documentMask(batch.documents ?? new Int32Array(batch.ids.length), shape.tokens, this.#maskValues)
      mask.write(this.#maskValues)
    }
    return counting
  }

  dispose(): void {
    this.#graph.dispose()
    this.#kernels?.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

export function declareInputs(graph: Graph, shape: Required<GraphShape>): Inputs {
  const { sequences, tokens, supervisedMax, packed } = shape
  const all = sequences * tokens
  return {
    ids: graph.input('I32', [all], 'ids'),
    positions: graph.input('I32', [all], 'positions'),
    mask: graph.input('F32', packed ? [sequences, 1, tokens, tokens] : [tokens, tokens], 'mask'),
    rows: supervisedMax < all ? graph.input('I32', [supervisedMax], 'rows') : undefined,
    cells: graph.input('I32', [supervisedMax], 'cells'),
    weights: graph.input('F32', [supervisedMax, 1], 'weights'),
  }
}

export function logitsOf(graph: Graph, parameters: Parameters, shape: GraphShape, inputs: Inputs): Tensor {
  const { architecture, config } = parameters.definition
  const { ops } = graph
  return architecture.forward(config, {
    ops,
    tokens: inputs.ids,
    positions: inputs.positions,
    outputRows: inputs.rows,
    weight: (name) => parameters.weight(name),
    ...parameters.layers(ops),
    attend: wholeSequences(ops, shape.sequences, shape.tokens, inputs.mask),
  })
}

/** Each part of a gradient is added as soon as it is known, so that it needs no memory until the end. */
export function expandBackward(graph: Graph, parameters: Parameters, logits: Tensor, slope: Tensor): void {
  const gradients = new Map(parameters.all.map(({ weight, gradient }) => [weight, gradient]))
  backward(graph.ops, logits, slope, new Set(gradients.keys()), (weight, part) => {
    graph.expand(graph.ops.accumulate(gradients.get(weight)!, part))
  })
}

function allRows(batch: Batch): Int32Array {
  return batch.ids.map((_, row) => row)
}

function supervisedRows(batch: Batch, rowsMax: number): Int32Array {
  const rows = allRows(batch).filter((row) => batch.weights[row] !== 0)
  assert(rows.length <= rowsMax, `at most ${rowsMax} rows of a batch carry a loss, not ${rows.length}`)
  return rows
}
