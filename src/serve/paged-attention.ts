/**
 * Attention over the block cache in place, by our own kernels: no copy, cost linear in each request's own
 * context, any mixture of prompts and decodes in one node. Graphs depend on the number of tokens only.
 *
 * N tokens, H heads, G key/value heads, D head width.
 */
import { assert } from '../base/assert.ts'
import type { HeadNorms, ModelConfig } from '../models/architecture.ts'
import { ropeOf, rotaryAngles } from '../models/rope.ts'
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

export class PagedAttention implements CacheAttention {
  readonly name = 'paged'
  readonly #cache: BlockCache
  readonly #config: ModelConfig
  readonly #storeCalls: { plain: KernelCall; normed: KernelCall }
  readonly #attention: KernelCall
  /** What makes the table by which queries and keys are turned; undefined when positions are not rotary. */
  readonly #rotary: { angles: Float32Array; table: KernelCall } | undefined

  constructor(cache: BlockCache, config: ModelConfig, kernels: KernelContext) {
    const { format } = cache
    assert(format in cacheFormats, 'the kernels have this number format of keys and values')
    const cacheFormat = cacheFormats[format as CacheFormat]
    const rope = ropeOf(config)
    const rotary = rope && rotaryAngles(rope)
    this.#cache = cache
    this.#config = config
    this.#rotary = rotary && {
      angles: rotary.angles,
      table: kernels.call('rope_table', { factor: rotary.factor }),
    }
    const store = (normed: 0 | 1) =>
      kernels.call('store_keys_values', {
        rotaryDims: rope?.attributes.dimensions ?? 0,
        rotaryPairs: rope?.attributes.layout === 'interleaved' ? rotaryPairs.neighbours : rotaryPairs.halves,
        normed,
        epsilon: normed * config.normEpsilon,
        cacheFormat,
      })
    this.#storeCalls = { plain: store(0), normed: store(1) }
    this.#attention = kernels.call('paged_attention', {
      kvHeads: config.keyValueHeads,
      window: config.slidingWindow ?? 0,
      scale: 1 / Math.sqrt(config.headWidth),
      cacheFormat,
    })
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
    const angles = this.#rotary && graph.input('F32', [this.#rotary.angles.length], 'angles')
    const turns = angles && this.#turns(graph, table, angles, rows)
    return {
      turns: turns !== undefined,
      attend: (layer, q, k, v, norms) => this.#attend(graph, table, turns, layer, { q, k, v, norms }),
      write: (current) => {
        angles?.write(this.#rotary!.angles)
        const batch = current.map(({ tokens, start, blocks }) => ({ count: tokens.length, start, blocks }))
        const used = writeBatchTable(words, batch, this.#cache.blockTokens)
        table.write(words.subarray(0, used))
      },
    }
  }

  /** How each row is turned, once for all layers: [N, R]. */
  #turns(graph: Graph, table: Tensor, angles: Tensor, rows: number): Tensor {
    const { fn, userdata } = this.#rotary!.table
    return graph.ops.custom('rope_table', fn, 'F32', [rows, 2 * angles.size], [table, angles], userdata)
  }

  #attend(
    graph: Graph,
    table: Tensor,
    turns: Tensor | undefined,
    layer: number,
    { q, k, v, norms }: { q: Tensor; k: Tensor; v: Tensor; norms: HeadNorms | undefined },
  ): Tensor {
    const { ops } = graph
    const { heads, headWidth } = this.#config
    const keys = this.#cache.keys[layer]!
    const values = this.#cache.values[layer]!
    const { fn, userdata } = norms === undefined ? this.#storeCalls.plain : this.#storeCalls.normed
    assert(norms === undefined || norms.epsilon === this.#config.normEpsilon, 'heads are normed like rows')
    const turning = turns === undefined ? [] : [turns]
    const norming = norms === undefined ? [] : [norms.query, norms.key]
    const inputs = [q, k, v, keys, values, table, ...turning, ...norming]
    // The stored queries are this op's result, so the attention below cannot run before the write.
    const query = ops.custom('store_keys_values', fn, 'F32', q.shape, inputs, userdata) //     [N, H, D]
    const read = [query, keys, values, table]
    const mixed = ops.custom(
      'paged_attention',
      this.#attention.fn,
      'F32',
      q.shape,
      read,
      this.#attention.userdata,
    )
    return ops.reshape(mixed, [q.shape[0]!, heads * headWidth]) //                              [N, H*D]
  }
}
