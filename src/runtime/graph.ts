import { assert } from '../base/assert.ts'
import type { DType } from '../base/dtype.ts'
import { UserError } from '../base/errors.ts'
import { Arena } from './arena.ts'
import type { Device } from './device.ts'
import type { Ggml, Pointer } from './ffi.ts'
import type { KernelContext } from './kernels.ts'
import type { OpName } from './op-attributes.ts'
import type { Precision } from './op-maker.ts'
import { Ops } from './ops.ts'
import type { Shape, Tensor } from './tensor.ts'

/**
 * The memory between a graph's inputs and outputs. Graphs that never run at the same time may share one:
 * `generation` counts how often it grew, and a graph allocated in an older generation must not run again.
 */
export class GraphMemory implements Disposable {
  readonly allocator: Pointer
  generation = 0
  #bytes = 0
  readonly #ggml: Ggml

  constructor(device: Device) {
    this.#ggml = device.ggml
    this.allocator = this.#ggml.gallocrNew(device.bufferType)
  }

  get bytes(): number {
    return this.#bytes
  }

  /** Plans `graph` into this memory, growing it when needed. */
  allocate(graph: Pointer): boolean {
    // The allocator alone would take the plan of the graph before for every one with as many nodes of no larger sizes,
    // whatever hangs on what: what one still needs would lie where another writes.
    const ok =
      this.#ggml.gallocrReserve(this.allocator, graph) && this.#ggml.gallocrAlloc(this.allocator, graph)
    const bytes = Number(this.#ggml.gallocrSize(this.allocator, 0))
    if (bytes !== this.#bytes) this.generation++
    this.#bytes = bytes
    return ok
  }

  [Symbol.dispose](): void {
    this.#ggml.gallocrFree(this.allocator)
  }
}

/** Ops whose result lies in the memory of their first input. */
const views: ReadonlySet<OpName> = new Set([
  ...(['reshape', 'slice', 'window', 'splitRows', 'permute', 'setRows', 'accumulate'] as const),
])

export interface GraphOptions {
  /** Memory that this graph shares with others. */
  memory?: GraphMemory | undefined
  /** Our own products for float matrices, and what else they have. */
  kernels?: KernelContext | undefined
  /** In which numbers our products are multiplied. */
  precision?: Precision | undefined
}

/**
 * A computation that is described once and run many times. Inputs have memory of their own, so they keep
 * their values between runs; everything between shares memory that the planner hands out.
 */
export class Graph implements Disposable {
  readonly ops: Ops
  readonly device: Device
  readonly #arena: Arena
  readonly #inputs: Arena
  readonly #nodesMax: number
  readonly #native: Pointer
  readonly #shared: GraphMemory | undefined
  readonly #opsBringThreads: boolean
  #memory: GraphMemory | undefined
  #generation = 0
  #scheduler: Pointer | undefined
  #ready = false
  #inputCount = 0

  constructor(device: Device, nodesMax = 4096, inputsMax = 64, options: GraphOptions = {}) {
    this.device = device
    this.#shared = options.memory
    this.#opsBringThreads = device.isHost && options.kernels?.bringsThreads === true
    this.#nodesMax = nodesMax
    // Views and reshapes are tensors too and come on top of the computing nodes.
    this.#arena = new Arena(nodesMax * 2, nodesMax * 2)
    this.#inputs = new Arena(inputsMax)
    this.ops = new Ops(this.#arena, device.isHost ? options.kernels : undefined, options.precision)
    this.#native = this.#arena.ggml.newGraphCustom(this.#arena.context, nodesMax * 2, false)
  }

  /** A tensor that the caller writes before each run. */
  input(dtype: DType, shape: Shape, name: string): Tensor {
    assert(!this.#ready, 'inputs are declared before the graph is allocated')
    const tensor = this.#inputs.leaf(dtype, shape, name)
    this.#inputs.ggml.setInput(tensor.pointer)
    this.#inputCount++
    return tensor
  }

  /** Asks for this tensor's value: it and what it needs are computed, and its memory is kept until the next run. */
  output<T extends Tensor>(tensor: T): T {
    // A view has no memory of its own: what must be kept is the memory that it looks at.
    for (let seen: Tensor = tensor; ; seen = seen.inputs[0]!) {
      assert(seen.op !== 'transposed', 'a transposed tensor is packed before it is kept')
      this.#arena.ggml.setOutput(seen.pointer)
      if (!views.has(seen.op)) break
    }
    this.expand(tensor)
    return tensor
  }

  /** Adds a node that is run for its effect (a write into a cache, an optimizer step). Order of calls is order of runs. */
  expand(tensor: Tensor): void {
    this.#arena.ggml.buildForwardExpand(this.#native, tensor.pointer)
    assert(this.#arena.ggml.graphNodes(this.#native) <= this.#nodesMax * 2, 'a graph holds its nodes')
  }

  /** Gives memory to everything. Call once, after the last op. */
  allocate(): void {
    const { ggml } = this.#arena
    const { device } = this
    if (this.#inputCount > 0) this.#inputs.allocate(device.bufferType)
    let ok: boolean
    if (device.isHost || this.#computesHere()) {
      this.#memory = this.#shared ?? new GraphMemory(device)
      ok = this.#memory.allocate(this.#native)
      this.#generation = this.#memory.generation
    } else {
      const backends = BigUint64Array.of(device.backend, device.cpuBackend)
      this.#scheduler = ggml.schedNew(backends, null, 2, this.#nodesMax * 2, false, true)
      ok = ggml.schedAlloc(this.#scheduler, this.#native)
    }
    if (!ok) {
      throw new UserError('There is not enough memory for the computation.', {
        fix: 'Use a smaller batch, a shorter context, or a smaller model.',
        mayPass: true,
      })
    }
    this.#ready = true
  }

  /** True when the device has every op, so that the graph needs no scheduler to split it, and its memory can be shared. */
  #computesHere(): boolean {
    if (this.device.sharesWithCpu) return false
    const { ggml } = this.#arena
    const count = ggml.graphNodes(this.#native)
    for (let i = 0; i < count; i++)
      if (!ggml.deviceSupportsOp(this.device.devicePointer, ggml.graphNode(this.#native, i))) return false
    return true
  }

  /** False once the shared memory that this graph was planned into has moved. */
  get current(): boolean {
    return this.#ready && (this.#memory === undefined || this.#memory.generation === this.#generation)
  }

  /** Bytes of the memory between inputs and outputs. */
  get scratchBytes(): number {
    return this.#memory?.bytes ?? 0
  }

  /** Bytes of the memory of our own products beside it, about. */
  get productBytes(): number {
    return this.ops.productBytes
  }

  /** Runs on the calling thread. */
  compute(): void {
    assert(this.current, 'a graph is allocated, in memory that has not moved since, before it runs')
    this.device.prepareThreads(this.#opsBringThreads)
    const { ggml } = this.#arena
    const status =
      this.#scheduler === undefined
        ? ggml.graphCompute(this.device.backend, this.#native)
        : ggml.schedCompute(this.#scheduler, this.#native)
    assert(status === 0, `the computation succeeds (status ${status})`)
  }

  /** Runs on a thread of its own while the event loop goes on. */
  async computeAsync(): Promise<void> {
    assert(this.current, 'a graph is allocated, in memory that has not moved since, before it runs')
    this.device.prepareThreads(this.#opsBringThreads)
    const { ggml } = this.#arena
    const status =
      this.#scheduler === undefined
        ? await ggml.graphComputeAsync(this.device.backend, this.#native)
        : await ggml.schedComputeAsync(this.#scheduler, this.#native)
    assert(status === 0, `the computation succeeds (status ${status})`)
  }

  dispose(): void {
    if (this.#arena.disposed) return
    const { ggml } = this.#arena
    if (this.#shared === undefined) this.#memory?.[Symbol.dispose]()
    if (this.#scheduler !== undefined) ggml.schedFree(this.#scheduler)
    this.#inputs.dispose()
    this.#arena.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
