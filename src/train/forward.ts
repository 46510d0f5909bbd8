/**
 * The network of a model in training, cut in front of its head: the head and its loss can then be computed for a
 * number of rows at a time, so that no more logits are in memory than fit.
 *
 * N tokens, M rows with a loss, W width, V vocabulary.
 */
import type { ForwardPass } from '../models/architecture.ts'
import { forwardWithHead } from '../models/head.ts'
import type { Graph } from '../runtime/graph.ts'
import type { Tensor } from '../runtime/tensor.ts'
import { SequenceMasks, wholeSequences } from './attention.ts'
import { trainedMixture } from './mixture.ts'
import type { GraphShape } from './objective.ts'
import type { Parameters } from './parameters.ts'
import type { RouterBalance } from './router-balance.ts'

/** What every graph over sequences reads. */
export interface Inputs {
  ids: Tensor
  positions: Tensor
  masks: SequenceMasks
  rows: Tensor | undefined
  /** [M] I32: row * V + target, rows counted within their chunk. */
  cells: Tensor
  weights: Tensor
}

export function declareInputs(graph: Graph, shape: Required<GraphShape>, parameters: Parameters): Inputs {
  const { config } = parameters.definition
  const { sequences, tokens, supervisedMax, packed } = shape
  const all = sequences * tokens
  return {
    ids: graph.input('I32', [all], 'ids'),
    positions: graph.input('I32', [all], 'positions'),
    masks: new SequenceMasks(graph, { sequences, tokens, packed }, config),
    rows: supervisedMax < all ? graph.input('I32', [supervisedMax], 'rows') : undefined,
    cells: graph.input('I32', [supervisedMax], 'cells'),
    weights: graph.input('F32', [supervisedMax, 1], 'weights'),
  }
}

function passOf(
  graph: Graph,
  parameters: Parameters,
  shape: GraphShape,
  inputs: Inputs,
  balance: RouterBalance | undefined,
): ForwardPass {
  const { ops } = graph
  return {
    ops,
    tokens: inputs.ids,
    positions: inputs.positions,
    outputRows: inputs.rows,
    weight: (name) => parameters.weight(name),
    ...parameters.layers(ops),
    ...(balance && { mixed: trainedMixture(ops, parameters, balance) }),
    attend: wholeSequences(ops, shape.sequences, shape.tokens, inputs.masks, parameters.definition.config),
  }
}

/** Rows whose logits are computed together. */
export interface HeadChunk {
  start: number
  rows: number
}

/** Rows of logits that are in memory at once; a loss has three matrices of their size. */
export function chunksOf(rows: number, vocabulary: number, logitsBytesMax: number): HeadChunk[] {
  const most = Math.max(32, Math.floor(logitsBytesMax / (4 * vocabulary)))
  const count = Math.ceil(rows / most)
  const startOf = (index: number) => Math.floor((index * rows) / count)
  return Array.from({ length: count }, (_, i) => ({ start: startOf(i), rows: startOf(i + 1) - startOf(i) }))
}

/** A network whose head can be asked for some rows. */
export interface SplitForward {
  /** What the head multiplies: [M, W]; undefined where the architecture computes something behind its head. */
  hidden: Tensor | undefined
  chunks: readonly HeadChunk[]
  /** Logits of rows of `hidden`, or of all rows where nothing is hidden. */
  logits(rows: Tensor | undefined): Tensor
}

export function splitForward(
  graph: Graph,
  parameters: Parameters,
  shape: Required<GraphShape>,
  inputs: Inputs,
  balance?: RouterBalance,
): SplitForward {
  const { architecture, config } = parameters.definition
  const chunks = chunksOf(shape.supervisedMax, config.vocabularySize, shape.logitsBytesMax)
  const pass = passOf(graph, parameters, shape, inputs, balance)
  const whole = { start: 0, rows: shape.supervisedMax }
  const unsplit = {
    hidden: undefined,
    chunks: [whole],
    logits: () => architecture.forward(config, pass),
  }
  if (chunks.length === 1) return unsplit
  const head = architecture.products(config).at(-1)!.names[0]!
  let seen: Tensor | undefined
  const hidden = forwardWithHead(parameters.definition, pass, (states) => (seen = states))
  // Something behind the head (a cap on logits) would be lost: such a network stays in one piece.
  if (hidden !== seen) return unsplit
  return { hidden, chunks, logits: (rows) => pass.linear(rows!, head) }
}
