/** A paged cache that is filled through the op, and attention over it by its definition. */
import { createHash } from 'node:crypto'
import { Random } from '../../src/base/random.ts'
import { bf16ToF32 } from '../../src/formats/convert.ts'
import { rotaryPairs } from '../../src/runtime/kernel-ops.ts'
import {
  type BatchSequence,
  batchTableWordsMax,
  type CacheFormat,
  cacheFormats,
  cacheHeadBytes,
  KernelContext,
  type Kernels,
  writeBatchTable,
} from '../../src/runtime/kernels.ts'
import { fakeTensor, halfToNumber, multipliesPairs, runOp, stridedTensor } from './tensors.ts'

// N rows of the batch, H query heads, K kv heads, D head width.

export interface Shape {
  width: number
  heads: number
  kvHeads: number
  blockTokens: number
  window?: number
  format?: CacheFormat
}

export function normals(random: Random, count: number): Float32Array {
  return Float32Array.from({ length: count }, () => random.normal())
}

/** A cache with its own block pool, filled only through the op that stores keys and values. */
export class Cache {
  readonly shape: Shape
  readonly format: CacheFormat
  readonly memory: Uint16Array
  /** Of one head in one block. */
  readonly #bytes: number

  constructor(shape: Shape, blocks: number) {
    this.shape = shape
    this.format = shape.format ?? 'F16'
    this.#bytes = cacheHeadBytes(this.format, shape.width)! * shape.blockTokens
    const halves = blocks * shape.kvHeads * this.#bytes
    // NaNs, of scales where numbers are coded: reading a position that nobody wrote would show.
    const nan = this.format === 'BF16' ? 0x7fc0 : 0x7e00
    this.memory = new Uint16Array(halves).fill(nan)
  }

  key(block: number, head: number, d: number, inside: number): number {
    const { blockTokens: tokens } = this.shape
    const paired = (Math.floor(d / 2) * tokens + inside) * 2 + (d % 2)
    const at = this.format === 'BF16' ? paired : d * tokens + inside
    return this.#number(block, head, at, (group) => group * tokens + inside, d)
  }

  value(block: number, head: number, d: number, inside: number): number {
    const { width } = this.shape
    const paired = (Math.floor(inside / 2) * width + d) * 2 + (inside % 2)
    const at = this.format === 'BF16' ? paired : inside * width + d
    const groups = width / Math.min(32, width)
    return this.#number(block, this.shape.kvHeads + head, at, (group) => inside * groups + group, d)
  }

  /** Of the heads of a block: those of keys, behind them those of values. */
  #number(block: number, head: number, at: number, scaleAt: (group: number) => number, d: number): number {
    const { kvHeads, width, blockTokens } = this.shape
    const start = (block * 2 * kvHeads + head) * this.#bytes
    const of = this.memory
    // Without a view of its own for each number: a reference reads all of them.
    if (this.format === 'F16') return halfToNumber(of[start / 2 + at]!)
    if (this.format === 'BF16') return bf16ToF32(of[start / 2 + at]!)
    const part = new DataView(of.buffer, start, this.#bytes)
    const scale = part.getUint16(width * blockTokens + scaleAt(Math.floor(d / Math.min(32, width))) * 2, true)
    return part.getInt8(at) * halfToNumber(scale)
  }
}

export function tableOf(sequences: readonly BatchSequence[], blockTokens: number) {
  const blocks = sequences.reduce((sum, sequence) => sum + sequence.blocks.length, 0)
  const words = new Int32Array(batchTableWordsMax(sequences.length, blocks))
  const used = writeBatchTable(words, sequences, blockTokens)
  return fakeTensor(words, [used])
}

/** Stores rows given as [N, (H + 2 K) D] and returns the queries [N, H, D]. */
export function storeRows(
  kernels: Kernels,
  cache: Cache,
  sequences: readonly BatchSequence[],
  qkv: Float32Array,
) {
  const { width, heads, kvHeads, blockTokens } = cache.shape
  const stride = (heads + 2 * kvHeads) * width
  const rows = qkv.length / stride
  const dst = fakeTensor(
    new Float32Array(rows * heads * width),
    [rows, heads, width],
    [
      stridedTensor(qkv, [rows, heads, width], stride, 0),
      stridedTensor(qkv, [rows, kvHeads, width], stride, heads * width),
      stridedTensor(qkv, [rows, kvHeads, width], stride, (heads + kvHeads) * width),
      fakeTensor(cache.memory, [cache.memory.length]),
      tableOf(sequences, blockTokens),
    ],
  )
  using context = new KernelContext(kernels)
  const cacheFormat = cacheFormats[cache.format]
  const params = { rotaryDims: 0, rotaryPairs: rotaryPairs.halves, normed: 0, epsilon: 0, cacheFormat }
  runOp(kernels, context.call('store_keys_values', params), dst)
  return dst.data as Float32Array
}

export function attend(
  kernels: Kernels,
  cache: Cache,
  sequences: readonly BatchSequence[],
  q: Float32Array,
  threads = 2,
  sinks?: Float32Array,
): Float32Array {
  const { width, heads, kvHeads, blockTokens, window } = cache.shape
  const rows = q.length / heads / width
  const dst = fakeTensor(
    new Float32Array(q.length),
    [rows, heads, width],
    [
      fakeTensor(q, [rows, heads, width]),
      fakeTensor(cache.memory, [cache.memory.length]),
      tableOf(sequences, blockTokens),
      ...(sinks ? [fakeTensor(sinks, [heads])] : []),
    ],
  )
  using context = new KernelContext(kernels)
  const call = context.call('paged_attention', {
    sinks: sinks ? 1 : 0,
    kvHeads,
    window: window ?? 0,
    scale: width ** -0.5,
    cacheFormat: cacheFormats[cache.format],
  })
  // Twice through the same call: the counters must come back to their start.
  runOp(kernels, call, dst, threads)
  runOp(kernels, call, dst, threads)
  return dst.data as Float32Array
}

/** Results by what they were computed from: kernels that store the same bits ask for the same attention. */
const known = new Map<string, Float64Array>()

/** Softmax attention in float64, straight from its definition. */
export function reference(
  cache: Cache,
  sequences: readonly BatchSequence[],
  q: Float32Array,
  sinks: Float32Array = new Float32Array(),
): Float64Array {
  const hash = createHash('sha256').update(JSON.stringify([cache.shape, sequences, sinks.length]))
  for (const { buffer, byteOffset, byteLength } of [cache.memory, q, sinks])
    hash.update(new Uint8Array(buffer, byteOffset, byteLength))
  const key = hash.digest('hex')
  const result = known.get(key) ?? attended(cache, sequences, q, sinks)
  known.set(key, result)
  return result
}

function attended(
  cache: Cache,
  sequences: readonly BatchSequence[],
  q: Float32Array,
  sinks: Float32Array,
): Float64Array {
  const { width, heads, kvHeads, blockTokens, window } = cache.shape
  const out = new Float64Array(q.length)
  let row = 0
  for (const { count, start, blocks } of sequences) {
    for (let kv = 0; kv < kvHeads; kv++) {
      // [positions, D]
      const read = (from: 'key' | 'value') =>
        Float64Array.from({ length: (start + count) * width }, (_, at) => {
          const p = Math.floor(at / width)
          return cache[from](blocks[Math.floor(p / blockTokens)]!, kv, at % width, p % blockTokens)
        })
      const [keys, values] = [read('key'), read('value')]
      for (let t = 0; t < count; t++) {
        const end = start + t + 1
        const first = window ? Math.max(0, end - window) : 0
        for (let h = (kv * heads) / kvHeads; h < ((kv + 1) * heads) / kvHeads; h++) {
          const at = ((row + t) * heads + h) * width
          attendOne(
            q.subarray(at, at + width),
            keys.subarray(first * width, end * width),
            values.subarray(first * width, end * width),
            out.subarray(at, at + width),
            sinks[h],
          )
        }
      }
    }
    row += count
  }
  return out
}

/** `keys` and `values` are [positions, D]. */
function attendOne(
  q: Float32Array,
  keys: Float64Array,
  values: Float64Array,
  out: Float64Array,
  sink = Number.NEGATIVE_INFINITY,
): void {
  const width = q.length
  const scores = new Float64Array(keys.length / width)
  for (let p = 0; p < scores.length; p++) {
    let dot = 0
    for (let d = 0; d < width; d++) dot += q[d]! * keys[p * width + d]!
    scores[p] = dot * width ** -0.5
  }
  const best = scores.reduce((a, b) => Math.max(a, b), sink)
  const weights = scores.map((score) => Math.exp(score - best))
  const total = weights.reduce((a, b) => a + b, Math.exp(sink - best))
  for (let p = 0; p < weights.length; p++) {
    const share = weights[p]! / total
    for (let d = 0; d < width; d++) out[d]! += share * values[p * width + d]!
  }
}

/** Contexts of the given lengths with scattered blocks, all positions stored. */
export function filled(kernels: Kernels, shape: Shape, lengths: readonly number[], seed = 1) {
  const random = new Random(seed)
  const needed = lengths.map((length) => Math.ceil(length / shape.blockTokens))
  const total = needed.reduce((a, b) => a + b, 0)
  const cache = new Cache(shape, total + 1)
  const ids = Array.from({ length: total }, (_, i) => i + 1)
  for (let i = total - 1; i > 0; i--) {
    const j = random.integer(i + 1)
    const swapped = ids[i]!
    ids[i] = ids[j]!
    ids[j] = swapped
  }
  const blocks = needed.map((count) => ids.splice(0, count))
  const whole = lengths.map((count, i) => ({ count, start: 0, blocks: blocks[i]! }))
  const rows = lengths.reduce((a, b) => a + b, 0)
  const qkv = normals(random, rows * (shape.heads + 2 * shape.kvHeads) * shape.width)
  const q = storeRows(kernels, cache, whole, qkv)
  return { cache, blocks, whole, q }
}

export const shapes: readonly Shape[] = [
  { width: 64, heads: 14, kvHeads: 2, blockTokens: 32 },
  { width: 80, heads: 8, kvHeads: 4, blockTokens: 16 },
  { width: 128, heads: 1, kvHeads: 1, blockTokens: 16 },
  { width: 16, heads: 4, kvHeads: 4, blockTokens: 32 },
  { width: 8, heads: 8, kvHeads: 4, blockTokens: 16 },
  { width: 20, heads: 33, kvHeads: 1, blockTokens: 48 },
  { width: 64, heads: 14, kvHeads: 2, blockTokens: 16, window: 100 },
]

/** Each shape in every format that its heads fit. */
export const formatted = shapes.flatMap((shape) =>
  (Object.keys(cacheFormats) as CacheFormat[])
    .filter((format) => cacheHeadBytes(format, shape.width) !== undefined)
    .map((format) => ({ ...shape, format })),
)

/** Where pairs of bfloat16 are multiplied, queries and weights are rounded to 8 bits. */
export function toleranceOf(kernels: Kernels, { format }: Shape): number {
  return format === 'BF16' && multipliesPairs(kernels) ? 8e-3 : 3e-6
}
