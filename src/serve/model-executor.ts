/**
 * Runs the network over one flattened batch. Graphs are built once per shape and run again with other
 * inputs, so that an iteration costs a few native calls beside the arithmetic.
 *
 * N tokens of the batch, M rows whose logits are wanted, V vocabulary.
 */
import { assert } from '../base/assert.ts'
import type { DType } from '../base/dtype.ts'
import { type ForwardPass, windowsOf } from '../models/architecture.ts'
import { forwardWithHead } from '../models/head.ts'
import { PackedCalls, packedLayers } from '../models/packed-layers.ts'
import { plainLayers } from '../models/plain-layers.ts'
import type { Definition } from '../models/registry.ts'
import type { Weights } from '../models/weights.ts'
import type { Device } from '../runtime/device.ts'
import { Graph, GraphMemory } from '../runtime/graph.ts'
import {
  type CallTime,
  cacheFormats,
  type KernelCall,
  KernelContext,
  type Kernels,
  loadKernels,
  quickestCacheFormat,
} from '../runtime/kernels.ts'
import type { Tensor } from '../runtime/tensor.ts'
import { type BatchSlots, type BuiltAdapters, buildAdapters, slotsKey, slotsOf } from './adapted-batch.ts'
import { AdapterBank, type AdapterLayers } from './adapters.ts'
import { BlockCache, type BuiltAttention, type CacheAttention, GatherAttention } from './cache-attention.ts'
import type { Executor, ExecutorShape, IterationBatch, IterationOutput, SequenceWork } from './executor.ts'
import { PagedAttention } from './paged-attention.ts'
import { inTurns, roundedUp } from './turns.ts'

export interface ModelExecutorOptions {
  /** Cache size in tokens, over all requests. */
  cacheTokens: number
  blockTokens?: number
  /** Number format of keys and values: F16, BF16, Q8_0, or F32 for comparisons. */
  cacheDtype?: DType
  contextMax?: number
  /** Our kernels, or 'ggml' for none of them; when absent, those of this process. They must have packed the weights. */
  kernels?: Kernels | 'ggml'
  /** Take the faster of two roundings where a request's last bits then depend on its company (docs/decisions.md). */
  fastNumerics?: boolean
}

interface BuiltGraph {
  graph: Graph
  tokens: Tensor
  positions: Tensor
  outputRows: Tensor
  /** Absent where the batch wants states only: then the head is not computed. */
  logits: Tensor | undefined
  best: Tensor | undefined
  /** What the head multiplies, only where it is wanted: [M, W]. */
  states: Tensor | undefined
  /** The logits where they lie, once somebody read them. */
  host?: Float32Array
  attention: BuiltAttention
  /** Only where the batch has adapters. */
  adapters: BuiltAdapters | undefined
}

/** What one iteration computes, in the order of the attention. */
interface Arranged {
  sequences: readonly SequenceWork[]
  /** The rows whose logits or states are wanted, ascending. */
  rows: readonly number[]
  wants: 'logits' | 'states' | 'both'
  /** Rows of the graph's output, padding included. */
  rowCount: number
  slots: BatchSlots | undefined
}

/** Each graph keeps only its description and small inputs; the big memory between is shared. A GPU's shapes are few more. */
const graphsMax = { host: 48, gpu: 128 }

/** Rows of logits for which memory is kept, of as many floats as the vocabulary has tokens. */
const rowMemoriesMax = 64

export class ModelExecutor implements Executor {
  readonly shape: ExecutorShape
  readonly cache: BlockCache
  readonly attention: CacheAttention
  /** Adapters that requests may name. */
  readonly adapters: AdapterBank
  /** Which of our kernels run here, or 'ggml' for none. */
  readonly kernelSet: string
  readonly #kernels: KernelContext | undefined
  readonly #calls: PackedCalls | undefined
  readonly #argmax: KernelCall | undefined
  readonly #definition: Definition
  readonly #weights: Weights
  readonly #device: Device
  readonly #memory: GraphMemory
  readonly #graphs = new Map<string, BuiltGraph>()
  /** Products of float weights round differently for one row than for several; two rows make every batch alike. */
  readonly #rowsMin: number
  readonly #exact: boolean
  /** Where rows of logits go that were read from a GPU in this iteration, and how many. */
  readonly #rowMemories: Float32Array[] = []
  #rowsRead = 0

  constructor(definition: Definition, weights: Weights, device: Device, options: ModelExecutorOptions) {
    const blockTokens = options.blockTokens ?? 16
    const blockCount = Math.ceil(options.cacheTokens / blockTokens)
    const { config } = definition
    this.#definition = definition
    this.#weights = weights
    this.#device = device
    this.#memory = new GraphMemory(device)
    const exact = options.fastNumerics !== true && device.isHost
    this.#exact = exact
    const groups = definition.architecture.products(config)
    const plain = groups
      .filter(({ names }) => weights.packed?.find(names) === undefined)
      .flatMap(({ names }) => names)
    // Our kernels run in the CPU backend's threads; anything else takes plain ggml.
    const kernels = device.isHost ? ourKernels(options.kernels) : undefined
    this.adapters = new AdapterBank(definition, weights, device, kernels)
    const format = options.cacheDtype ?? quickestCacheFormat(kernels, config.headWidth)
    const paged = kernels !== undefined && format in cacheFormats
    const layout = paged ? 'paged' : 'tensors'
    this.cache = new BlockCache(config, device, blockCount, blockTokens, format, layout)
    if (kernels !== undefined && paged) kernels.useLargePages(this.cache.layers[0]![0]!, this.cache.bytes)
    // Our ops bring their own threads when they do all the heavy work; else they share ggml's.
    const alone = paged && plain.length === 0
    this.#kernels = kernels && new KernelContext(kernels, alone ? device.threads : undefined)
    device.setThreads(alone ? 1 : device.threads)
    if (!alone) device.keepThreads()
    this.#calls = this.#kernels && new PackedCalls(this.#kernels)
    this.#argmax = this.#kernels?.call('argmax', {})
    this.kernelSet = kernels?.instructionSet ?? 'ggml'
    this.attention =
      this.#kernels !== undefined && paged
        ? new PagedAttention(this.cache, config, this.#kernels)
        : new GatherAttention(this.cache, config, device, exact)
    this.shape = {
      vocabularySize: config.vocabularySize,
      contextMax: Math.min(options.contextMax ?? config.contextMax, config.contextMax),
      blockTokens,
      blockCount,
    }
    const float = plain.some((name) => ['F32', 'F16', 'BF16'].includes(weights.get(`${name}.weight`).dtype))
    this.#rowsMin = float && exact ? 2 : 1
  }

  /** Bytes of the memory between the layers. */
  get scratchBytes(): number {
    return this.#memory.bytes
  }

  /** What each of our ops has taken since the executor was made; empty where they share ggml's threads. */
  opTimes(): CallTime[] {
    return this.#kernels?.times() ?? []
  }

  async execute(batch: IterationBatch): Promise<IterationOutput> {
    if (this.#device.isHost) return this.#compute(batch.sequences)
    this.#rowsRead = 0
    return inTurns(batch, this.cache.spareBlock, (sequences) => this.#compute(sequences))
  }

  async #compute(wantedWork: readonly SequenceWork[]): Promise<IterationOutput> {
    const started = performance.now()
    const padded = this.#pad(this.attention.parts(wantedWork))
    const { order, key } = this.attention.arrange(padded)
    const sequences = order.map((i) => padded[i]!)
    const wanted = outputRowsOf(padded, order)
    const rows = [...wanted].sort((a, b) => a - b)
    const rowsPadded = this.#device.isHost ? Math.max(rows.length, this.#rowsMin) : roundedUp(rows.length)
    const slots = slotsOf(this.adapters, sequences, rows, rowsPadded)
    const rowCount = slots?.outputs.length ?? rowsPadded
    const wants = wantsOf(sequences)
    const arranged = { sequences, rows, wants, rowCount, slots } as const
    const graphKey = `${key}/${rowCount}${wants === 'logits' ? '' : wants}${slotsKey(this.adapters, slots)}`
    const built = this.#graphFor(graphKey, arranged)
    this.#write(built, arranged)
    const prepared = performance.now()
    await built.graph.computeAsync()
    const computeMs = performance.now() - prepared
    assert(computeMs >= 0 && prepared >= started, 'time does not step back')
    const placeOf = new Map(rows.map((row, place) => [row, place]))
    const places = wanted.map((row) => placeOf.get(row)!)
    return this.#output(built, places, computeMs)
  }

  #pad(sequences: readonly SequenceWork[]): readonly SequenceWork[] {
    const tokens = sequences.reduce((sum, sequence) => sum + sequence.tokens.length, 0)
    assert(tokens > 0, 'a batch has tokens')
    const missing = this.#rowsMin - tokens
    if (missing <= 0) return sequences
    const nobody: SequenceWork = { blocks: [this.cache.spareBlock], start: 0, tokens: [0], outputs: 0 }
    return [...sequences, ...Array<SequenceWork>(missing).fill(nobody)]
  }

  #graphFor(key: string, arranged: Arranged): BuiltGraph {
    const known = this.#graphs.get(key)
    this.#graphs.delete(key)
    if (known?.graph.current) {
      // Behind all others: the map's order is the order of last use.
      this.#graphs.set(key, known)
      return known
    }
    known?.graph.dispose()
    const built = this.#build(arranged)
    for (const [oldest, { graph }] of this.#graphs) {
      if (this.#graphs.size < graphsMax[this.#device.isHost ? 'host' : 'gpu']) break
      graph.dispose()
      this.#graphs.delete(oldest)
    }
    this.#graphs.set(key, built)
    return built
  }

  #build({ sequences, rowCount, slots, wants }: Arranged): BuiltGraph {
    const { config } = this.#definition
    const count = sequences.reduce((sum, sequence) => sum + sequence.tokens.length, 0)
    const perSequence = slots === undefined ? 16 : 16 + 80
    const perMixture = config.mixture === undefined ? 0 : 20 + 2 * config.mixture.used
    const nodesMax = 64 + config.layers * (56 + perMixture + perSequence * sequences.length)
    const inputsMax = 8 + 2 * windowsOf(config).length * sequences.length
    const graph = new Graph(this.#device, nodesMax, inputsMax, { memory: this.#memory })
    try {
      const tokens = graph.input('I32', [count], 'tokens')
      const positions = graph.input('I32', [count], 'positions')
      const outputRows = graph.input('I32', [rowCount], 'outputRows')
      const attention = this.attention.build(graph, sequences)
      const { ops } = graph
      const weights = this.#weights
      const adapters = slots && buildAdapters(graph, this.adapters, slots, this.#exact)
      const model = plainLayers(ops, {
        weight: (name) => weights.get(name),
        has: (name) => weights.has(name),
      })
      const plain = adapters?.plain(model) ?? model
      const layers =
        weights.packed && this.#calls
          ? packedLayers(ops, weights.packed, this.#calls, plain, adapters?.packed)
          : plain
      const pass: ForwardPass = {
        ops,
        tokens,
        positions,
        outputRows,
        weight: (name) => weights.get(name),
        ...layers,
        attendTurns: attention.turns,
        attend: attention.attend,
      }
      const made = this.#outputs(graph, pass, wants)
      graph.allocate()
      return { graph, tokens, positions, outputRows, ...made, attention, adapters }
    } catch (error) {
      graph.dispose()
      throw error
    }
  }

  /** Runs the network to its head, to what stands before it, or to both. */
  #outputs(graph: Graph, pass: ForwardPass, wants: Arranged['wants']) {
    const { architecture, config } = this.#definition
    if (wants === 'logits') {
      const logits = graph.output(architecture.forward(config, pass)) //                [M, V]
      return { logits, best: graph.output(this.#best(graph, logits)), states: undefined }
    }
    let states: Tensor | undefined
    const last = forwardWithHead(this.#definition, pass, (given, logits) => {
      states = graph.output(given) //                                                   [M, W]
      return wants === 'states' ? states : logits()
    })
    if (wants === 'states') return { logits: undefined, best: undefined, states }
    const logits = graph.output(last)
    return { logits, best: graph.output(this.#best(graph, logits)), states }
  }

  #best(graph: Graph, logits: Tensor): Tensor {
    const call = this.#argmax
    if (call === undefined) return graph.ops.argmax(logits)
    return graph.ops.custom('argmax', call.fn, 'I32', [logits.shape[0]!], [logits], call.userdata)
  }

  #write(built: BuiltGraph, { sequences, rows, slots }: Arranged): void {
    const tokens = new Int32Array(built.tokens.size)
    const positions = new Int32Array(built.tokens.size)
    let n = 0
    for (const sequence of sequences) {
      const real = sequence.tokens.length - (sequence.padding ?? 0)
      for (let t = 0; t < sequence.tokens.length; t++) {
        tokens[n] = sequence.tokens[t]!
        positions[n++] = t < real ? sequence.start + t : 0
      }
    }
    const outputRows = new Int32Array(built.outputRows.size)
    outputRows.set(rows)
    built.tokens.write(tokens)
    built.positions.write(positions)
    built.outputRows.write(outputRows)
    built.attention.write(sequences)
    if (slots !== undefined) built.adapters!.write(slots)
  }

  /** `places`: for each output that was asked for, its row in the graph's. */
  #output(built: BuiltGraph, places: readonly number[], computeMs: number): IterationOutput {
    const { vocabularySize } = this.shape
    const best = new Int32Array(built.best?.size ?? 0)
    if (places.length > 0) built.best?.read(best)
    return {
      computeMs,
      argmax: (output) => {
        assert(output < places.length && built.best, 'only rows that were asked for are read')
        return best[places[output]!]!
      },
      states: (output) => {
        const { states } = built
        assert(output < places.length && states, 'only rows that were asked for are read')
        const read = new Float32Array(states.shape[1]!)
        states.read(read, places[output]! * read.byteLength)
        return read
      },
      logits: (output) => {
        const { logits } = built
        assert(output < places.length && logits, 'only rows that were asked for are read')
        const row = places[output]!
        if (this.#device.isHost) {
          // One view for the life of the graph: V8 counts its bytes and collects garbage for a new one each time.
          built.host ??= new Float32Array(logits.hostView())
          return built.host.subarray(row * vocabularySize, (row + 1) * vocabularySize)
        }
        // Kept from one iteration to the next: new memory of this size takes longer than the copy.
        const copied = this.#rowMemory()
        logits.read(copied, row * vocabularySize * 4)
        return copied
      },
    }
  }

  #rowMemory(): Float32Array {
    const memory = this.#rowMemories[this.#rowsRead] ?? new Float32Array(this.shape.vocabularySize)
    if (this.#rowsRead < rowMemoriesMax) this.#rowMemories[this.#rowsRead] = memory
    this.#rowsRead++
    return memory
  }

  hasAdapter(id: string): boolean {
    return this.adapters.has(id)
  }

  /** Resolves when requests may name `id`. Throws a UserError when the adapter cannot be served. */
  async addAdapter(id: string, layers: AdapterLayers): Promise<void> {
    await this.adapters.add(id, layers)
  }

  /** Takes an adapter out; nothing may be computing, and no request may have it. */
  removeAdapter(id: string): void {
    this.adapters.remove(id)
    // Graphs hold the factors of products that are not packed, and the slot may go to another adapter.
    for (const [key, { graph, adapters }] of this.#graphs) {
      if (adapters === undefined || !this.adapters.shapesGraphs) continue
      graph.dispose()
      this.#graphs.delete(key)
    }
  }

  dispose(): void {
    for (const { graph } of this.#graphs.values()) graph.dispose()
    this.#graphs.clear()
    this.#memory[Symbol.dispose]()
    this.#kernels?.dispose()
    this.adapters[Symbol.dispose]()
    this.cache[Symbol.dispose]()
  }
}

function ourKernels(given: Kernels | 'ggml' | undefined): Kernels | undefined {
  return given === 'ggml' ? undefined : (given ?? loadKernels())
}

/** The head is left out where nobody reads it: for a prompt's embedding it is the largest product of all. */
function wantsOf(sequences: readonly SequenceWork[]): Arranged['wants'] {
  const reading = sequences.filter(({ outputs }) => outputs > 0)
  if (!reading.some(({ states }) => states === true)) return 'logits'
  return reading.every(({ states }) => states === true) ? 'states' : 'both'
}

/**
 * For each requested output, in the order in which the batch asked for them, its row among the tokens as
 * arranged in `order`.
 */
function outputRowsOf(sequences: readonly SequenceWork[], order: readonly number[]): number[] {
  const firstRow = new Array<number>(sequences.length)
  let n = 0
  for (const index of order) {
    firstRow[index] = n
    n += sequences[index]!.tokens.length
  }
  const rows: number[] = []
  for (const [index, { tokens, outputs, padding }] of sequences.entries()) {
    const end = firstRow[index]! + tokens.length - (padding ?? 0)
    for (let row = end - outputs; row < end; row++) rows.push(row)
  }
  return rows
}
