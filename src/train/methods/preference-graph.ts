/**
 * A preference loss and its backward pass as one graph: log-probabilities first, from them the loss and the weight
 * of every token, with those weights the gradient of the cross-entropy.
 *
 * P pairs in rows of T tokens, N = P*T.
 */
import { assert } from '../../base/assert.ts'
import type { Device } from '../../runtime/device.ts'
import { Graph } from '../../runtime/graph.ts'
import type { KernelContext } from '../../runtime/kernels.ts'
import type { Tensor } from '../../runtime/tensor.ts'
import { backward } from '../backward.ts'
import type { Batch } from '../batch.ts'
import { chunksOf, declareInputs, type Inputs, type SplitForward, splitForward } from '../forward.ts'
import { cellsOf } from '../loss-graph.ts'
import { type GraphShape, type LearningGraph, type Objective, shapeDefaults } from '../objective.ts'
import { trainingKernels } from '../own-kernels.ts'
import type { Parameters } from '../parameters.ts'
import { TargetHead } from '../target-head.ts'
import type { PairBatch } from './pair-batches.ts'
import {
  meansOf,
  type PairNumbers,
  type PairTensors,
  type PreferenceMethod,
  pairLosses,
  pairMetrics,
} from './preference.ts'

export function preferenceObjective(method: PreferenceMethod): Objective {
  return {
    graph: (parameters, device, shape, mode) => new PreferenceGraph(method, parameters, device, shape, mode),
    count: ({ sequences }) => sequences,
  }
}

interface PairInputs {
  /** [P, T] */
  left: Tensor
  right: Tensor
  /** [P, 1] */
  referenceLeft: Tensor
  referenceRight: Tensor
  shareLeft: Tensor
  shareRight: Tensor
  verdict: Tensor
  scale: Tensor
  /** [1]; see PairTensors.step. */
  own: Tensor
  given: Tensor
}

export class PreferenceGraph implements LearningGraph {
  readonly #method: PreferenceMethod
  readonly #shape: Required<GraphShape>
  readonly #graph: Graph
  readonly #kernels: KernelContext | undefined
  readonly #inputs: Inputs
  readonly #pairInputs: PairInputs
  readonly #pairs: PairTensors
  readonly #losses: Tensor
  readonly #one: Tensor
  readonly #vocabulary: number
  readonly #network: SplitForward
  readonly #parameters: Parameters
  readonly #device: Device
  readonly #mode: 'train' | 'evaluate'
  /** Measures the distance of a whole step before its gradients. */
  #measure: PreferenceGraph | undefined
  #metrics: Record<string, number> = {}
  #seen = 0

  constructor(
    method: PreferenceMethod,
    parameters: Parameters,
    device: Device,
    shape: GraphShape,
    mode: 'train' | 'evaluate',
  ) {
    const { config } = parameters.definition
    this.#method = method
    this.#shape = {
      ...shapeDefaults,
      ...shape,
      supervisedMax: shape.sequences * shape.tokens,
      packed: true,
    }
    this.#parameters = parameters
    this.#device = device
    this.#mode = mode
    this.#vocabulary = config.vocabularySize
    this.#kernels = trainingKernels(parameters, device, this.#shape.ownKernels)
    const { supervisedMax, logitsBytesMax } = this.#shape
    const chunkCount = chunksOf(supervisedMax, config.vocabularySize, logitsBytesMax).length
    const nodesMax = 1024 + 640 * config.layers + 128 * chunkCount
    const graph = new Graph(device, nodesMax, 64, {
      kernels: this.#kernels,
      precision: this.#shape.precision,
    })
    this.#graph = graph
    this.#inputs = declareInputs(graph, this.#shape, parameters)
    this.#pairInputs = declarePairs(graph, this.#shape)
    this.#one = graph.input('F32', [1], 'one')
    const { ops } = graph
    this.#network = splitForward(graph, parameters, this.#shape, this.#inputs)
    const head = new TargetHead(graph, this.#network, this.#inputs.cells)
    const { logProbabilities } = head //                                                  [N, 1]
    this.#pairs = pairsOf(graph, logProbabilities, this.#pairInputs)
    this.#losses = graph.output(pairLosses(ops, method, this.#pairs)) //                 [P, 1]
    if (mode === 'train') {
      const total = ops.sum(ops.mul(this.#losses, this.#pairInputs.scale))
      const slopes: Tensor[] = []
      backward(ops, total, this.#one, new Set([logProbabilities]), (_, slope) => slopes.push(slope))
      const slope = slopes.reduce((sum, next) => ops.add(sum, next))
      // Cross-entropy is the negative logarithm.
      head.expandBackward(parameters, ops.scale(slope, -1), this.#shape.recompute)
    }
    graph.allocate()
    this.#one.write(Float32Array.of(1))
    this.#setDistance(undefined)
  }

  /** KTO's distance is one for the whole step, so that eight micro-batches of one are one of eight. */
  async prepare(batches: readonly Batch[]): Promise<void> {
    if (this.#method.kind !== 'kto') return
    if (batches.length === 1) return this.#setDistance(undefined)
    this.#measure ??=
      this.#mode === 'evaluate'
        ? this
        : new PreferenceGraph(this.#method, this.#parameters, this.#device, this.#shape, 'evaluate')
    let [moved, pairs] = [0, 0]
    for (const batch of batches) {
      const { right, referenceRight } = await this.#measure.evaluate(batch as PairBatch, 0)
      moved += right.reduce((sum, value, i) => sum + value - referenceRight[i]!, 0)
      pairs += right.length
    }
    this.#setDistance(Math.max(0, moved / pairs))
  }

  /** Undefined: each micro-batch measures its own. */
  #setDistance(distance: number | undefined): void {
    this.#pairInputs.own.write(Float32Array.of(distance === undefined ? 1 : 0))
    this.#pairInputs.given.write(Float32Array.of(distance ?? 0))
  }

  get scratchBytes(): number {
    return this.#graph.scratchBytes + this.#graph.productBytes
  }

  async run(batch: Batch, scale: number): Promise<number> {
    const numbers = await this.evaluate(batch as PairBatch, scale)
    for (const [name, value] of Object.entries(pairMetrics(this.#method, numbers)))
      this.#metrics[name] = (this.#metrics[name] ?? 0) + value
    this.#seen += batch.sequences
    return this.#losses.toFloats().reduce((sum, loss) => sum + loss * scale, 0)
  }

  /** The answers' log-probabilities. In training this adds to the gradients, too. */
  async evaluate(batch: PairBatch, scale: number): Promise<PairNumbers> {
    this.#write(batch, scale)
    await this.#graph.computeAsync()
    const { referenceLeft, referenceRight, verdict } = batch
    const [left, right] = [this.#pairs.left.toFloats(), this.#pairs.right.toFloats()]
    return { left, right, referenceLeft, referenceRight, verdict }
  }

  takeMetrics(): Record<string, number> {
    const means = meansOf(this.#metrics, this.#seen)
    this.#metrics = {}
    this.#seen = 0
    return means
  }

  #write(batch: PairBatch, scale: number): void {
    const { sequences, tokens } = this.#shape
    assert(batch.sequences === sequences && batch.tokens === tokens, 'a batch fits its graph')
    const { ids, positions, masks, cells } = this.#inputs
    ids.write(batch.ids)
    positions.write(batch.positions)
    const rows = batch.targets.map((_, row) => row)
    cells.write(cellsOf(rows, this.#network.chunks, batch.targets, this.#vocabulary))
    masks.writeDocuments(batch.documents!)
    const own = this.#pairInputs
    own.left.write(batch.left)
    own.right.write(batch.right)
    own.referenceLeft.write(batch.referenceLeft)
    own.referenceRight.write(batch.referenceRight)
    own.shareLeft.write(shares(batch.left, tokens))
    own.shareRight.write(shares(batch.right, tokens))
    own.verdict.write(batch.verdict)
    own.scale.write(new Float32Array(sequences).fill(scale))
  }

  dispose(): void {
    if (this.#measure !== this) this.#measure?.dispose()
    this.#graph.dispose()
    this.#kernels?.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

function declarePairs(graph: Graph, { sequences, tokens }: GraphShape): PairInputs {
  const places = (name: string) => graph.input('F32', [sequences, tokens], name)
  const numbers = (name: string) => graph.input('F32', [sequences, 1], name)
  return {
    left: places('left'),
    right: places('right'),
    referenceLeft: numbers('reference left'),
    referenceRight: numbers('reference right'),
    shareLeft: numbers('share left'),
    shareRight: numbers('share right'),
    verdict: numbers('verdict'),
    scale: numbers('scale'),
    own: graph.input('F32', [1], 'own distance'),
    given: graph.input('F32', [1], 'given distance'),
  }
}

function pairsOf(graph: Graph, logProbabilities: Tensor, inputs: PairInputs): PairTensors {
  const { ops } = graph
  const table = ops.reshape(logProbabilities, inputs.left.shape) // [P, T]
  const sumOver = (places: Tensor) => graph.output(ops.sumRows(ops.mul(table, places))) // [P, 1]
  const step = { own: inputs.own, given: inputs.given }
  return { ...inputs, step, left: sumOver(inputs.left), right: sumOver(inputs.right) }
}

/** One over the number of members of each row. */
function shares(members: Float32Array, tokens: number): Float32Array {
  return Float32Array.from({ length: members.length / tokens }, (_, row) => {
    const count = members.subarray(row * tokens, (row + 1) * tokens).reduce((sum, member) => sum + member, 0)
    return 1 / Math.max(1, count)
  })
}
