import { availableParallelism, freemem } from 'node:os'
import { assert } from '../base/assert.ts'
import type { DType } from '../base/dtype.ts'
import { UserError } from '../base/errors.ts'
import { Arena } from './arena.ts'
import { type Ggml, loadGgml, type Pointer } from './ffi.ts'
import { KernelPool, type Kernels } from './kernels.ts'
import type { Shape } from './tensor.ts'

/** ggml's device types (ggml-backend.h). */
const deviceTypes = ['cpu', 'gpu', 'igpu', 'accelerator'] as const

export interface DeviceDescription {
  name: string
  description: string
  type: string
}

/** All devices that the installed packages offer, the CPU last. */
export function listDevices(): DeviceDescription[] {
  const ggml = loadGgml()
  return devicePointers(ggml).map((pointer) => describe(ggml, pointer))
}

function devicePointers(ggml: Ggml): Pointer[] {
  return Array.from({ length: Number(ggml.deviceCount()) }, (_, i) => ggml.deviceGet(i))
}

function describe(ggml: Ggml, pointer: Pointer): DeviceDescription {
  return {
    name: ggml.deviceName(pointer),
    description: ggml.deviceDescription(pointer).trim(),
    type: deviceTypes[ggml.deviceType(pointer)] ?? 'other',
  }
}

/** How many threads to use when nobody says: every core that this process may run on, at most 16. */
export function defaultThreads(): number {
  const fromEnvironment = Number(process.env.ROPEWAY_THREADS ?? '')
  if (Number.isInteger(fromEnvironment) && fromEnvironment > 0) return fromEnvironment
  return Math.max(1, Math.min(16, availableParallelism()))
}

export interface DeviceOptions {
  /** 'auto' takes a GPU when one is there; else a name or type such as 'cpu', 'cuda', 'Vulkan0'. */
  device?: string
  threads?: number
}

/**
 * One backend that computes graphs, and the CPU beside it for the ops that the backend lacks.
 */
export class Device implements Disposable {
  readonly ggml: Ggml
  readonly name: string
  readonly description: string
  readonly threads: number
  /** True when tensors live in the process's own memory. */
  readonly isHost: boolean
  readonly devicePointer: Pointer
  readonly cpuPointer: Pointer
  readonly backend: Pointer
  readonly bufferType: Pointer
  /** The CPU backend, which is `backend` itself on a CPU device. */
  readonly cpuBackend: Pointer
  readonly cpuBufferType: Pointer
  /** Set where tensors that graphs read lie in the CPU's memory: such graphs are split between the two. */
  sharesWithCpu = false
  #keepsThreads = false
  #pool: Pointer | undefined
  #kernelPool: KernelPool | undefined
  /** What graphs without threads of their own compute with, and what the backend was told last. */
  #threadsWanted = 0
  #threadsSet = 0
  #disposed = false

  constructor(options: DeviceOptions = {}) {
    this.ggml = loadGgml()
    const pointers = devicePointers(this.ggml)
    const cpu = pointers.find((pointer) => this.ggml.deviceType(pointer) === 0)
    if (cpu === undefined) {
      throw new UserError('The native library offers no CPU device.', {
        fix: 'Reinstall the packages: npm ci',
      })
    }
    const chosen = chooseDevice(
      this.ggml,
      pointers,
      cpu,
      options.device ?? process.env.ROPEWAY_DEVICE ?? 'auto',
    )
    this.devicePointer = chosen
    this.cpuPointer = cpu
    this.name = this.ggml.deviceName(chosen)
    this.description = this.ggml.deviceDescription(chosen).trim()
    this.threads = options.threads ?? defaultThreads()
    this.cpuBackend = initialise(this.ggml, cpu)
    this.cpuBufferType = this.ggml.deviceBufferType(cpu)
    this.backend = chosen === cpu ? this.cpuBackend : initialise(this.ggml, chosen)
    this.bufferType = this.ggml.deviceBufferType(chosen)
    this.isHost = chosen === cpu
    this.setThreads(this.threads)
  }

  /**
   * Keeps ggml's threads between computations. Without, it starts them anew in each, and a new thread may wait
   * some milliseconds behind the one that spins for it (measured: 8 ms for a product of microseconds). Not for
   * computations that bring threads of their own: ggml's would spin beside them.
   */
  keepThreads(): void {
    this.#keepsThreads = this.threads > 1
  }

  /** Threads for our own ops, shared by all graphs of this device. */
  kernelPool(kernels: Kernels): KernelPool {
    this.#kernelPool ??= new KernelPool(kernels, this.threads)
    return this.#kernelPool
  }

  /** Before a graph is computed: ggml needs one thread where ops bring their own. */
  prepareThreads(opsBringThreads: boolean): void {
    if (!opsBringThreads && this.#keepsThreads)
      this.#pool ??= this.ggml.threadPoolNew(this.cpuPointer, this.cpuBackend, this.threads)
    const count = opsBringThreads ? 1 : this.#threadsWanted
    if (count !== this.#threadsSet) this.ggml.setThreads(this.cpuPointer, this.cpuBackend, count)
    this.#threadsSet = count
  }

  /** How many threads the CPU backend computes with now. */
  get threadsNow(): number {
    return this.#threadsWanted
  }

  /** How many threads the CPU backend computes with from now on; `threads` stays what was asked for and is the most. */
  setThreads(count: number): void {
    assert(count <= this.threads, `at most ${this.threads} threads compute, not ${count}`)
    this.#threadsWanted = count
  }

  /** Buffer types that speed up weights on this device (AMX, repack), best first. */
  extraBufferTypes(): { name: string; pointer: Pointer }[] {
    if (!this.isHost) return []
    return this.ggml
      .extraBufferTypes(this.devicePointer)
      .map((pointer) => ({ name: this.ggml.bufferTypeName(pointer), pointer }))
  }

  /**
   * The buffer type in which products with a weight [rows, inputs] run fastest: one of the extra types where
   * the library says that it can multiply from there, else the plain one.
   */
  productBufferType(dtype: DType, rows: number, inputs: number): Pointer {
    // The AMX type writes beyond weights whose rows are not whole tiles.
    const safe = this.extraBufferTypes().filter(({ name }) => name !== 'AMX' || rows % 32 === 0)
    const found = safe.find(({ pointer }) => this.#multiplies(pointer, dtype, rows, inputs))
    return found?.pointer ?? this.bufferType
  }

  /** Bytes that are free where this device's tensors lie, as far as its driver says. */
  get freeBytes(): number {
    if (this.isHost) return freemem()
    const free = new BigUint64Array(1)
    this.ggml.deviceMemory(this.devicePointer, free, new BigUint64Array(1))
    return Number(free[0]!)
  }

  /** False for a tensor that is too large for one binding of a GPU (Vulkan's maxStorageBufferRange); the CPU holds it then. */
  holds(dtype: DType, shape: Shape): boolean {
    if (this.isHost) return true
    using arena = new Arena(1)
    return this.ggml.deviceSupportsOp(this.devicePointer, arena.leaf(dtype, shape).pointer)
  }

  #multiplies(bufferType: Pointer, dtype: DType, rows: number, inputs: number): boolean {
    using arena = new Arena(4)
    const weight = arena.leaf(dtype, [rows, inputs])
    const x = arena.leaf('F32', [32, inputs])
    const product = arena.ggml.mulMat(arena.context, weight.pointer, x.pointer)
    const buffer = this.ggml.bufferTypeAlloc(bufferType, 0)
    if (!buffer) return false
    this.ggml.pretendBuffer(weight.pointer, buffer)
    const supported = this.ggml.deviceSupportsOp(this.devicePointer, product)
    this.ggml.bufferFree(buffer)
    return supported
  }

  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    if (this.backend !== this.cpuBackend) this.ggml.backendFree(this.backend)
    this.ggml.backendFree(this.cpuBackend)
    if (this.#pool !== undefined) this.ggml.threadPoolFree(this.cpuPointer, this.#pool)
    this.#kernelPool?.[Symbol.dispose]()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

function initialise(ggml: Ggml, pointer: Pointer): Pointer {
  const backend = ggml.deviceInit(pointer, null)
  if (!backend)
    throw new UserError(`The device ${ggml.deviceName(pointer)} did not start.`, { mayPass: true })
  return backend
}

function chooseDevice(ggml: Ggml, pointers: Pointer[], cpu: Pointer, wanted: string): Pointer {
  const wish = wanted.toLowerCase()
  if (wish === 'cpu') return cpu
  const gpus = pointers.filter((pointer) => ggml.deviceType(pointer) === 1 || ggml.deviceType(pointer) === 2)
  if (wish === 'auto') return gpus[0] ?? cpu
  const match = pointers.find((pointer) => {
    const name = ggml.deviceName(pointer).toLowerCase()
    return name === wish || name.startsWith(wish)
  })
  const byType = wish === 'gpu' ? gpus[0] : undefined
  const found = match ?? byType
  if (found !== undefined) return found
  const offered = pointers.map((pointer) => ggml.deviceName(pointer)).join(', ')
  const problem = ggml.gpuProblems.find(({ variant }) => wish === 'gpu' || wish.startsWith(variant))
  const why = problem && ` The ${problem.variant} package is installed, but ${problem.reason}.`
  const fix = problem
    ? problem.fix
    : 'For a GPU, install its package, for example: npm install @node-llama-cpp/linux-x64-cuda@3.22.1'
  throw new UserError(`There is no device '${wanted}' here; there is: ${offered}.${why ?? ''}`, {
    failure: 'usage',
    ...(fix !== undefined && { fix }),
  })
}
