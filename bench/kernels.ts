/**
 * Our kernels beside ggml's ops, in turns, as nodes of ggml graphs on the same threads. What memory bounds
 * also stands beside a plain read of as many bytes, what arithmetic bounds beside byte products in registers.
 *
 * N rows of activations, K inputs, M outputs; S sequences, H query heads, G kv heads, D head width, C context.
 */
import type { DType } from '../src/base/dtype.ts'
import { UserError } from '../src/base/errors.ts'
import { Random } from '../src/base/random.ts'
import { f32ToF16 } from '../src/formats/convert.ts'
import { encodeRows } from '../src/models/rows.ts'
import { Arena } from '../src/runtime/arena.ts'
import { Device } from '../src/runtime/device.ts'
import { Graph } from '../src/runtime/graph.ts'
import {
  batchTableWordsMax,
  cacheFormats,
  KernelContext,
  type KernelStatus,
  type Kernels,
  kernelStatus,
  linearOps,
  type PackedFormat,
  writeBatchTable,
} from '../src/runtime/kernels.ts'
import type { Tensor } from '../src/runtime/tensor.ts'
import { type Bench, type Findings, runFromCommandLine, type Values } from './harness/bench.ts'
import { type Comparison, interleave, type Measured, type Side } from './harness/comparison.ts'
import { noise, quickestMs } from './harness/graphs.ts'

export const parameters = {
  pairs: { small: 1, large: 5 },
  threads: { small: 1, large: 2 },
  inputs: { small: 256, large: 2048 },
  outputs: { small: 96, large: 6144 },
  weightMiB: { small: 1, large: 256 },
  rowsMax: { small: 8, large: 512 },
  /** Measured beside byte products in registers whatever `rowsMax` is: code that became slow shows there, a slow machine does not. */
  registerRows: { small: 128, large: 512 },
  sequences: { small: 2, large: 32 },
  context: { small: 64, large: 512 },
  /** More than the last cache holds, so that the comparison is of memory. */
  cacheMiB: { small: 1, large: 320 },
  trainingRows: { small: 8, large: 4096 },
  trainingWidth: { small: 32, large: 384 },
} as const

export type Wanted = Values<typeof parameters>

export type Weight = { dtype: DType; packed: PackedFormat }

const weights = [
  { dtype: 'Q8_0', packed: 'q8' },
  { dtype: 'Q4_0', packed: 'q4s' },
  { dtype: 'Q4_K', packed: 'q4k' },
  { dtype: 'Q5_K', packed: 'q5k' },
  { dtype: 'Q6_K', packed: 'q6k' },
  { dtype: 'BF16', packed: 'bf16' },
  { dtype: 'F32', packed: 'f32' },
] as const satisfies Weight[]

const rowCounts = [1, 2, 4, 8, 16, 32, 128, 512] as const
const attentionShapes = [
  { heads: 14, kvHeads: 2, width: 64 },
  { heads: 32, kvHeads: 8, width: 128 },
  { heads: 8, kvHeads: 8, width: 64 },
] as const
const blockTokens = 32
/** Byte products of a piece of multiply_bytes. */
const pieceProducts = 3_145_728
const rowsBoundByArithmetic = 128

function side(name: string, run: () => Measured): Side {
  return { name, run: async () => run() }
}

/** Fills a tensor with copies of `pattern`. */
function fill(tensor: Tensor, pattern: Uint8Array): void {
  for (let at = 0; at < tensor.bytes; at += pattern.length) {
    tensor.write(pattern.subarray(0, Math.min(pattern.length, tensor.bytes - at)), at)
  }
}

class Products implements Disposable {
  readonly #device: Device
  readonly #context: KernelContext
  readonly #arena = new Arena(4096)
  readonly #repackedArena = new Arena(4096)
  readonly #plain: Tensor[] = []
  /** In the buffer type where ggml multiplies them fastest, when that is not the plain one. */
  readonly #repacked: Tensor[] = []
  readonly #packed: Tensor[] = []
  readonly #wanted: Wanted
  readonly #format: PackedFormat

  constructor(device: Device, kernels: Kernels, wanted: Wanted, { dtype, packed }: Weight) {
    this.#device = device
    this.#context = new KernelContext(kernels)
    this.#wanted = wanted
    this.#format = packed
    const { inputs, outputs } = wanted
    const bytes = kernels.packedBytes(packed, outputs, inputs)
    // Enough weights that no cache holds them all.
    const copies = Math.max(2, Math.ceil((wanted.weightMiB * 2 ** 20) / bytes))
    for (let i = 0; i < copies; i++) {
      this.#plain.push(this.#arena.leaf(dtype, [outputs, inputs]))
      this.#packed.push(this.#arena.leaf('I8', [bytes]))
    }
    const { bytes: allocated } = this.#arena.allocate(device.bufferType)
    kernels.useLargePages(this.#plain[0]!, allocated)
    const fastest = device.productBufferType(dtype, outputs, inputs)
    if (fastest !== device.bufferType) {
      for (let i = 0; i < copies; i++) this.#repacked.push(this.#repackedArena.leaf(dtype, [outputs, inputs]))
      this.#repackedArena.allocate(fastest)
    }
    const pattern = encodeRows(device.ggml, noise(32 * inputs), dtype, 32, inputs)
    const whole = new Uint8Array(this.#plain[0]!.bytes)
    for (let at = 0; at < whole.length; at += pattern.length)
      whole.set(pattern.subarray(0, whole.length - at), at)
    const into = new Uint8Array(bytes)
    kernels.packRows(packed, into, inputs, 0, { dtype, data: whole, rows: outputs })
    for (const tensor of [...this.#plain, ...this.#repacked]) tensor.write(whole)
    for (const tensor of this.#packed) tensor.write(into)
  }

  #graph(rows: number, node: (graph: Graph, x: Tensor, copy: number) => Tensor): Graph {
    const graph = new Graph(this.#device)
    const x = graph.input('F32', [rows, this.#wanted.inputs], 'x')
    for (let copy = 0; copy < this.#copiesFor(rows); copy++) graph.output(node(graph, x, copy))
    graph.allocate()
    x.write(noise(rows * this.#wanted.inputs, 2))
    graph.compute()
    return graph
  }

  /** Pieces of byte products (native/read.h), by vectors and in registers only: what the arithmetic allows. */
  #registers(rows: number): { graph: Graph; gigaflop: number } {
    const pieces = Math.max(
      2,
      Math.round((rows * this.#wanted.inputs * this.#wanted.outputs) / pieceProducts),
    )
    const graph = new Graph(this.#device)
    const x = graph.input('F32', [16], 'x')
    const { fn, userdata } = this.#context.call('multiply_bytes', { pieces })
    graph.output(graph.ops.custom('multiply', fn, 'I32', [1], [x], userdata))
    graph.allocate()
    x.write(noise(16))
    graph.compute()
    return { graph, gigaflop: (2 * pieces * pieceProducts) / 1e9 }
  }

  /** Products of codes at many rows beside what the registers allow. */
  async compareWithRegisters(rows: number, say: (line: string) => void): Promise<Comparison[]> {
    const { graph, gigaflop } = this.#registers(rows)
    using registers = graph
    using ours = this.#products(rows)
    const figure = `${this.#format}Rows${rows}GigaflopsPerSecond`
    const flop = this.#flop(rows)
    return await interleave(
      this.#wanted.pairs,
      side('ropeway', () => ({ [figure]: flop / quickestMs(ours) / 1e6 })),
      side('byte products in registers', () => ({ [figure]: (gigaflop * 1000) / quickestMs(registers) })),
      say,
    )
  }

  /** Fewer where arithmetic bounds the product and a run would take long. */
  #copiesFor(rows: number): number {
    return Math.max(2, Math.min(this.#plain.length, Math.ceil(256 / rows)))
  }

  #products(rows: number): Graph {
    const params = { normed: 0, biased: 0, residual: 0, gated: 0, adapted: 0, epsilon: 0 }
    const { fn, userdata } = this.#context.call(linearOps[this.#format], params)
    return this.#graph(rows, ({ ops }, x, copy) =>
      ops.custom('linear', fn, 'F32', [rows, this.#wanted.outputs], [x, this.#packed[copy]!], userdata),
    )
  }

  #flop(rows: number): number {
    return 2 * rows * this.#wanted.inputs * this.#wanted.outputs * this.#copiesFor(rows)
  }

  async compare(rows: number, say: (line: string) => void): Promise<Comparison[]> {
    const { pairs } = this.#wanted
    const read = this.#context.call('read_bytes', {})
    using ours = this.#products(rows)
    using plainRead = this.#graph(1, ({ ops }, _, copy) =>
      ops.custom('read', read.fn, 'I32', [1], [this.#packed[copy]!], read.userdata),
    )
    const copies = this.#copiesFor(rows)
    const bytes = copies * this.#packed[0]!.bytes
    const name = `${this.#format}Rows${rows}`
    const measured = (graph: Graph): Measured => ({
      [`${name}GigaflopsPerSecond`]: this.#flop(rows) / quickestMs(graph) / 1e6,
      // Memory has more than one speed here: what a figure at one row means hangs on the one that it met.
      ...(rows === 1 && { [`${name}MemoryGigabytesPerSecond`]: bytes / quickestMs(plainRead) / 1e6 }),
    })
    const found: Comparison[] = []
    for (const [rival, copiesOf] of [
      ['ggml', this.#plain],
      ['ggml repacked', this.#repacked],
    ] as const) {
      if (copiesOf.length === 0) continue
      using theirs = this.#graph(rows, ({ ops }, x, copy) => ops.matmul(x, copiesOf[copy]!))
      found.push(
        ...(await interleave(
          pairs,
          side('ropeway', () => measured(ours)),
          side(rival, () => measured(theirs)),
          say,
        )),
      )
    }
    const coded = this.#format.startsWith('q')
    if (coded && rows >= rowsBoundByArithmetic) found.push(...(await this.compareWithRegisters(rows, say)))
    if (rows > 1) return found
    const figure = `${this.#format}GigabytesPerSecond`
    const bandwidth = await interleave(
      pairs,
      side('ropeway', () => ({ [figure]: bytes / quickestMs(ours) / 1e6 })),
      side('plain read', () => ({ [figure]: bytes / quickestMs(plainRead) / 1e6 })),
      say,
    )
    return [...found, ...bandwidth]
  }

  [Symbol.dispose](): void {
    this.#context.dispose()
    this.#arena.dispose()
    this.#repackedArena.dispose()
  }
}

/** One decode step of S sequences of the same context, in every layer's own cache. */
async function compareDecode(
  device: Device,
  kernels: Kernels,
  wanted: Wanted,
  { heads, kvHeads, width }: (typeof attentionShapes)[number],
  say: (line: string) => void,
): Promise<Comparison[]> {
  const { sequences, context, cacheMiB, pairs } = wanted
  const contexts = Array.from({ length: sequences }, () => context)
  const layerBytes = 2 * 2 * sequences * kvHeads * context * width
  const layers = Math.max(2, Math.ceil((cacheMiB * 2 ** 20) / layerBytes))
  using calls = new KernelContext(kernels)
  using arena = new Arena(layers)
  // Keys [S, G, C, D] and values behind them to ggml, blocks in a scattered order to us: the same bytes serve both.
  const caches = Array.from({ length: layers }, () =>
    arena.leaf('F16', [2 * sequences, kvHeads, context, width]),
  )
  kernels.useLargePages(caches[0]!, arena.allocate(device.bufferType).bytes)
  const pattern = Uint16Array.from(noise(8192, 3), (x) => f32ToF16(x))
  for (const cache of caches) fill(cache, new Uint8Array(pattern.buffer))
  const scale = 1 / Math.sqrt(width)

  const queries = noise(sequences * heads * width, 4)
  const attending = (cacheFormat: number, blocks: Int32Array): Graph => {
    const graph = new Graph(device)
    const q = graph.input('F32', [sequences, heads, width], 'q')
    const words = batchTableWordsMax(sequences, sequences * Math.ceil(context / blockTokens))
    const table = graph.input('I32', [words], 'batch')
    const { fn, userdata } = calls.call('paged_attention', {
      kvHeads,
      window: 0,
      scale,
      cacheFormat,
      sinks: 0,
    })
    for (const cache of caches)
      graph.output(graph.ops.custom('attend', fn, 'F32', q.shape, [q, cache, table], userdata))
    graph.allocate()
    q.write(queries)
    table.write(blocks)
    return graph
  }
  const even = decodeTable(contexts)
  using ours = attending(cacheFormats.F16, even)
  // The same blocks, nearly all of them with every other sequence: each costs what is its own, nobody the longest.
  using uneven = attending(
    cacheFormats.F16,
    decodeTable(contexts.map((tokens, i) => (i % 2 === 0 ? 2 * tokens - blockTokens : blockTokens))),
  )
  // The same bytes again, taken for bfloat16: what they mean is of no matter to the speed.
  using ofBfloat = attending(cacheFormats.BF16, even)
  using theirs = new Graph(device)
  const theirQ = theirs.input('F32', [sequences, heads, 1, width], 'q')
  using plain = new Graph(device)
  const read = calls.call('read_bytes', {})
  for (const cache of caches) {
    const half = (index: number) => theirs.ops.slice(cache, 0, index * sequences, sequences)
    theirs.output(theirs.ops.attention(theirQ, half(0), half(1), undefined, scale))
    plain.output(plain.ops.custom('read', read.fn, 'I32', [1], [cache], read.userdata))
  }
  theirs.allocate()
  plain.allocate()
  theirQ.write(queries)
  for (const graph of [ours, uneven, ofBfloat, theirs, plain]) graph.compute()
  const bytes = caches.reduce((sum, cache) => sum + cache.bytes, 0)
  const compared = (format: string, graph: Graph, rivalName: string, rival: Graph) => {
    const figure = `decode${format}Heads${heads}Of${kvHeads}GigabytesPerSecond`
    const speed = (of: Graph) => () => ({ [figure]: bytes / quickestMs(of) / 1e6 })
    return interleave(pairs, side('ropeway', speed(graph)), side(rivalName, speed(rival)), say)
  }
  return [
    ...(await compared('', ours, 'ggml on dense caches', theirs)),
    ...(await compared('', ours, 'plain read', plain)),
    ...(await compared('Bf16', ofBfloat, 'plain read', plain)),
    ...(await compared('Uneven', uneven, 'as many positions in even contexts', ours)),
  ]
}

/** One token of each sequence behind its context, a multiple of the block's tokens; blocks in a scattered order. */
function decodeTable(contexts: readonly number[]): Int32Array {
  const random = new Random(5)
  const blocks = contexts.map((tokens) => tokens / blockTokens)
  const ids = Array.from({ length: blocks.reduce((sum, count) => sum + count, 0) }, (_, i) => i)
  for (let i = ids.length - 1; i > 0; i--) {
    const j = random.integer(i + 1)
    const moved = ids[i]!
    ids[i] = ids[j]!
    ids[j] = moved
  }
  const words = new Int32Array(batchTableWordsMax(contexts.length, ids.length))
  const batch = contexts.map((tokens, s) => ({
    count: 1,
    start: tokens - 1,
    blocks: ids.splice(0, blocks[s]!),
  }))
  writeBatchTable(words, batch, blockTokens)
  return words
}

/**
 * The three products of a layer's training step, R rows through a weight [4 W, W]. ggml gets both sides as it
 * likes them, which in training it would first have to make; ours read the gradients' sides transposed.
 */
async function compareTraining(
  device: Device,
  kernels: Kernels,
  { trainingRows, trainingWidth, pairs }: Wanted,
  say: (line: string) => void,
): Promise<Comparison[]> {
  const [rows, width, wide] = [trainingRows, trainingWidth, 4 * trainingWidth]
  const products = [
    { name: 'forward', n: rows, k: width, m: wide, aTransposed: 0, bTransposed: 0 },
    { name: 'activationGradient', n: rows, k: wide, m: width, aTransposed: 0, bTransposed: 1 },
    { name: 'weightGradient', n: wide, k: rows, m: width, aTransposed: 1, bTransposed: 1 },
  ] as const
  const found: Comparison[] = []
  using calls = new KernelContext(kernels)
  for (const { name, n, k, m, aTransposed, bTransposed } of products) {
    using theirs = new Graph(device)
    const sides = [theirs.input('F32', [n, k], 'a'), theirs.input('F32', [m, k], 'b')] as const
    theirs.output(theirs.ops.matmul(...sides))
    theirs.allocate()
    sides[0].write(noise(n * k, 6))
    sides[1].write(noise(m * k, 7))
    for (const op of ['matmul_f32', 'matmul_bf16'] as const) {
      using ours = new Graph(device)
      const a = ours.input('F32', aTransposed ? [k, n] : [n, k], 'a')
      const b = ours.input('F32', bTransposed ? [k, m] : [m, k], 'b')
      const { fn, userdata } = calls.call(op, { aTransposed, bTransposed, behind: 0 })
      ours.output(ours.ops.custom(op, fn, 'F32', [n, m], [a, b], userdata))
      ours.allocate()
      a.write(noise(n * k, 6))
      b.write(noise(m * k, 7))
      const figure = `${name}${op === 'matmul_f32' ? 'F32' : 'Bf16'}GigaflopsPerSecond`
      const speed = (graph: Graph) => () => ({ [figure]: (2 * n * k * m) / quickestMs(graph) / 1e6 })
      found.push(
        ...(await interleave(pairs, side('ropeway', speed(ours)), side('ggml in F32', speed(theirs)), say)),
      )
    }
  }
  return found
}

/** Products with these weights and numbers of rows, attention of decodes, and training's products. */
export async function compareKernels(
  status: KernelStatus,
  wanted: Wanted,
  { weights, rowCounts }: { weights: readonly Weight[]; rowCounts: readonly number[] },
  say: (line: string) => void,
): Promise<Findings> {
  if (status.kernels === undefined)
    throw new UserError(`There are no kernels: ${status.reason}.`, { fix: status.fix })
  const { kernels, compiler } = status
  using device = new Device({ device: 'cpu', threads: wanted.threads })
  const comparisons: Comparison[] = []
  for (const weight of weights) {
    using products = new Products(device, kernels, wanted, weight)
    for (const rows of rowCounts) {
      if (rows <= wanted.rowsMax) comparisons.push(...(await products.compare(rows, say)))
    }
    if (weight.packed === 'q8' && wanted.registerRows > wanted.rowsMax)
      comparisons.push(...(await products.compareWithRegisters(wanted.registerRows, say)))
  }
  for (const shape of attentionShapes) {
    comparisons.push(...(await compareDecode(device, kernels, wanted, shape, say)))
  }
  comparisons.push(...(await compareTraining(device, kernels, wanted, say)))
  return { figures: {}, comparisons, chosen: { kernels: kernels.instructionSet }, versions: { compiler } }
}

export const kernelsBench: Bench<typeof parameters> = {
  name: 'kernels',
  parameters,
  run: (wanted, { say }) => compareKernels(kernelStatus(), wanted, { weights, rowCounts }, say),
}

await runFromCommandLine(import.meta.url, kernelsBench)
