/**
 * Attention over the block cache.
 *
 * S sequences of a group, T tokens each, P cached positions looked at (padded), H heads, G key/value heads,
 * D head width, N tokens of the batch.
 */
import { bytesOf, type DType, dtypes } from '../base/dtype.ts'
import { UserError } from '../base/errors.ts'
import { type ForwardPass, type ModelConfig, windowsOf } from '../models/architecture.ts'
import { Arena } from '../runtime/arena.ts'
import type { Device } from '../runtime/device.ts'
import type { Graph } from '../runtime/graph.ts'
import { type CacheFormat, cacheHeadBytes } from '../runtime/kernels.ts'
import { Ops } from '../runtime/ops.ts'
import type { Tensor } from '../runtime/tensor.ts'
import type { SequenceWork } from './executor.ts'
import { roundedUp } from './turns.ts'

/** How a cache lies in memory: as tensors [slots, G*D] of a number format, or as our kernels have it (native/batch.h). */
export type CacheLayout = 'tensors' | 'paged'

/** Of the pages that our kernels ask for. */
const largePageBytes = 2 ** 21

/**
 * Bytes of each of so many neighbouring tensors that need `bytes`: some more, so that each begins at another part of a page and
 * no two come to a new page at the same block. Where all did, the first use of every 512th block waited for 96 MB of zeros
 * (0.5B, 100 to 150 ms), and so did whoever asked. As many as needed where a page would hold them.
 */
export function staggeredBytes(tensors: number, bytes: number): number {
  if (bytes < largePageBytes) return bytes
  const part = largePageBytes / tensors
  let parts = Math.ceil((bytes % largePageBytes) / part)
  while (commonDivisor(parts, tensors) !== 1) parts++
  return bytes - (bytes % largePageBytes) + Math.ceil((parts * part) / 64) * 64
}

const commonDivisor = (a: number, b: number): number => (b === 0 ? a : commonDivisor(b, a % b))

/** Keys and values of every layer. The last block is nobody's: padding writes there. */
export class BlockCache implements Disposable {
  /** Of each layer keys and values, or one tensor of both where our kernels have it. */
  readonly layers: readonly (readonly Tensor[])[]
  readonly bytes: number
  readonly blockTokens: number
  readonly blockCount: number
  readonly format: DType
  readonly #arena: Arena

  /** Throws a UserError when the model's heads cannot be stored in `format`. */
  constructor(
    config: ModelConfig,
    device: Device,
    blockCount: number,
    blockTokens: number,
    format: DType,
    layout: CacheLayout,
  ) {
    this.blockTokens = blockTokens
    this.blockCount = blockCount
    this.format = format
    const slots = (blockCount + 1) * blockTokens
    const width = config.keyValueHeads * config.headWidth
    const headBytes = layout === 'paged' ? cacheHeadBytes(format as CacheFormat, config.headWidth) : undefined
    if (layout === 'paged' ? headBytes === undefined : width % dtypes[format].block !== 0)
      throw misfit(config, format)
    this.#arena = new Arena(config.layers * 2)
    this.layers = Array.from({ length: config.layers }, (_, i) => {
      if (headBytes === undefined)
        return ['keys', 'values'].map((of) => this.#arena.leaf(format, [slots, width], `cache.${of}.${i}`))
      const bytes = slots * 2 * config.keyValueHeads * headBytes
      return [this.#arena.leaf('I8', [staggeredBytes(config.layers, bytes)], `cache.${i}`)]
    })
    const { bytes, buffer } = this.#arena.allocate(device.bufferType)
    // Masked positions are multiplied by zero, and zero times an uninitialised NaN is a NaN.
    if (!device.isHost) this.#arena.ggml.bufferClear(buffer, 0)
    this.bytes = bytes
  }

  /** The block that padding writes to. */
  get spareBlock(): number {
    return this.blockCount
  }

  slotOf(sequence: SequenceWork, position: number): number {
    const block = sequence.blocks[Math.floor(position / this.blockTokens)]!
    return block * this.blockTokens + (position % this.blockTokens)
  }

  [Symbol.dispose](): void {
    this.#arena.dispose()
  }
}

function misfit({ headWidth }: ModelConfig, format: DType): UserError {
  const name = format.toLowerCase()
  const needs =
    format === 'Q8_0' ? 'heads of at most 32 dimensions or of a multiple of 32' : 'heads of an even width'
  return new UserError(`A cache in ${name} needs ${needs}; this model's have ${headWidth}.`, {
    failure: 'usage',
    fix: 'Use --kv-type f16, or leave the option out.',
  })
}

/** How one built graph attends; `write` fills its inputs before each run. */
export interface BuiltAttention {
  /** True when queries and keys come as products gave them, to be normed and turned by their positions here. */
  turns: boolean
  attend: ForwardPass['attend']
  write(sequences: readonly SequenceWork[]): void
}

/** One way of attending over the cache. */
export interface CacheAttention {
  readonly name: string
  /** The same work, in its order, in the parts that this attention computes. */
  parts(sequences: readonly SequenceWork[]): readonly SequenceWork[]
  /** The order in which this attention wants the sequences; graphs are reused for equal keys. */
  arrange(sequences: readonly SequenceWork[]): { order: readonly number[]; key: string }
  build(graph: Graph, sequences: readonly SequenceWork[]): BuiltAttention
}

interface Group {
  sequences: number
  tokens: number
  positions: number
}

interface GroupInputs extends Group {
  /** How often each query is asked. */
  times: number
  blocks: Tensor
  /** By the window of a layer. */
  masks: ReadonlyMap<number | undefined, Tensor>
}

/** ggml computes so many queries of one sequence or more in tiles, which round differently (flash_attn_ext). */
const tileTokens = 64
/** ggml splits the past of a query that is alone in its node among threads from so many positions on. */
const splitPositions = 512
/** On a GPU the past that is looked at comes in steps of about so many positions. */
const turnPositions = 256

const keyOf = (groups: readonly Group[]) =>
  groups.map(({ sequences, tokens, positions }) => `${sequences}x${tokens}@${positions}`).join()

/**
 * Plain ggml: copies each group's blocks together and runs flash attention on the copy. Sequences with
 * equally many tokens and about equally long pasts share one node.
 */
export class GatherAttention implements CacheAttention {
  readonly name = 'gather'
  readonly #cache: BlockCache
  readonly #config: ModelConfig
  readonly #exact: boolean
  readonly #copiesBits: boolean
  readonly #isHost: boolean

  /** With `exact` a request's bits do not depend on its company. */
  constructor(cache: BlockCache, config: ModelConfig, device: Device, exact: boolean) {
    this.#cache = cache
    this.#config = config
    this.#exact = exact
    this.#isHost = device.isHost
    this.#copiesBits = !device.isHost && attendsIn(device, cache.format, config)
  }

  parts(sequences: readonly SequenceWork[]): readonly SequenceWork[] {
    if (!this.#exact) return sequences
    return sequences.flatMap((sequence) => partsOf(sequence, tileTokens - 1))
  }

  arrange(sequences: readonly SequenceWork[]): { order: readonly number[]; key: string } {
    const order = sequences.map((_, i) => i)
    if (!this.#isHost) return { order, key: keyOf(this.#groups(sequences)) }
    const sortKey = (i: number) => sequences[i]!.tokens.length * 1e7 + this.#positionsOf(sequences[i]!)
    order.sort((a, b) => sortKey(a) - sortKey(b) || a - b)
    return { order, key: keyOf(this.#groups(order.map((i) => sequences[i]!))) }
  }

  #positionsOf(sequence: SequenceWork): number {
    const end = sequence.start + sequence.tokens.length
    const step = end <= 256 ? 64 : 256
    return Math.ceil(Math.ceil(end / step) * (step / this.#cache.blockTokens)) * this.#cache.blockTokens
  }

  #groups(sequences: readonly SequenceWork[]): Group[] {
    if (!this.#isHost) return [this.#turn(sequences)]
    const groups: Group[] = []
    for (const sequence of sequences) {
      const last = groups.at(-1)
      const positions = this.#positionsOf(sequence)
      if (last && last.tokens === sequence.tokens.length && last.positions === positions) last.sequences++
      else groups.push({ sequences: 1, tokens: sequence.tokens.length, positions })
    }
    return groups
  }

  /** On a GPU all have equally many tokens, and as many positions are looked at as the longest needs. */
  #turn(sequences: readonly SequenceWork[]): Group {
    const [{ tokens }] = sequences as [SequenceWork]
    const longest = Math.max(...sequences.map((one) => one.start + one.tokens.length - (one.padding ?? 0)))
    const step = Math.ceil(turnPositions / this.#cache.blockTokens) * this.#cache.blockTokens
    const positions = roundedUp(Math.ceil(longest / step)) * step
    return { sequences: sequences.length, tokens: tokens.length, positions }
  }

  build(graph: Graph, sequences: readonly SequenceWork[]): BuiltAttention {
    const { blockTokens } = this.#cache
    const tokens = sequences.reduce((sum, sequence) => sum + sequence.tokens.length, 0)
    const slots = graph.input('I32', [tokens], 'slots')
    const windows = windowsOf(this.#config)
    const groups = this.#groups(sequences).map((group, i) => {
      const lone = group.sequences * group.tokens === 1 && group.positions >= splitPositions
      const times = lone && this.#exact ? 2 : 1
      return {
        ...group,
        times,
        blocks: graph.input('I32', [(group.sequences * group.positions) / blockTokens], `blocks.${i}`),
        masks: new Map(
          windows.map((window) => [
            window,
            graph.input('F16', [group.sequences, 1, group.tokens * times, group.positions], `mask.${i}`),
          ]),
        ),
      }
    })
    return {
      turns: false,
      attend: (layer, q, k, v, _, sinks) => this.#attend(graph, groups, slots, layer, q, k, v, sinks),
      write: (current) => this.#write(current, groups, slots),
    }
  }

  #attend(
    graph: Graph,
    groups: readonly GroupInputs[],
    slots: Tensor,
    layer: number,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | undefined,
  ): Tensor {
    const { ops } = graph
    const { heads, headWidth, keyValueHeads, attention } = this.#config
    const { window, scale } = attention[layer]!
    const width = keyValueHeads * headWidth
    const [keysBefore, valuesBefore] = this.#cache.layers[layer]!
    const keys = ops.setRows(keysBefore!, ops.joinRows(k), slots)
    const values = ops.setRows(valuesBefore!, ops.joinRows(v), slots)
    // Writes come before the reads of this layer, also of other sequences that share a block.
    graph.expand(keys)
    graph.expand(values)
    const gather = (cache: Tensor, group: Group & { blocks: Tensor }) => {
      const { blockTokens, blockCount, format } = this.#cache
      const rows = blockTokens * width
      const shape = [group.sequences, group.positions, keyValueHeads, headWidth]
      const copy = (table: Tensor) => ops.rows(table, group.blocks) //             [S*P/block, block*G*D]
      const split = this.#copiesBits
        ? ops.retyped(
            copy(ops.retyped(cache, 'I32', [blockCount + 1, bytesOf(format, rows) / 4])),
            format,
            shape,
          )
        : ops.reshape(copy(ops.reshape(cache, [blockCount + 1, rows])), shape)
      return ops.permute(split, [0, 2, 1, 3]) //                                   [S, G, P, D]
    }
    let first = 0
    let all: Tensor | undefined
    for (const group of groups) {
      const rows = group.sequences * group.tokens
      const own = ops.slice(q, 0, first, rows)
      // With the same query again, the past of a lone one is not split among threads.
      const part = group.times > 1 ? ops.concat(own, own, 0) : own //              [S*T, H, D]
      const [tokenStride, headStride, elementStride] = part.strides as [number, number, number]
      const shape = [group.sequences, heads, group.tokens * group.times, headWidth]
      const strides = [tokenStride * group.tokens, headStride, tokenStride, elementStride]
      const query = ops.window(part, shape, strides, 0) //                         [S, H, T, D]
      const mask = group.masks.get(window)
      const mixed = ops.attention(query, gather(keys, group), gather(values, group), mask, scale, sinks)
      const asked = ops.reshape(mixed, [rows * group.times, heads * headWidth])
      const flat = group.times > 1 ? ops.slice(asked, 0, 0, rows) : asked //       [S*T, H*D]
      all = all === undefined ? flat : ops.concat(all, flat, 0)
      first += rows
    }
    return all!
  }

  #write(sequences: readonly SequenceWork[], groups: readonly GroupInputs[], slots: Tensor): void {
    const { blockTokens, spareBlock } = this.#cache
    slots.write(slotsOf(this.#cache, sequences, slots.size))
    let index = 0
    for (const group of groups) {
      const blocks = new Int32Array(group.blocks.size).fill(spareBlock)
      const perSequence = group.positions / blockTokens
      const members = sequences.slice(index, (index += group.sequences))
      for (const [s, sequence] of members.entries()) {
        const used = Math.min(perSequence, sequence.blocks.length)
        for (let b = 0; b < used; b++) blocks[s * perSequence + b] = sequence.blocks[b]!
      }
      group.blocks.write(blocks)
      for (const [window, mask] of group.masks) mask.write(maskOf(group, members, mask.size, window))
    }
  }
}

/** Who sees whom in a group, in half precision. */
function maskOf(
  { tokens, positions, times }: GroupInputs,
  sequences: readonly SequenceWork[],
  size: number,
  window = Number.POSITIVE_INFINITY,
): Uint16Array {
  const mask = new Uint16Array(size).fill(minusInfinity)
  for (const [s, sequence] of sequences.entries()) {
    const real = tokens - (sequence.padding ?? 0)
    for (let t = 0; t < tokens; t++) {
      const row = (s * tokens + t) * positions
      // What is nobody's looks at one position too: without any, a softmax is no number.
      const end = t < real ? sequence.start + t : 0
      mask.fill(0, row + Math.max(0, end - window + 1), row + end + 1)
    }
  }
  if (times > 1) mask.copyWithin(positions, 0, positions)
  return mask
}

/**
 * True where a device reads keys and values as the cache has them, so that blocks are copied as they are: as integers,
 * for copies of rows of anything else come out in F32, of twice the bytes.
 */
function attendsIn(device: Device, format: DType, { heads, headWidth, keyValueHeads }: ModelConfig): boolean {
  if (headWidth % dtypes[format].block !== 0) return false
  using arena = new Arena(16)
  const ops = new Ops(arena)
  const positions = 64
  const table = arena.leaf('I32', [4, 64])
  const copied = ops.rows(table, arena.leaf('I32', [2]))
  const past = () => ops.permute(arena.leaf(format, [1, positions, keyValueHeads, headWidth]), [0, 2, 1, 3])
  const query = arena.leaf('F32', [1, heads, 1, headWidth])
  const mask = arena.leaf('F16', [1, 1, 1, positions])
  const attended = ops.attention(query, past(), past(), mask, 1)
  return [copied, attended].every(({ pointer }) =>
    device.ggml.deviceSupportsOp(device.devicePointer, pointer),
  )
}

/** Consecutive parts of at most `tokensMax` tokens: all keys and values of a layer are written before any is read. */
function partsOf(sequence: SequenceWork, tokensMax: number): SequenceWork[] {
  const { start, tokens, outputs } = sequence
  if (tokens.length <= tokensMax) return [sequence]
  const parts: SequenceWork[] = []
  for (let from = 0; from < tokens.length; from += tokensMax) {
    const part = tokens.slice(from, from + tokensMax)
    const behind = tokens.length - from - part.length
    const wanted = Math.min(part.length, Math.max(0, outputs - behind))
    parts.push({ ...sequence, start: start + from, tokens: part, outputs: wanted })
  }
  return parts
}

/** -Infinity in half precision. */
const minusInfinity = 0xfc00

/** The cache slot of every token of the batch, in order. */
export function slotsOf(cache: BlockCache, sequences: readonly SequenceWork[], count: number): Int32Array {
  const slots = new Int32Array(count)
  let n = 0
  for (const sequence of sequences) {
    const real = sequence.tokens.length - (sequence.padding ?? 0)
    for (let t = 0; t < sequence.tokens.length; t++) {
      const spare = cache.spareBlock * cache.blockTokens + (t % cache.blockTokens)
      slots[n++] = t < real ? cache.slotOf(sequence, sequence.start + t) : spare
    }
  }
  return slots
}
