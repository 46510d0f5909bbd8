/**
 * Causal attention over whole sequences, from operations that have gradients.
 *
 * B sequences of T tokens, N = B*T; H heads, G key/value heads, R = H/G heads to one of those, D head width.
 */
import { type ForwardPass, type ModelConfig, windowsOf } from '../models/architecture.ts'
import type { Graph } from '../runtime/graph.ts'
import type { Ops } from '../runtime/ops.ts'
import type { Tensor } from '../runtime/tensor.ts'

export interface SequenceShape {
  sequences: number
  tokens: number
  /** Rows hold several documents. */
  packed: boolean
}

/** Who sees whom in each layer: an input of the graph for every window. */
export class SequenceMasks {
  readonly #byWindow: ReadonlyMap<number | undefined, SequenceMask>
  readonly #config: ModelConfig

  constructor(graph: Graph, shape: SequenceShape, config: ModelConfig) {
    this.#config = config
    // Without our kernels a sink is one more score of each row.
    const sinks = hasSinks(config) && !graph.ops.attendsCausally
    this.#byWindow = new Map(
      windowsOf(config).map((window) => [window, new SequenceMask(graph, shape, window, sinks)]),
    )
  }

  /** As {@link SequenceMask} has it. */
  of(layer: number): Tensor {
    return this.#byWindow.get(this.#config.attention[layer]!.window)!.tensor
  }

  /** Of rows without documents; once, when the graph has its memory. */
  writeWhole(): void {
    for (const mask of this.#byWindow.values()) mask.writeWhole()
  }

  /** Of packed rows: `documents` [N] names the document of each token. */
  writeDocuments(documents: Int32Array): void {
    for (const mask of this.#byWindow.values()) mask.writeDocuments(documents)
  }
}

/** Who sees whom with one window, in whichever form attention reads. */
class SequenceMask {
  /** First row that each token sees [N] (I32), or what is added to scores: [T, T], or [B, 1, T, T] for packed rows. */
  readonly tensor: Tensor
  readonly #tokens: number
  /** Scores of a row. */
  readonly #seen: number
  readonly #packed: boolean
  readonly #window: number | undefined
  readonly #values: Float32Array | Int32Array

  /** With `sinks` every token sees one score more, behind those of tokens. */
  constructor(
    graph: Graph,
    { sequences, tokens, packed }: SequenceShape,
    window: number | undefined,
    sinks: boolean,
  ) {
    this.#tokens = tokens
    this.#seen = tokens + (sinks ? 1 : 0)
    this.#packed = packed
    this.#window = window
    this.tensor = graph.ops.attendsCausally
      ? graph.input('I32', [sequences * tokens], 'first')
      : graph.input('F32', packed ? [sequences, 1, tokens, this.#seen] : [tokens, this.#seen], 'mask')
    const { size, dtype } = this.tensor
    this.#values = dtype === 'I32' ? new Int32Array(size) : new Float32Array(size)
  }

  writeWhole(): void {
    if (this.#packed) return
    if (this.#values instanceof Int32Array)
      this.#values.set(firstRows(this.#values.length, this.#tokens, this.#window))
    else this.#values.set(causalMask(this.#tokens, this.#window, this.#seen))
    this.tensor.write(this.#values)
  }

  writeDocuments(documents: Int32Array): void {
    if (this.#values instanceof Int32Array)
      this.#values.set(firstRows(documents.length, this.#tokens, this.#window, documents))
    else documentMask(documents, this.#tokens, this.#values, this.#window, this.#seen)
    this.tensor.write(this.#values)
  }
}

/** For each of `count` tokens the first row that it sees of its sequence, or of its own document in it. */
function firstRows(
  count: number,
  tokens: number,
  window = Number.POSITIVE_INFINITY,
  documents?: Int32Array,
): Int32Array {
  let first = 0
  return Int32Array.from({ length: count }, (_, row) => {
    if (row % tokens === 0 || (documents !== undefined && documents[row] !== documents[row - 1])) first = row
    return Math.max(first, row - window + 1)
  })
}

export function wholeSequences(
  ops: Ops,
  sequences: number,
  tokens: number,
  masks: SequenceMasks,
  { attention }: ModelConfig,
): ForwardPass['attend'] {
  const byHead = (x: Tensor) => {
    const [, heads, width] = x.shape as [number, number, number]
    const split = ops.reshape(packed(ops, x), [sequences, tokens, heads, width]) //  [B, T, H, D]
    return ops.contiguous(ops.permute(split, [0, 2, 1, 3])) //                       [B, H, T, D]
  }
  return (layer, q, k, v, _, sinks) => {
    const mask = masks.of(layer)
    const { scale } = attention[layer]!
    if (mask.dtype === 'I32') return ops.causalAttention(q, k, v, mask, { sequences, scale }, sinks)
    const [, heads, width] = q.shape as [number, number, number]
    const groups = k.shape[1]!
    // Heads of one group are stacked along the tokens: one product then serves them all.
    const stacked = [sequences, groups, (heads / groups) * tokens]
    const scores = ops.matmul(ops.reshape(byHead(q), [...stacked, width]), byHead(k)) // [B, G, R*T, T]
    const square = ops.reshape(scores, [sequences, heads, tokens, tokens])
    const shares =
      sinks === undefined
        ? ops.softmax(square, mask, scale) //                                         [B, H, T, T]
        : besideSinks(ops, square, sinks, mask, scale)
    const values = ops.transposed(byHead(v)) //                                       [B, G, D, T]
    const mixed = ops.matmul(ops.reshape(shares, [...stacked, tokens]), values) //    [B, G, R*T, D]
    const heady = ops.reshape(mixed, [sequences, heads, tokens, width])
    const flat = ops.contiguous(ops.permute(heady, [0, 2, 1, 3])) //                  [B, T, H, D]
    return ops.reshape(flat, [sequences * tokens, heads * width])
  }
}

/** Softmax of scores [B, H, T, T] with one more in each row, the sink of its head, which takes its share and no value. */
function besideSinks(ops: Ops, scores: Tensor, sinks: Tensor, mask: Tensor, scale: number): Tensor {
  const [, heads, tokens] = scores.shape as [number, number, number, number]
  const column = ops.slice(scores, 3, 0, 1) //                                          [B, H, T, 1]
  // Scores are scaled behind this.
  const own = ops.reshape(ops.scale(sinks, 1 / scale), [1, heads, 1, 1])
  const all = ops.concat(scores, ops.repeat(own, column), 3) //                         [B, H, T, T + 1]
  const shares = ops.softmax(all, mask, scale)
  return ops.contiguous(ops.slice(shares, 3, 0, tokens))
}

/** Whether heads have scores of their own. */
function hasSinks(config: ModelConfig): boolean {
  return 'sinks' in config && config.sinks === true
}

function packed(ops: Ops, x: Tensor): Tensor {
  return x.contiguous ? x : ops.contiguous(x)
}

/** Additive mask [T, `seen`]: a token sees itself and what came before, at most `window` tokens in all, and what is behind tokens. */
export function causalMask(tokens: number, window = Number.POSITIVE_INFINITY, seen = tokens): Float32Array {
  const mask = new Float32Array(tokens * seen).fill(-Infinity)
  for (let row = 0; row < tokens; row++) {
    mask.fill(0, row * seen + Math.max(0, row - window + 1), row * seen + row + 1)
    mask.fill(0, row * seen + tokens, (row + 1) * seen)
  }
  return mask
}

/**
 * Additive mask [B, 1, T, `seen`] for packed documents: a token sees itself and what came before in its own
 * document. `documents` [B*T] names the document of each token; a document is contiguous.
 */
export function documentMask(
  documents: Int32Array,
  tokens: number,
  into: Float32Array,
  window = Number.POSITIVE_INFINITY,
  seen = tokens,
): void {
  into.fill(-Infinity)
  let start = 0
  for (let i = 0; i < documents.length; i++) {
    const column = i % tokens
    if (column === 0 || documents[i] !== documents[i - 1]) start = column
    into.fill(0, i * seen + Math.max(start, column - window + 1), i * seen + column + 1)
    into.fill(0, i * seen + tokens, (i + 1) * seen)
  }
}
