import { assert } from '../base/assert.ts'
import type { DType } from '../base/dtype.ts'
import { UserError } from '../base/errors.ts'
import { Arena } from './arena.ts'
import type { Device } from './device.ts'
import type { Pointer } from './ffi.ts'
import { Ops } from './ops.ts'
import type { Shape, Tensor } from './tensor.ts'

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
  #allocator: Pointer | undefined
  #scheduler: Pointer | undefined
  #ready = false
  #inputCount = 0

  constructor(device: Device, nodesMax = 4096, inputsMax = 64) {
    this.device = device
    this.#nodesMax = nodesMax
    // Views and reshapes are tensors too and come on top of the computing nodes.
    this.#arena = new Arena(nodesMax * 2, nodesMax * 2)
    this.#inputs = new Arena(inputsMax)
    this.ops = new Ops(this.#arena)
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
    this.#arena.ggml.setOutput(tensor.pointer)
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
    if (device.isHost) {
      this.#allocator = ggml.gallocrNew(device.bufferType)
      ok = ggml.gallocrAlloc(this.#allocator, this.#native)
    } else {
      const backends = BigUint64Array.of(device.backend, device.cpuBackend)
      this.#scheduler = ggml.schedNew(backends, null, 2, this.#nodesMax * 2, false, true)
      ok = ggml.schedAlloc(this.#scheduler, this.#native)
    }
    if (!ok) {
      throw new UserError('There is not enough memory for the computation.', {
        fix: 'Use a smaller batch, a shorter context, or a smaller model.',
      })
    }
    this.#ready = true
  }

  /** Bytes of the memory between inputs and outputs. */
  get scratchBytes(): number {
    return this.#allocator === undefined ? 0 : Number(this.#arena.ggml.gallocrSize(this.#allocator, 0))
  }

  /** Runs on the calling thread. */
  compute(): void {
    assert(this.#ready, 'a graph is allocated before it runs')
    const { ggml } = this.#arena
    const status =
      this.#scheduler === undefined
        ? ggml.graphCompute(this.device.backend, this.#native)
        : ggml.schedCompute(this.#scheduler, this.#native)
    assert(status === 0, `the computation succeeds (status ${status})`)
  }

  /** Runs on a thread of its own while the event loop goes on. */
  async computeAsync(): Promise<void> {
    assert(this.#ready, 'a graph is allocated before it runs')
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
    if (this.#allocator !== undefined) ggml.gallocrFree(this.#allocator)
    if (this.#scheduler !== undefined) ggml.schedFree(this.#scheduler)
    this.#inputs.dispose()
    this.#arena.dispose()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}
