/**
 * GRPO's loss and its backward pass as one graph: log-probabilities of the answers' tokens first, from them how much each
 * token's cross-entropy weighs, with those weights its gradient.
 *
 * B answers in rows of T tokens, N = B*T; M rows with a loss.
 */
import { assert } from '../../base/assert.ts'
import type { Device } from '../../runtime/device.ts'
import { Graph } from '../../runtime/graph.ts'
import type { KernelContext } from '../../runtime/kernels.ts'
import type { Tensor } from '../../runtime/tensor.ts'
import { type Batch, supervisedCount } from '../batch.ts'
import { chunksOf, declareInputs, type HeadChunk, type Inputs, splitForward } from '../forward.ts'
import { cellsOf } from '../loss-graph.ts'
import { type GraphShape, type LearningGraph, type Objective, shapeDefaults } from '../objective.ts'
import { trainingKernels } from '../own-kernels.ts'
import type { Parameters } from '../parameters.ts'
import { TargetHead } from '../target-head.ts'
import { boundOf, type PolicyTensors, policyLoss, policyWeights } from './policy.ts'
import type { PolicyMethod } from './policy-fields.ts'

/** Answers, one a row. What stands at a place belongs to its target, the token that follows. */
export interface PolicyBatch extends Batch {
  /** [N] */
  advantages: Float32Array
  /**
   * [N]: log-probability under the policy that sampled the answers. The first step that learns from them fills this in:
   * the weights are still those that sampled.
   */
  sampled: Float32Array
  /** True in that first step, whose ratios are all exactly 1. */
  isFresh: boolean
  /** [N]: log-probability under the reference; undefined without one. */
  reference: Float32Array | undefined
  /** [N]: log-probability as the serving engine reported it; not a number where it did not. */
  served: Float32Array
}

export function policyObjective(method: PolicyMethod): Objective {
  const counts: { readonly [Loss in PolicyMethod['loss']]: (batch: Batch) => number } = {
    tokens: supervisedCount,
    answers: ({ sequences }) => sequences,
    constant: ({ sequences }) => sequences * method.tokens_max,
  }
  return {
    graph: (parameters, device, shape, mode) => new PolicyGraph(method, parameters, device, shape, mode),
    count: counts[method.loss],
  }
}

/** [M, 1] */
type PolicyInputs = Omit<PolicyTensors, 'now' | 'reference'> & { reference: Tensor; scale: Tensor }

const inputNames = ['sampled', 'moved', 'advantage', 'bound', 'side', 'reference', 'scale'] as const

/** Sums over tokens, for means. */
interface Sums {
  tokens: number
  clipped: number
  divergence: number
  /** Of the first step after sampling only. */
  freshTokens: number
  surprise: number
  servedTokens: number
  gap: number
}

const noSums = (): Sums => ({
  tokens: 0,
  clipped: 0,
  divergence: 0,
  freshTokens: 0,
  surprise: 0,
  servedTokens: 0,
  gap: 0,
})

export class PolicyGraph implements LearningGraph {
  readonly #method: PolicyMethod
  readonly #shape: Required<GraphShape>
  readonly #graph: Graph
  readonly #kernels: KernelContext | undefined
  readonly #inputs: Inputs
  readonly #policyInputs: PolicyInputs
  readonly #now: Tensor
  readonly #vocabulary: number
  readonly #chunks: readonly HeadChunk[]
  #sums = noSums()

  constructor(
    method: PolicyMethod,
    parameters: Parameters,
    device: Device,
    shape: GraphShape,
    mode: 'train' | 'evaluate',
  ) {
    const { config } = parameters.definition
    this.#method = method
    const all = shape.sequences * shape.tokens
    this.#shape = { supervisedMax: all, ...shapeDefaults, ...shape, packed: true }
    this.#vocabulary = config.vocabularySize
    this.#kernels = trainingKernels(parameters, device, this.#shape.ownKernels)
    const { supervisedMax, logitsBytesMax, precision, recompute } = this.#shape
    const chunkCount = chunksOf(supervisedMax, config.vocabularySize, logitsBytesMax).length
    const nodesMax = 1024 + 640 * config.layers + 128 * chunkCount
    const graph = new Graph(device, nodesMax, 64, { kernels: this.#kernels, precision })
    this.#graph = graph
    this.#inputs = declareInputs(graph, this.#shape, parameters)
    this.#policyInputs = declarePolicy(graph, supervisedMax)
    const network = splitForward(graph, parameters, this.#shape, this.#inputs)
    this.#chunks = network.chunks
    const head = new TargetHead(graph, network, this.#inputs.cells, method.temperature)
    this.#now = graph.output(head.logProbabilities) //                                    [M, 1]
    if (mode === 'train') {
      const { scale, reference, ...inputs } = this.#policyInputs
      const weights = policyWeights(graph.ops, method, {
        ...inputs,
        now: this.#now,
        reference: method.beta > 0 ? reference : undefined,
      })
      head.expandBackward(parameters, graph.ops.mul(weights, scale), recompute)
    }
    graph.allocate()
  }

  get scratchBytes(): number {
    return this.#graph.scratchBytes + this.#graph.productBytes
  }

  async run(given: Batch, scale: number): Promise<number> {
    const batch = given as PolicyBatch
    let loss = 0
    for (const { place, now } of await this.#compute(batch, scale)) {
      if (batch.isFresh) this.#keepSampled(batch, place, now)
      const away = batch.reference === undefined ? undefined : batch.reference[place]! - now
      const token = policyLoss(this.#method, batch.advantages[place]!, now - batch.sampled[place]!, away)
      loss += token.loss * batch.weights[place]! * scale
      this.#sums.tokens++
      this.#sums.clipped += Number(token.clipped)
      this.#sums.divergence += token.divergence
    }
    return loss
  }

  #keepSampled({ sampled, served }: PolicyBatch, place: number, now: number): void {
    sampled[place] = now
    this.#sums.freshTokens++
    this.#sums.surprise -= now
    if (Number.isNaN(served[place]!)) return
    this.#sums.servedTokens++
    this.#sums.gap += Math.abs(served[place]! - now)
  }

  /** Log-probability of every target that counts: [N], 0 for the others. */
  async logProbabilities(batch: PolicyBatch): Promise<Float32Array> {
    const all = new Float32Array(batch.ids.length)
    for (const { place, now } of await this.#compute(batch, 0)) all[place] = now
    return all
  }

  /** Log-probability of every target that counts, and its place. In training this adds to the gradients, too. */
  async #compute(batch: PolicyBatch, scale: number): Promise<{ place: number; now: number }[]> {
    const places = this.#write(batch, scale)
    await this.#graph.computeAsync()
    const values = this.#now.toFloats()
    return Array.from(places, (place, row) => ({ place, now: values[row]! })).filter(
      ({ place }) => place >= 0,
    )
  }

  takeMetrics(): Record<string, number> {
    const { tokens, clipped, divergence, freshTokens, surprise, servedTokens, gap } = this.#sums
    this.#sums = noSums()
    return {
      clip_share: clipped / tokens,
      ...(this.#method.beta > 0 && { kl: divergence / tokens }),
      // The mean surprise of tokens that were drawn is an estimate of the entropy.
      ...(freshTokens > 0 && { entropy: surprise / freshTokens }),
      ...(servedTokens > 0 && { served_gap: gap / servedTokens }),
    }
  }

  /** Returns the place of every row that counts, -1 for the others: [M]. */
  #write(batch: PolicyBatch, scale: number): Int32Array {
    const { sequences, tokens, supervisedMax } = this.#shape
    assert(batch.sequences === sequences && batch.tokens === tokens, 'a batch fits its graph')
    const { ids, positions, masks, rows, cells } = this.#inputs
    const everywhere = batch.ids.map((_, place) => place)
    const chosen = everywhere.filter((place) => batch.weights[place] !== 0)
    assert(chosen.length <= supervisedMax, `at most ${supervisedMax} tokens of a batch carry a loss`)
    // Rows that only fill up the shape compute the first place again and weigh nothing.
    const padded = new Int32Array(supervisedMax)
    padded.set(chosen)
    const places =
      rows === undefined
        ? everywhere.map((place) => (batch.weights[place] === 0 ? -1 : place))
        : padded.map((place, row) => (row < chosen.length ? place : -1))
    ids.write(batch.ids)
    positions.write(batch.positions)
    rows?.write(padded)
    cells.write(
      cellsOf(rows === undefined ? everywhere : padded, this.#chunks, batch.targets, this.#vocabulary),
    )
    masks.writeDocuments(batch.documents!)
    this.#writePolicy(batch, places, scale)
    return places
  }

  #writePolicy(batch: PolicyBatch, places: Int32Array, scale: number): void {
    const column = (value: (place: number) => number) =>
      Float32Array.from(places, (place) => (place < 0 ? 0 : value(place)))
    const advantageOf = (place: number) => batch.advantages[place]!
    const columns: { readonly [Name in keyof PolicyInputs]: Float32Array } = {
      sampled: column((place) => batch.sampled[place]!),
      moved: column(() => Number(!batch.isFresh)),
      advantage: column(advantageOf),
      bound: column((place) => boundOf(this.#method, advantageOf(place)).bound),
      side: column((place) => boundOf(this.#method, advantageOf(place)).side),
      reference: column((place) => batch.reference?.[place] ?? 0),
      scale: column((place) => batch.weights[place]! * scale),
    }
    for (const name of inputNames) this.#policyInputs[name].write(columns[name])
  }

  dispose(): void {
    this.#graph.dispose()
    this.#kernels?.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

function declarePolicy(graph: Graph, rows: number): PolicyInputs {
  const entries = inputNames.map((name) => [name, graph.input('F32', [rows, 1], name)] as const)
  return Object.fromEntries(entries) as { [Name in (typeof inputNames)[number]]: Tensor }
}
