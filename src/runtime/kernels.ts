/**
 * Our own CPU kernels (native/), called as ggml custom ops. native/README.md has the contract of each op.
 *
 * An op needs two pointers: its address, and a `Call` that carries its fixed parameters and the counters by
 * which the threads of one op share work. Calls of one graph share a workspace.
 */
import koffi from 'koffi'
import { assert } from '../base/assert.ts'
import { bytesOf, type DType, dtypes } from '../base/dtype.ts'
import { messageOf, UserError } from '../base/errors.ts'
import {
  featuresHere,
  type InstructionSet,
  instructionSets,
  setsFor,
  setsOf,
  setsOfArchitecture,
  unitsFor,
} from './instruction-sets.ts'
import { type KernelOp, type KernelParams, kernelOps } from './kernel-ops.ts'
import { buildKernels, type KernelBuild } from './kernels-build.ts'
import { loadFailure } from './load-failure.ts'
import type { Tensor } from './tensor.ts'

type Pointer = bigint

/** The AMX kernels on tiles made of plain arrays, for tests on machines with AVX-512 alone. */
export type EmulatedSet = 'amx-emulated'

/** How keys and values are stored (native/batch.h). */
export const cacheFormats = { F16: 0, BF16: 1, Q8_0: 2 } as const
export type CacheFormat = keyof typeof cacheFormats

/**
 * What keys and values are kept in where nobody says: of two formats of 16 bits the one that tiles and vectors multiply by
 * themselves, where they do; F16 has more digits.
 */
export function quickestCacheFormat(
  kernels: Pick<Kernels, 'instructionSet' | 'multipliesPairs'> | undefined,
  headWidth: number,
): CacheFormat {
  const multiplied = kernels?.multipliesPairs === true && ['amx', 'avx512'].includes(kernels.instructionSet)
  return multiplied && headWidth % 32 === 0 ? 'BF16' : 'F16'
}

/** Bytes of a head's keys or values of one token; undefined when heads of this width cannot be stored so. */
export function cacheHeadBytes(format: CacheFormat, headWidth: number): number | undefined {
  if (format === 'F16') return headWidth * 2
  if (format === 'BF16') return headWidth % 2 === 0 ? headWidth * 2 : undefined
  // A scale for every 32 dimensions, or for a head of fewer.
  const group = Math.min(32, headWidth)
  return headWidth % group === 0 ? headWidth + (headWidth / group) * 2 : undefined
}

/** One op with its parameters, as ggml_custom_4d takes it. */
export interface KernelCall {
  op: KernelOp
  fn: Pointer
  userdata: Pointer
}

/** How long the runs of one call took together. */
export interface CallTime {
  op: KernelOp
  params: Readonly<Record<string, number>>
  ms: number
}

/** Threads for ops, which contexts may share whose graphs never run at the same time. */
export class KernelPool implements Disposable {
  readonly pointer: Pointer
  readonly #kernels: Kernels

  constructor(kernels: Kernels, threads: number) {
    this.#kernels = kernels
    this.pointer = kernels.symbols.poolNew(threads)
  }

  [Symbol.dispose](): void {
    this.#kernels.symbols.poolFree(this.pointer)
  }
}

/** Scratch memory and calls of one compute context, whose ops run one after the other. */
export class KernelContext implements Disposable {
  readonly #kernels: Kernels
  readonly #workspace: Pointer
  readonly #calls: Pointer[] = []
  readonly #pooledCalls: { op: KernelOp; params: Readonly<Record<string, number>>; pointer: Pointer }[] = []
  readonly #pool: KernelPool | undefined
  readonly #ownPool: KernelPool | undefined
  #disposed = false

  /**
   * With `threads`, a number or those of a pool, the ops bring their own: the graph then runs on one thread of ggml, and
   * no op waits for a thread that a busy neighbour holds up. Without, they share ggml's threads.
   */
  constructor(kernels: Kernels, threads?: number | KernelPool) {
    this.#kernels = kernels
    this.#workspace = kernels.symbols.workspaceNew()
    this.#ownPool = typeof threads === 'number' ? new KernelPool(kernels, threads) : undefined
    this.#pool = typeof threads === 'number' ? this.#ownPool : threads
  }

  /** True when the ops bring threads of their own. */
  get bringsThreads(): boolean {
    return this.#pool !== undefined
  }

  offers(op: KernelOp): boolean {
    return this.#kernels.offers(op)
  }

  /** The call lives as long as this context. */
  call<Op extends KernelOp>(op: Op, params: KernelParams<Op>): KernelCall {
    assert(!this.#disposed, 'a kernel context is used before it is disposed')
    const words = paramWords(op, params)
    const userdata = this.#kernels.symbols.callNew(this.#workspace, words, words.length)
    this.#calls.push(userdata)
    const fn = this.#kernels.address(op)
    if (this.#pool === undefined) return { op, fn, userdata }
    const pooled = this.#kernels.symbols.pooledCallNew(this.#pool.pointer, fn, userdata)
    this.#pooledCalls.push({ op, params, pointer: pooled })
    return { op, fn: this.#kernels.symbols.pooledAddress(), userdata: pooled }
  }

  /** What each call of ops with threads of their own has taken so far; nothing may be computing. */
  times(): CallTime[] {
    const { pooledCallNanoseconds } = this.#kernels.symbols
    return this.#pooledCalls.map(({ op, params, pointer }) => ({
      op,
      params,
      ms: Number(pooledCallNanoseconds(pointer)) / 1e6,
    }))
  }

  dispose(): void {
    if (this.#disposed) return
    this.#disposed = true
    this.#ownPool?.[Symbol.dispose]()
    for (const { pointer } of this.#pooledCalls) this.#kernels.symbols.pooledCallFree(pointer)
    for (const call of this.#calls) this.#kernels.symbols.callFree(call)
    this.#kernels.symbols.workspaceFree(this.#workspace)
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

function paramWords<Op extends KernelOp>(op: Op, params: KernelParams<Op>): Int32Array {
  const kinds: Record<string, 'int' | 'float'> = kernelOps[op]
  const words = new Int32Array(Object.keys(kinds).length)
  const floats = new Float32Array(words.buffer)
  Object.entries(kinds).forEach(([name, kind], i) => {
    const value = (params as Record<string, number>)[name]
    assert(value !== undefined, `the parameter ${name} of ${op} is given`)
    if (kind === 'int') words[i] = value
    else floats[i] = value
  })
  return words
}

/** How packed weights are stored (native/packed.h) and the op that multiplies by them. */
export const packedFormats = {
  q8: 0,
  q4: 1,
  f16: 2,
  bf16: 3,
  f32: 4,
  q5: 5,
  q4k: 6,
  q5k: 7,
  q6k: 8,
  q4s: 9,
  q5s: 10,
  mx4: 11,
} as const
export type PackedFormat = keyof typeof packedFormats
export const linearOps = {
  q8: 'linear_q8',
  q4: 'linear_q4',
  q5: 'linear_q5',
  q4s: 'linear_q4s',
  q5s: 'linear_q5s',
  q4k: 'linear_q4k',
  q5k: 'linear_q5k',
  q6k: 'linear_q6k',
  mx4: 'linear_mx4',
  f16: 'linear_f16',
  bf16: 'linear_bf16',
  f32: 'linear_f32',
} as const satisfies Record<PackedFormat, KernelOp>

/** The same by experts. */
export const expertOps = {
  q8: 'experts_q8',
  q4: 'experts_q4',
  q5: 'experts_q5',
  q4s: 'experts_q4s',
  q5s: 'experts_q5s',
  q4k: 'experts_q4k',
  q5k: 'experts_q5k',
  q6k: 'experts_q6k',
  mx4: 'experts_mx4',
  f16: 'experts_f16',
  bf16: 'experts_bf16',
  f32: 'experts_f32',
} as const satisfies Record<PackedFormat, KernelOp>

/** The formats that a packed format is made from: codes are taken as they are, but for q8, where 256 inputs share a scale. */
export const packableFrom = {
  q8: ['Q8_0', 'F32', 'F16', 'BF16'],
  q4: ['Q4_1'],
  q5: ['Q5_1'],
  q4s: ['Q4_0'],
  q5s: ['Q5_0'],
  q4k: ['Q4_K'],
  q5k: ['Q5_K'],
  q6k: ['Q6_K'],
  mx4: ['MXFP4'],
  f16: ['F32', 'F16', 'BF16'],
  bf16: ['F32', 'F16', 'BF16'],
  f32: ['F32', 'F16', 'BF16'],
} as const satisfies Record<PackedFormat, readonly DType[]>

/** Rows that alternate by panel with those of a sibling: the gate and up weights of one gated layer. */
export type Interleave = 'whole' | 'gate' | 'up'
const interleaves = { whole: 0, gate: 1, up: 2 } as const satisfies Record<Interleave, number>

export interface PackSource {
  dtype: DType
  /** Rows of whole blocks, one behind the other. */
  data: Uint8Array | Pointer
  rows: number
}

interface Symbols {
  instructionSet(index: number): string | null
  multipliesPairs(): boolean
  op(instructionSet: string, name: string): Pointer | null
  workspaceNew(): Pointer
  workspaceFree(workspace: Pointer): void
  callNew(workspace: Pointer, params: Int32Array, count: number): Pointer
  callFree(call: Pointer): void
  poolNew(threads: number): Pointer
  poolFree(pool: Pointer): void
  pooledCallNew(pool: Pointer, op: Pointer, call: Pointer): Pointer
  pooledCallFree(call: Pointer): void
  pooledCallNanoseconds(call: Pointer): number | bigint
  pooledAddress(): Pointer
  run(op: Pointer, dst: Uint8Array, threads: number, call: Pointer): void
  largePages(memory: Pointer, bytes: number): void
  tensorOffsets(into: BigInt64Array): number
  packedBytes(format: number, outputs: number, inputs: number, interleaved: number): number | bigint
  packRows(
    instructionSet: string,
    format: number,
    packed: Uint8Array | Pointer,
    inputs: number,
    firstRow: number,
    rows: number,
    type: number,
    source: Uint8Array | Pointer,
    sourceRowBytes: number,
    interleave: number,
  ): void
}

const declarations: { [Name in keyof Symbols]: string } = {
  instructionSet: 'const char* rw_instruction_set(int index)',
  multipliesPairs: 'bool rw_multiplies_pairs()',
  op: 'void* rw_op(const char* set, const char* name)',
  workspaceNew: 'void* rw_workspace_new()',
  workspaceFree: 'void rw_workspace_free(void* workspace)',
  callNew: 'void* rw_call_new(void* workspace, void* params, int count)',
  callFree: 'void rw_call_free(void* call)',
  poolNew: 'void* rw_pool_new(int threads)',
  poolFree: 'void rw_pool_free(void* pool)',
  pooledCallNew: 'void* rw_pooled_call_new(void* pool, void* op, void* call)',
  pooledCallFree: 'void rw_pooled_call_free(void* call)',
  pooledCallNanoseconds: 'int64_t rw_pooled_call_nanoseconds(void* call)',
  pooledAddress: 'void* rw_pooled_address()',
  run: 'void rw_run(void* op, void* dst, int threads, void* call)',
  largePages: 'void rw_large_pages(void* memory, int64_t bytes)',
  tensorOffsets: 'int rw_tensor_offsets(void* offsets)',
  packedBytes: 'int64_t rw_packed_bytes(int format, int64_t outputs, int64_t inputs, int interleaved)',
  packRows:
    'void rw_pack_rows(const char* set, int format, void* packed, int64_t inputs, int64_t firstRow, int64_t rows, int type, void* source, int64_t sourceRowBytes, int interleave)',
}

/** The loaded library, bound to one instruction set. */
export class Kernels {
  readonly symbols: Symbols
  readonly instructionSet: InstructionSet | EmulatedSet
  /** Whether the CPU multiplies pairs of bfloat16 (AVX-512 BF16): its 512-bit sets then do. */
  readonly multipliesPairs: boolean
  /** What this library has that this machine runs, best first. */
  readonly available: readonly InstructionSet[]
  readonly path: string

  constructor(path: string, wanted?: InstructionSet | EmulatedSet) {
    this.path = path
    this.symbols = bind(path)
    this.available = setsThatRunHere(this.symbols)
    this.multipliesPairs = this.symbols.multipliesPairs()
    const chosen = wanted ?? this.available[0]
    if (chosen === undefined || !this.symbols.op(chosen, 'linear_q8')) throw notHere(chosen, this.available)
    this.instructionSet = chosen
  }

  /** Whether the instruction set has an op of its own for this; all have those that a network cannot do without. */
  offers(op: KernelOp): boolean {
    return Boolean(this.symbols.op(this.instructionSet, op))
  }

  address(op: KernelOp): Pointer {
    const pointer = this.symbols.op(this.instructionSet, op)
    assert(pointer, `the ${this.instructionSet} kernels have ${op}`)
    return pointer
  }

  /**
   * Asks for pages of 2 MiB under a tensor's memory and what was allocated behind it, `bytes` in all, that nobody
   * wrote yet. Reading through pages of 4 KiB, a core of a virtual machine got half of what it gets so.
   */
  useLargePages(first: Tensor, bytes: number): void {
    this.symbols.largePages(first.address, bytes)
  }

  /** Bytes of a packed weight [outputs, inputs]; of gate and up together, `outputs` each, when `interleaved`. */
  packedBytes(format: PackedFormat, outputs: number, inputs: number, interleaved = false): number {
    return Number(this.symbols.packedBytes(packedFormats[format], outputs, inputs, interleaved ? 1 : 0))
  }

  /**
   * Packs rows of a weight [outputs, inputs] from `firstRow` on. Several weights may share one packed weight
   * one behind the other (q, k and v), when each begins at a multiple of 16 rows.
   */
  packRows(
    format: PackedFormat,
    packed: Uint8Array | Pointer,
    inputs: number,
    firstRow: number,
    source: PackSource,
    interleave: Interleave = 'whole',
  ): void {
    assert(
      (packableFrom[format] as readonly DType[]).includes(source.dtype),
      `${source.dtype} can be packed as ${format}`,
    )
    const rowBytes = bytesOf(source.dtype, inputs)
    this.symbols.packRows(
      this.instructionSet,
      packedFormats[format],
      packed,
      inputs,
      firstRow,
      source.rows,
      dtypes[source.dtype].ggml,
      source.data,
      rowBytes,
      interleaves[interleave],
    )
  }

  /** Runs an op outside ggml, on threads of its own; `dst` is the bytes of a struct ggml_tensor. For tests. */
  run(call: KernelCall, dst: Uint8Array, threads: number): void {
    this.symbols.run(call.fn, dst, threads, call.userdata)
  }
}

function notHere(set: string | undefined, available: readonly string[]): UserError {
  return new UserError(`This machine does not run the ${set ?? 'compiled'} kernels.`, {
    failure: 'usage',
    fix: `Set ROPEWAY_KERNELS to one of: ${['ggml', ...available].join(', ')}.`,
  })
}

function bind(path: string): Symbols {
  const library = koffi.load(path)
  const entries = Object.entries(declarations).map(([name, declaration]) => [name, library.func(declaration)])
  return Object.fromEntries(entries) as Symbols
}

function setsThatRunHere(symbols: Symbols): InstructionSet[] {
  const found: InstructionSet[] = []
  for (let i = 0; i < instructionSets.length; i++) {
    const name = instructionSets.find((set) => set === symbols.instructionSet(i))
    if (name !== undefined) found.push(name)
  }
  return found
}

export type KernelStatus =
  | {
      kernels: Kernels
      compiler: string
      tookMs: number
      leftOut: readonly string[]
      passedOver: string | undefined
      alongFrom: string | undefined
    }
  | { kernels: undefined; reason: string; fix: string }

const plainByWish = 'ROPEWAY_KERNELS=ggml'

/** What to tell whoever starts work that plain ggml has to do alone; nothing where that was asked for. */
export function plainNote(status: KernelStatus): string | undefined {
  if (status.kernels !== undefined || status.reason === plainByWish) return undefined
  return `Plain ggml computes, several times slower than our kernels: ${status.reason}. ${status.fix}`
}

let status: KernelStatus | undefined

/**
 * The kernels of this process, or undefined when plain ggml must do; {@link kernelStatus} says why.
 * `ROPEWAY_KERNELS` forces an instruction set, or 'ggml' for none.
 */
export function loadKernels(): Kernels | undefined {
  return kernelStatus().kernels
}

/** Builds and loads at the first call (some seconds when not cached). Throws only for a ROPEWAY_KERNELS that cannot be had. */
export function kernelStatus(): KernelStatus {
  status ??= openKernels(process.env.ROPEWAY_KERNELS)
  return status
}

/** The kernels of the `wanted` instruction set, or the best; undefined with the reason where plain ggml must do. */
export function openKernels(wanted: string | undefined, cacheFolder?: string): KernelStatus {
  if (wanted === 'ggml') {
    return { kernels: undefined, reason: plainByWish, fix: 'Unset ROPEWAY_KERNELS.' }
  }
  const set = instructionSets.find((name) => name === wanted)
  if (wanted && set === undefined) {
    throw new UserError(`ROPEWAY_KERNELS is '${wanted}', which is no set of kernels.`, {
      failure: 'usage',
      fix: `Use one of: ggml, ${instructionSets.join(', ')}.`,
    })
  }
  const features = featuresHere()
  const here = setsFor(features) ?? setsOfArchitecture
  if (set !== undefined && !here.includes(set)) throw notHere(set, here)
  const status = openFrom(loadableBuild(cacheFolder, unitsFor(features, set)), set)
  if (status !== undefined) return status
  // The system told of more than the processor does: then whatever it does.
  const some = openFrom(loadableBuild(cacheFolder, unitsFor(undefined)), set)
  assert(some, 'every processor runs the portable kernels')
  return some
}

/** What came along from another machine may want a C library that is not here: then the next one, or the compiler's. */
function loadableBuild(cacheFolder: string | undefined, chosen: readonly string[]): KernelBuild {
  const unloadable: string[] = []
  let why = ''
  for (;;) {
    const build = buildKernels(cacheFolder, chosen, unloadable)
    if (!build.ok) return why === '' ? build : { ...build, reason: `${build.reason}, and ${why}` }
    const failure = build.alongFrom === undefined ? undefined : loadFailure(build.path)
    if (failure === undefined) return build
    unloadable.push(build.path)
    why = `${build.path}, compiled elsewhere, cannot be loaded: ${failure}`
  }
}

/** Undefined where the library has no set that this machine runs, and none was asked for. */
function openFrom(build: KernelBuild, set: InstructionSet | undefined): KernelStatus | undefined {
  if (!build.ok) {
    if (set === undefined) return { kernels: undefined, reason: build.reason, fix: build.fix }
    // Who forces a set wants no other.
    throw new UserError(`ROPEWAY_KERNELS asks for the ${set} kernels, but ${build.reason}.`, {
      fix: build.fix,
    })
  }
  const { compiler, tookMs, leftOut, passedOver, alongFrom } = build
  if (set !== undefined && setsOf(leftOut).includes(set)) {
    if (alongFrom !== undefined)
      throw new UserError(`The kernels in ${alongFrom}, compiled elsewhere, have none for ${set}.`, {
        fix: `Install a C++ compiler, compile them there by "ropeway kernels build --all", or unset ROPEWAY_KERNELS.`,
      })
    throw new UserError(`This compiler is too old for the ${set} kernels: ${compiler}.`, {
      fix: 'Install a newer g++ or clang++, or unset ROPEWAY_KERNELS.',
    })
  }
  try {
    return { kernels: new Kernels(build.path, set), compiler, tookMs, leftOut, passedOver, alongFrom }
  } catch (error) {
    if (error instanceof UserError) {
      if (set === undefined) return undefined
      throw error
    }
    const reason = `the compiled kernels cannot be loaded: ${messageOf(error)}`
    const fix = `Delete ${build.path} and try again, or set XDG_CACHE_HOME to a folder from which programs may run.`
    return { kernels: undefined, reason, fix }
  }
}

/** One sequence's share of a batch; its rows follow those of the sequence before it. */
export interface BatchSequence {
  /** Rows computed now, at positions start, start + 1, ... */
  count: number
  start: number
  /** Block ids in order; they must cover positions up to start + count. Ids outside a sliding window are not read. */
  blocks: readonly number[]
}

const batchHeaderWords = 4
const batchSequenceWords = 4

/** Words of the batch table for at most so many sequences and block ids in all. */
export function batchTableWordsMax(sequencesMax: number, blocksMax: number): number {
  return batchHeaderWords + batchSequenceWords * sequencesMax + blocksMax
}

/** Writes the I32 batch table that native/batch.h describes; returns the words used. */
export function writeBatchTable(
  into: Int32Array,
  sequences: readonly BatchSequence[],
  blockTokens: number,
): number {
  assert(blockTokens % 16 === 0, 'tokens per block are a multiple of 16')
  let row = 0
  let at = batchHeaderWords + batchSequenceWords * sequences.length
  sequences.forEach(({ count, start, blocks }, i) => {
    const used = Math.ceil((start + count) / blockTokens)
    assert(count > 0 && blocks.length >= used, 'every sequence has rows, and blocks for them')
    assert(at + used <= into.length, 'the batch table has room for all block ids')
    into.set([row, count, start, at], batchHeaderWords + batchSequenceWords * i)
    for (let block = 0; block < used; block++) into[at + block] = blocks[block]!
    at += used
    row += count
  })
  into.set([sequences.length, blockTokens, row, 0])
  return at
}
