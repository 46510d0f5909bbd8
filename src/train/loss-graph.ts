/**
 * The model, its loss and, for training, its backward pass as one graph that is built once and run on every
 * micro-batch. Gradients are added to the parameters' own.
 *
 * B sequences of T tokens, N = B*T; M rows with a loss; V vocabulary.
 */
import { assert } from '../base/assert.ts'
import type { ModelConfig } from '../models/architecture.ts'
import type { Device } from '../runtime/device.ts'
import { Graph } from '../runtime/graph.ts'
import type { CallTime, KernelContext } from '../runtime/kernels.ts'
import type { Tensor } from '../runtime/tensor.ts'
import { backward, backwardInSegments } from './backward.ts'
import { type Batch, supervisedCount } from './batch.ts'
import {
  chunksOf,
  declareInputs,
  type HeadChunk,
  type Inputs,
  type SplitForward,
  splitForward,
} from './forward.ts'
import { crossEntropy, weightedLoss } from './loss.ts'
import { type GraphShape, type LearningGraph, shapeDefaults } from './objective.ts'
import { trainingKernels } from './own-kernels.ts'
import type { Parameters } from './parameters.ts'
import { RouterBalance } from './router-balance.ts'

export class LossGraph implements LearningGraph {
  readonly shape: Required<GraphShape>
  readonly #graph: Graph
  readonly #kernels: KernelContext | undefined
  readonly #inputs: Inputs
  readonly #chunks: readonly HeadChunk[]
  /** Probabilities of the targets, a tensor for each chunk. */
  readonly #chosen: readonly Tensor[]
  readonly #vocabulary: number
  readonly #balance: RouterBalance | undefined

  constructor(parameters: Parameters, device: Device, shape: GraphShape, mode: 'train' | 'evaluate') {
    const { config } = parameters.definition
    const all = shape.sequences * shape.tokens
    this.shape = { supervisedMax: all, ...shapeDefaults, ...shape }
    this.#vocabulary = config.vocabularySize
    const chunkCount = chunksOf(
      this.shape.supervisedMax,
      config.vocabularySize,
      this.shape.logitsBytesMax,
    ).length
    const nodesMax = 1024 + 640 * config.layers + 64 * chunkCount
    this.#kernels = trainingKernels(parameters, device, this.shape.ownKernels)
    const graph = new Graph(device, nodesMax, 64, { kernels: this.#kernels, precision: this.shape.precision })
    this.#graph = graph
    this.#inputs = declareInputs(graph, this.shape, parameters)
    this.#balance = mode === 'train' ? this.#balanceOf(graph, config) : undefined
    const network = splitForward(graph, parameters, this.shape, this.#inputs, this.#balance)
    this.#chunks = network.chunks
    this.#chosen =
      network.hidden === undefined
        ? [this.#wholeHead(graph, parameters, network.logits(undefined), mode)]
        : this.#headInChunks(graph, parameters, network, network.hidden, mode)
    this.#balance?.keep()
    graph.allocate()
    this.#inputs.masks.writeWhole()
  }

  #balanceOf(graph: Graph, { mixture }: ModelConfig): RouterBalance | undefined {
    if (mixture === undefined) return undefined
    const { sequences, tokens, supervisedMax, routerBalance } = this.shape
    const all = sequences * tokens
    return new RouterBalance(graph, mixture.experts, routerBalance, [
      all,
      ...(supervisedMax < all ? [supervisedMax] : []),
    ])
  }

  #wholeHead(graph: Graph, parameters: Parameters, logits: Tensor, mode: 'train' | 'evaluate'): Tensor {
    const loss = crossEntropy(graph.ops, logits, this.#inputs.cells)
    const chosen = graph.output(loss.chosen)
    if (mode === 'train')
      expandBackward(graph, parameters, logits, loss.gradient(this.#inputs.weights), this.shape.recompute)
    return chosen
  }

  /** Each chunk's logits are gone before those of the next are computed. */
  #headInChunks(
    graph: Graph,
    parameters: Parameters,
    { chunks, logits: logitsOf }: SplitForward,
    hidden: Tensor,
    mode: 'train' | 'evaluate',
  ): Tensor[] {
    const { ops } = graph
    const seen = ops.detached(hidden)
    const slopes: Tensor[] = []
    const chosen = chunks.map(({ start, rows }) => {
      const part = ops.slice(seen, 0, start, rows) //                                 [m, W]
      const logits = logitsOf(part) //                                                [m, V]
      const loss = crossEntropy(ops, logits, ops.slice(this.#inputs.cells, 0, start, rows))
      const output = graph.output(loss.chosen)
      if (mode === 'train') {
        const slope = loss.gradient(ops.slice(this.#inputs.weights, 0, start, rows))
        slopes.push(chunkBackward(graph, parameters, logits, slope, part))
      }
      return output
    })
    if (mode === 'train') {
      const slope = slopes.reduce((joined, next) => ops.concat(joined, next, 0)) //   [M, W]
      expandBackward(graph, parameters, hidden, slope, this.shape.recompute)
    }
    return chosen
  }

  /** Bytes between inputs and outputs, activations included. */
  get scratchBytes(): number {
    return this.#graph.scratchBytes + this.#graph.productBytes
  }

  opTimes(): CallTime[] {
    return this.#kernels?.times() ?? []
  }

  /**
   * Runs the batch with its weights times `scale`. Returns the sum of weight * scale * loss; in training, that
   * sum's gradient is added to the parameters' gradients.
   */
  async run(batch: Batch, scale: number): Promise<number> {
    const weights = this.#write(batch, scale)
    await this.#graph.computeAsync()
    const chosen = new Float32Array(weights.length)
    for (const [i, { start, rows }] of this.#chunks.entries())
      this.#chosen[i]!.read(chosen.subarray(start, start + rows))
    this.#balance?.read()
    return weightedLoss(chosen, weights)
  }

  takeMetrics(): Record<string, number> {
    return this.#balance?.takeMetrics() ?? {}
  }

  #write(batch: Batch, scale: number): Float32Array {
    const { shape } = this
    assert(batch.sequences === shape.sequences && batch.tokens === shape.tokens, 'a batch fits its graph')
    assert(shape.packed || batch.documents === undefined, 'documents need a graph for packed rows')
    const { ids, positions, masks, rows, cells, weights } = this.#inputs
    const chosen = rows === undefined ? allRows(batch) : supervisedRows(batch, shape.supervisedMax)
    const padded = new Int32Array(shape.supervisedMax)
    padded.set(chosen)
    // Rows that only fill up the shape compute the first row again and weigh nothing.
    const counting = new Float32Array(shape.supervisedMax)
    for (const [i, row] of chosen.entries()) counting[i] = batch.weights[row]! * scale
    ids.write(batch.ids)
    positions.write(batch.positions)
    rows?.write(padded)
    cells.write(cellsOf(padded, this.#chunks, batch.targets, this.#vocabulary))
    weights.write(counting)
    this.#balance?.write(batch, rows && chosen, supervisedCount(batch) * scale)
    if (shape.packed) masks.writeDocuments(batch.documents ?? new Int32Array(batch.ids.length))
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

/**
 * Each part of a gradient is added as soon as it is known, so that it needs no memory until the end. With `recompute`,
 * activations are forgotten first.
 */
export function expandBackward(
  graph: Graph,
  parameters: Parameters,
  y: Tensor,
  slope: Tensor,
  recompute: boolean,
): void {
  const { wanted, sink } = gradientSink(graph, parameters)
  if (recompute) backwardInSegments(graph.ops, y, slope, wanted, sink, (tensor) => graph.expand(tensor))
  else backward(graph.ops, y, slope, wanted, sink)
}

function gradientSink(graph: Graph, parameters: Parameters) {
  const gradients = new Map(parameters.all.map(({ weight, gradient }) => [weight, gradient]))
  const sink = (weight: Tensor, part: Tensor) =>
    graph.expand(graph.ops.accumulate(gradients.get(weight)!, part))
  return { wanted: new Set(gradients.keys()), sink }
}

/** The gradients of one chunk's rows, those of the head's weights added at once. */
export function chunkBackward(
  graph: Graph,
  parameters: Parameters,
  logits: Tensor,
  slope: Tensor,
  rows: Tensor,
): Tensor {
  const { wanted, sink } = gradientSink(graph, parameters)
  const parts: Tensor[] = []
  backward(graph.ops, logits, slope, new Set([...wanted, rows]), (tensor, part) => {
    if (tensor !== rows) return sink(tensor, part)
    graph.expand(part)
    parts.push(part)
  })
  assert(parts.length === 1, 'the head uses a row once')
  return parts[0]!
}

/** For each of `rows`, where its target lies in the logits of its chunk. */
export function cellsOf(
  rows: Int32Array,
  chunks: readonly HeadChunk[],
  targets: Int32Array,
  vocabulary: number,
): Int32Array {
  const cells = new Int32Array(rows.length)
  for (const chunk of chunks)
    for (let i = 0; i < chunk.rows; i++) {
      const place = chunk.start + i
      cells[place] = i * vocabulary + targets[rows[place]!]!
    }
  return cells
}

function allRows(batch: Batch): Int32Array {
  return batch.ids.map((_, row) => row)
}

function supervisedRows(batch: Batch, rowsMax: number): Int32Array {
  const rows = allRows(batch).filter((row) => batch.weights[row] !== 0)
  assert(rows.length <= rowsMax, `at most ${rowsMax} rows of a batch carry a loss, not ${rows.length}`)
  return rows
}
