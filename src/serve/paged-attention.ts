/**
 * Attention over the block cache in place, by our own kernels: no copy, cost linear in each request's own
 * context, any mixture of prompts and decodes in one node. Graphs depend on the number of tokens only.
 *
 * N tokens, H heads, G key/value heads, D head width.
 */
import { assert } from '../base/assert.ts'
import type { HeadNorms, LayerAttention, ModelConfig } from '../models/architecture.ts'
import { type RopeScaling, rotaryAngles } from '../models/rope.ts'
import type { Graph } from '../runtime/graph.ts'
import { rotaryPairs } from '../runtime/kernel-ops.ts'
import {
  batchTableWordsMax,
  type CacheFormat,
  cacheFormats,
  type KernelCall,
  type KernelContext,
  writeBatchTable,
} from '../runtime/kernels.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { BlockCache, BuiltAttention, CacheAttention } from './cache-attention.ts'
import type { SequenceWork } from './executor.ts'

/** What a layer attends with. */
interface Attending {
  q: Tensor
  k: Tensor
  v: Tensor
  norms: HeadNorms | undefined
  sinks: Tensor | undefined
}

/** Storing keys and values, without norms of heads and with them, and attending, without sinks and with them. */
interface LayerCalls {
  plain: KernelCall
  normed: KernelCall
  attention: KernelCall
  withSinks: KernelCall
}

export class PagedAttention implements CacheAttention {
  readonly name = 'paged'
  readonly #cache: BlockCache
  readonly #config: ModelConfig
  /** One for all layers that attend alike. */
  readonly #calls: ReadonlyMap<LayerAttention, LayerCalls>
  /** What makes the tables by which queries and keys are turned: none when positions are not rotary. */
  readonly #rotary: ReadonlyMap<RopeScaling, { angles: Float32Array; table: KernelCall }>

  constructor(cache: BlockCache, config: ModelConfig, kernels: KernelContext) {
    const { format } = cache
    assert(format in cacheFormats, 'the kernels have this number format of keys and values')
    const cacheFormat = cacheFormats[format as CacheFormat]
    const layers = [...new Set(config.attention)]
    this.#cache = cache
    this.#config = config
    this.#rotary = new Map(
      layers.flatMap(({ rope }) => {
        if (rope === undefined) return []
        const { angles, factor } = rotaryAngles(rope)
        return [[rope, { angles, table: kernels.call('rope_table', { factor }) }]]
      }),
    )
    const store = (rope: RopeScaling | undefined, normed: 0 | 1) =>
      kernels.call('store_keys_values', {
        rotaryDims: rope?.attributes.dimensions ?? 0,
        rotaryPairs: rope?.attributes.layout === 'interleaved' ? rotaryPairs.neighbours : rotaryPairs.halves,
        normed,
        epsilon: normed * config.normEpsilon,
        cacheFormat,
      })
    const attention = ({ window = 0, scale }: LayerAttention, sinks: 0 | 1) =>
      kernels.call('paged_attention', { kvHeads: config.keyValueHeads, window, scale, cacheFormat, sinks })
    this.#calls = new Map(
      layers.map((layer) => [
        layer,
        {
          plain: store(layer.rope, 0),
          normed: store(layer.rope, 1),
          attention: attention(layer, 0),
          withSinks: attention(layer, 1),
        },
      ]),
    )
  }

  parts(sequences: readonly SequenceWork[]): readonly SequenceWork[] {
    return sequences
  }

  arrange(sequences: readonly SequenceWork[]): { order: readonly number[]; key: string } {
    const tokens = sequences.reduce((sum, sequence) => sum + sequence.tokens.length, 0)
    const order = sequences.map((_, i) => i)
    if (sequences.some(({ adapter }) => adapter !== undefined)) {
      // Neighbours with one adapter share its factors on their way through the caches.
      const name = (i: number) => sequences[i]!.adapter ?? ''
      order.sort((a, b) => (name(a) < name(b) ? -1 : name(a) > name(b) ? 1 : a - b))
    }
    return { order, key: `${tokens}~${this.#tableWords(sequences)}` }
  }

  /** A power of two, so that growing contexts seldom need another graph. */
  #tableWords(sequences: readonly SequenceWork[]): number {
    const { blockTokens } = this.#cache
    const blocks = sequences.reduce(
      (sum, { start, tokens }) => sum + Math.ceil((start + tokens.length) / blockTokens),
      0,
    )
    return 2 ** Math.ceil(Math.log2(batchTableWordsMax(sequences.length, blocks)))
  }

  build(graph: Graph, sequences: readonly SequenceWork[]): BuiltAttention {
    const table = graph.input('I32', [this.#tableWords(sequences)], 'batch')
    const words = new Int32Array(table.size)
    const rows = sequences.reduce((sum, { tokens }) => sum + tokens.length, 0)
    const rotary = [...this.#rotary].map(([rope, { angles, table: call }]) => {
      const input = graph.input('F32', [angles.length], 'angles')
      return { rope, angles, input, turns: turnsOf(graph, call, table, input, rows) }
    })
    const turns = new Map(rotary.map((one) => [one.rope, one.turns]))
    return {
      turns: turns.size > 0,
      attend: (layer, q, k, v, norms, sinks) =>
        this.#attend(graph, table, turns, layer, { q, k, v, norms, sinks }),
      write: (current) => {
        for (const { input, angles } of rotary) input.write(angles)
        const batch = current.map(({ tokens, start, blocks }) => ({ count: tokens.length, start, blocks }))
        const used = writeBatchTable(words, batch, this.#cache.blockTokens)
        table.write(words.subarray(0, used))
      },
    }
  }

  #attend(
    graph: Graph,
    table: Tensor,
    turns: ReadonlyMap<RopeScaling, Tensor>,
    layer: number,
    { q, k, v, norms, sinks }: Attending,
  ): Tensor {
    const { ops } = graph
    const { heads, headWidth, attention } = this.#config
    const { rope } = attention[layer]!
    const calls = this.#calls.get(attention[layer]!)!
    const [cache] = this.#cache.layers[layer]!
    const { fn, userdata } = norms === undefined ? calls.plain : calls.normed
    assert(norms === undefined || norms.epsilon === this.#config.normEpsilon, 'heads are normed like rows')
    const turning = rope === undefined ? [] : [turns.get(rope)!]
    const norming = norms === undefined ? [] : [norms.query, norms.key]
    const inputs = [q, k, v, cache!, table, ...turning, ...norming]
    // The stored queries are this op's result, so the attention below cannot run before the write.
    const query = ops.custom('store_keys_values', fn, 'F32', q.shape, inputs, userdata) //     [N, H, D]
    const read = [query, cache!, table, ...(sinks === undefined ? [] : [sinks])]
    const call = sinks === undefined ? calls.attention : calls.withSinks
    const mixed = ops.custom('paged_attention', call.fn, 'F32', q.shape, read, call.userdata)
    return ops.reshape(mixed, [q.shape[0]!, heads * headWidth]) //                              [N, H*D]
  }
}

/** How each row is turned, once for all layers that turn alike: [N, R]. */
function turnsOf(
  graph: Graph,
  { fn, userdata }: KernelCall,
  table: Tensor,
  angles: Tensor,
  rows: number,
): Tensor {
  return graph.ops.custom('rope_table', fn, 'F32', [rows, 2 * angles.size], [table, angles], userdata)
}
