/**
 * Every native symbol that Ropeway calls, typed, and nothing else.
 *
 * ggml's shared libraries come from npm (`@node-llama-cpp/<platform>`); a GPU sibling of that package is
 * used when it is installed (gpu-packages.ts says which library). A pointer is a bigint; 0n never leaves this file as a valid one.
 */
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import koffi, { type LibraryHandle, type TypeObject } from 'koffi'
import { messageOf, UserError } from '../base/errors.ts'
import { findGpuLibrary, type GpuProblem, refusal } from './gpu-packages.ts'

export type Pointer = bigint

type KoffiFunction = ReturnType<LibraryHandle['func']>

/** What ggml calls for a custom op: `void fn(struct ggml_tensor *dst, int ith, int nth, void *userdata)`. */
export type CustomOpPointer = Pointer

export interface Ggml {
  version: string
  /** Names of the packages whose backends were loaded. */
  packages: readonly string[]
  /** GPU packages that are installed and of no use here, and why. */
  gpuProblems: readonly GpuProblem[]
  init(params: { mem_size: number; mem_buffer: null; no_alloc: boolean }): Pointer
  free(context: Pointer): void
  tensorOverhead(): bigint | number
  graphOverheadCustom(size: number, grads: boolean): bigint | number
  newTensor4d(ctx: Pointer, type: number, ne0: number, ne1: number, ne2: number, ne3: number): Pointer
  setName(tensor: Pointer, name: string): Pointer
  setInput(tensor: Pointer): void
  setOutput(tensor: Pointer): void
  setParam(tensor: Pointer): void
  getData(tensor: Pointer): Pointer | null
  newGraphCustom(ctx: Pointer, size: number, grads: boolean): Pointer
  buildForwardExpand(graph: Pointer, tensor: Pointer): void
  graphNodes(graph: Pointer): number
  graphNode(graph: Pointer, index: number): Pointer
  add(ctx: Pointer, a: Pointer, b: Pointer): Pointer
  sub(ctx: Pointer, a: Pointer, b: Pointer): Pointer
  mul(ctx: Pointer, a: Pointer, b: Pointer): Pointer
  div(ctx: Pointer, a: Pointer, b: Pointer): Pointer
  addInplace(ctx: Pointer, a: Pointer, b: Pointer): Pointer
  scale(ctx: Pointer, a: Pointer, factor: number): Pointer
  scaleBias(ctx: Pointer, a: Pointer, factor: number, offset: number): Pointer
  fill(ctx: Pointer, a: Pointer, value: number): Pointer
  sqr(ctx: Pointer, a: Pointer): Pointer
  sqrt(ctx: Pointer, a: Pointer): Pointer
  log(ctx: Pointer, a: Pointer): Pointer
  exp(ctx: Pointer, a: Pointer): Pointer
  sigmoid(ctx: Pointer, a: Pointer): Pointer
  softplus(ctx: Pointer, a: Pointer): Pointer
  sum(ctx: Pointer, a: Pointer): Pointer
  sumRows(ctx: Pointer, a: Pointer): Pointer
  repeat(ctx: Pointer, a: Pointer, like: Pointer): Pointer
  repeatBack(ctx: Pointer, a: Pointer, like: Pointer): Pointer
  concat(ctx: Pointer, a: Pointer, b: Pointer, dim: number): Pointer
  silu(ctx: Pointer, a: Pointer): Pointer
  siluBack(ctx: Pointer, dy: Pointer, x: Pointer): Pointer
  tanh(ctx: Pointer, a: Pointer): Pointer
  step(ctx: Pointer, a: Pointer): Pointer
  clamp(ctx: Pointer, a: Pointer, low: number, high: number): Pointer
  swigluSplit(ctx: Pointer, gate: Pointer, up: Pointer): Pointer
  swigluOai(ctx: Pointer, gate: Pointer, up: Pointer, alpha: number, limit: number): Pointer
  rmsNorm(ctx: Pointer, a: Pointer, epsilon: number): Pointer
  rmsNormBack(ctx: Pointer, dy: Pointer, x: Pointer, epsilon: number): Pointer
  norm(ctx: Pointer, a: Pointer, epsilon: number): Pointer
  mulMat(ctx: Pointer, a: Pointer, b: Pointer): Pointer
  mulMatId(ctx: Pointer, experts: Pointer, b: Pointer, ids: Pointer): Pointer
  addId(ctx: Pointer, a: Pointer, biases: Pointer, ids: Pointer): Pointer
  outProd(ctx: Pointer, a: Pointer, b: Pointer): Pointer
  softMaxExt(ctx: Pointer, a: Pointer, mask: Pointer | null, scale: number, maxBias: number): Pointer
  softMaxExtBack(ctx: Pointer, dy: Pointer, y: Pointer, scale: number, maxBias: number): Pointer
  ropeExt: Rope
  ropeExtBack: Rope
  getRows(ctx: Pointer, a: Pointer, ids: Pointer): Pointer
  getRowsBack(ctx: Pointer, dy: Pointer, ids: Pointer, like: Pointer): Pointer
  setRows(ctx: Pointer, into: Pointer, rows: Pointer, ids: Pointer): Pointer
  cont(ctx: Pointer, a: Pointer): Pointer
  cast(ctx: Pointer, a: Pointer, type: number): Pointer
  cpy(ctx: Pointer, from: Pointer, into: Pointer): Pointer
  reshape4d(ctx: Pointer, a: Pointer, ne0: number, ne1: number, ne2: number, ne3: number): Pointer
  view4d(
    ctx: Pointer,
    a: Pointer,
    ne0: number,
    ne1: number,
    ne2: number,
    ne3: number,
    nb1: number,
    nb2: number,
    nb3: number,
    offset: number,
  ): Pointer
  permute(ctx: Pointer, a: Pointer, axis0: number, axis1: number, axis2: number, axis3: number): Pointer
  argmax(ctx: Pointer, a: Pointer): Pointer
  argsort(ctx: Pointer, a: Pointer, order: number): Pointer
  flashAttnExt(
    ctx: Pointer,
    q: Pointer,
    k: Pointer,
    v: Pointer,
    mask: Pointer | null,
    scale: number,
    maxBias: number,
    softcap: number,
  ): Pointer
  flashAttnSetPrec(tensor: Pointer, precision: number): void
  flashAttnAddSinks(tensor: Pointer, sinks: Pointer): void
  optStepAdamw(ctx: Pointer, a: Pointer, grad: Pointer, m: Pointer, v: Pointer, params: Pointer): Pointer
  custom4d(
    ctx: Pointer,
    type: number,
    ne0: number,
    ne1: number,
    ne2: number,
    ne3: number,
    args: BigUint64Array,
    count: number,
    fn: CustomOpPointer,
    tasks: number,
    userdata: Pointer | null,
  ): Pointer
  quantizeChunk(
    type: number,
    source: Float32Array,
    into: Uint8Array,
    start: number,
    rows: number,
    perRow: number,
    importance: null,
  ): bigint | number
  fp32ToBf16Row(source: Float32Array, into: Uint8Array, count: number): void
  fp32ToFp16Row(source: Float32Array, into: Uint8Array, count: number): void
  fp16ToFp32Row(source: Uint8Array, into: Float32Array, count: number): void
  bf16ToFp32Row(source: Uint8Array, into: Float32Array, count: number): void
  deviceCount(): bigint | number
  deviceGet(index: number): Pointer
  deviceName(device: Pointer): string
  deviceDescription(device: Pointer): string
  deviceType(device: Pointer): number
  deviceInit(device: Pointer, params: null): Pointer | null
  deviceBufferType(device: Pointer): Pointer
  deviceSupportsOp(device: Pointer, tensor: Pointer): boolean
  deviceRegistry(device: Pointer): Pointer
  deviceMemory(device: Pointer, free: BigUint64Array, total: BigUint64Array): void
  procAddress(registry: Pointer, name: string): Pointer | null
  backendFree(backend: Pointer): void
  bufferTypeName(bufferType: Pointer): string
  bufferTypeIsHost(bufferType: Pointer): boolean
  bufferTypeAlloc(bufferType: Pointer, bytes: number): Pointer | null
  allocContext(ctx: Pointer, bufferType: Pointer): Pointer | null
  bufferFree(buffer: Pointer): void
  bufferSize(buffer: Pointer): bigint | number
  bufferClear(buffer: Pointer, value: number): void
  bufferSetUsage(buffer: Pointer, usage: number): void
  tensorSet(tensor: Pointer, data: Uint8Array, offset: number, bytes: number): void
  tensorGet(tensor: Pointer, data: Uint8Array, offset: number, bytes: number): void
  gallocrNew(bufferType: Pointer): Pointer
  gallocrFree(allocator: Pointer): void
  gallocrReserve(allocator: Pointer, graph: Pointer): boolean
  gallocrAlloc(allocator: Pointer, graph: Pointer): boolean
  gallocrSize(allocator: Pointer, index: number): bigint | number
  graphCompute(backend: Pointer, graph: Pointer): number
  graphComputeAsync(backend: Pointer, graph: Pointer): Promise<number>
  schedNew(
    backends: BigUint64Array,
    bufferTypes: null,
    count: number,
    graphSize: number,
    parallel: boolean,
    offload: boolean,
  ): Pointer
  schedFree(scheduler: Pointer): void
  schedReset(scheduler: Pointer): void
  schedAlloc(scheduler: Pointer, graph: Pointer): boolean
  schedCompute(scheduler: Pointer, graph: Pointer): number
  schedComputeAsync(scheduler: Pointer, graph: Pointer): Promise<number>
  /** Zero-terminated array of the extra buffer types of a CPU device (AMX, repack), best first. */
  extraBufferTypes(device: Pointer): Pointer[]
  setThreads(device: Pointer, backend: Pointer, threads: number): void
  /** Threads that stay between computations, given to the backend; undefined where the library has none. */
  threadPoolNew(device: Pointer, backend: Pointer, threads: number): Pointer | undefined
  threadPoolFree(device: Pointer, pool: Pointer): void
  /** Makes a tensor without memory belong to a buffer, as far as questions about it go. */
  pretendBuffer(tensor: Pointer, buffer: Pointer): void
  /** Changes what a view's bits are taken for, and so its lengths; `strides` in bytes, innermost first like the lengths. */
  retype(tensor: Pointer, type: number, lengths: readonly number[], strides: readonly number[]): void
  /** A view over native memory; valid as long as that memory is. */
  view(pointer: Pointer, bytes: number): ArrayBuffer
}

type Rope = (
  ctx: Pointer,
  a: Pointer,
  positions: Pointer,
  factors: Pointer | null,
  dims: number,
  mode: number,
  contextOriginal: number,
  base: number,
  scale: number,
  extFactor: number,
  attnFactor: number,
  betaFast: number,
  betaSlow: number,
) => Pointer

type Symbols = { [Name in keyof Ggml]?: string }

const T = 'void*'
const unary = (name: string) => `${T} ggml_${name}(${T} ctx, ${T} a)`
const binary = (name: string) => `${T} ggml_${name}(${T} ctx, ${T} a, ${T} b)`
const rope = (name: string) =>
  `${T} ggml_${name}(${T} ctx, ${T} a, ${T} b, ${T} c, int dims, int mode, int original, float base, float scale, float ext, float attn, float fast, float slow)`

const baseSymbols: Symbols = {
  init: `${T} ggml_init(ropeway_init_params params)`,
  free: `void ggml_free(${T} ctx)`,
  tensorOverhead: 'size_t ggml_tensor_overhead()',
  graphOverheadCustom: 'size_t ggml_graph_overhead_custom(size_t size, bool grads)',
  newTensor4d: `${T} ggml_new_tensor_4d(${T} ctx, int type, int64_t a, int64_t b, int64_t c, int64_t d)`,
  setName: `${T} ggml_set_name(${T} t, const char* name)`,
  setInput: `void ggml_set_input(${T} t)`,
  setOutput: `void ggml_set_output(${T} t)`,
  setParam: `void ggml_set_param(${T} t)`,
  getData: `${T} ggml_get_data(${T} t)`,
  newGraphCustom: `${T} ggml_new_graph_custom(${T} ctx, size_t size, bool grads)`,
  buildForwardExpand: `void ggml_build_forward_expand(${T} graph, ${T} t)`,
  graphNodes: `int ggml_graph_n_nodes(${T} graph)`,
  graphNode: `${T} ggml_graph_node(${T} graph, int i)`,
  add: binary('add'),
  sub: binary('sub'),
  mul: binary('mul'),
  div: binary('div'),
  addInplace: binary('add_inplace'),
  scale: `${T} ggml_scale(${T} ctx, ${T} a, float s)`,
  scaleBias: `${T} ggml_scale_bias(${T} ctx, ${T} a, float s, float b)`,
  fill: `${T} ggml_fill(${T} ctx, ${T} a, float c)`,
  sqr: unary('sqr'),
  sqrt: unary('sqrt'),
  log: unary('log'),
  exp: unary('exp'),
  sigmoid: unary('sigmoid'),
  softplus: unary('softplus'),
  sum: unary('sum'),
  sumRows: unary('sum_rows'),
  repeat: binary('repeat'),
  repeatBack: binary('repeat_back'),
  concat: `${T} ggml_concat(${T} ctx, ${T} a, ${T} b, int dim)`,
  silu: unary('silu'),
  siluBack: binary('silu_back'),
  tanh: unary('tanh'),
  step: unary('step'),
  clamp: `${T} ggml_clamp(${T} ctx, ${T} a, float low, float high)`,
  swigluSplit: binary('swiglu_split'),
  swigluOai: `${T} ggml_swiglu_oai(${T} ctx, ${T} a, ${T} b, float alpha, float limit)`,
  rmsNorm: `${T} ggml_rms_norm(${T} ctx, ${T} a, float eps)`,
  rmsNormBack: `${T} ggml_rms_norm_back(${T} ctx, ${T} a, ${T} b, float eps)`,
  norm: `${T} ggml_norm(${T} ctx, ${T} a, float eps)`,
  mulMat: binary('mul_mat'),
  mulMatId: `${T} ggml_mul_mat_id(${T} ctx, ${T} a, ${T} b, ${T} c)`,
  addId: `${T} ggml_add_id(${T} ctx, ${T} a, ${T} b, ${T} c)`,
  outProd: binary('out_prod'),
  softMaxExt: `${T} ggml_soft_max_ext(${T} ctx, ${T} a, ${T} mask, float scale, float bias)`,
  softMaxExtBack: `${T} ggml_soft_max_ext_back(${T} ctx, ${T} a, ${T} b, float scale, float bias)`,
  ropeExt: rope('rope_ext'),
  ropeExtBack: rope('rope_ext_back'),
  getRows: binary('get_rows'),
  getRowsBack: `${T} ggml_get_rows_back(${T} ctx, ${T} a, ${T} b, ${T} c)`,
  setRows: `${T} ggml_set_rows(${T} ctx, ${T} a, ${T} b, ${T} c)`,
  cont: unary('cont'),
  cast: `${T} ggml_cast(${T} ctx, ${T} a, int type)`,
  cpy: binary('cpy'),
  reshape4d: `${T} ggml_reshape_4d(${T} ctx, ${T} a, int64_t p, int64_t q, int64_t r, int64_t s)`,
  view4d: `${T} ggml_view_4d(${T} ctx, ${T} a, int64_t p, int64_t q, int64_t r, int64_t s, size_t x, size_t y, size_t z, size_t offset)`,
  permute: `${T} ggml_permute(${T} ctx, ${T} a, int p, int q, int r, int s)`,
  argmax: unary('argmax'),
  argsort: `${T} ggml_argsort(${T} ctx, ${T} a, int order)`,
  flashAttnExt: `${T} ggml_flash_attn_ext(${T} ctx, ${T} q, ${T} k, ${T} v, ${T} mask, float scale, float bias, float cap)`,
  flashAttnSetPrec: `void ggml_flash_attn_ext_set_prec(${T} a, int prec)`,
  flashAttnAddSinks: `void ggml_flash_attn_ext_add_sinks(${T} a, ${T} sinks)`,
  optStepAdamw: `${T} ggml_opt_step_adamw(${T} ctx, ${T} a, ${T} grad, ${T} m, ${T} v, ${T} params)`,
  custom4d: `${T} ggml_custom_4d(${T} ctx, int type, int64_t p, int64_t q, int64_t r, int64_t s, ${T} args, int count, ${T} fn, int tasks, ${T} data)`,
  quantizeChunk: `size_t ggml_quantize_chunk(int type, ${T} src, ${T} dst, int64_t start, int64_t rows, int64_t per, ${T} imatrix)`,
  fp32ToBf16Row: `void ggml_fp32_to_bf16_row(${T} x, ${T} y, int64_t n)`,
  fp32ToFp16Row: `void ggml_fp32_to_fp16_row(${T} x, ${T} y, int64_t n)`,
  fp16ToFp32Row: `void ggml_fp16_to_fp32_row(${T} x, ${T} y, int64_t n)`,
  bf16ToFp32Row: `void ggml_bf16_to_fp32_row(${T} x, ${T} y, int64_t n)`,
  deviceName: `const char* ggml_backend_dev_name(${T} d)`,
  deviceDescription: `const char* ggml_backend_dev_description(${T} d)`,
  deviceType: `int ggml_backend_dev_type(${T} d)`,
  deviceInit: `${T} ggml_backend_dev_init(${T} d, ${T} params)`,
  deviceBufferType: `${T} ggml_backend_dev_buffer_type(${T} d)`,
  deviceSupportsOp: `bool ggml_backend_dev_supports_op(${T} d, ${T} op)`,
  deviceRegistry: `${T} ggml_backend_dev_backend_reg(${T} d)`,
  deviceMemory: `void ggml_backend_dev_memory(${T} d, ${T} free, ${T} total)`,
  procAddress: `${T} ggml_backend_reg_get_proc_address(${T} reg, const char* name)`,
  backendFree: `void ggml_backend_free(${T} b)`,
  bufferTypeName: `const char* ggml_backend_buft_name(${T} b)`,
  bufferTypeIsHost: `bool ggml_backend_buft_is_host(${T} b)`,
  bufferTypeAlloc: `${T} ggml_backend_buft_alloc_buffer(${T} buft, size_t size)`,
  allocContext: `${T} ggml_backend_alloc_ctx_tensors_from_buft(${T} ctx, ${T} buft)`,
  bufferFree: `void ggml_backend_buffer_free(${T} b)`,
  bufferSize: `size_t ggml_backend_buffer_get_size(${T} b)`,
  bufferClear: `void ggml_backend_buffer_clear(${T} b, uint8_t value)`,
  bufferSetUsage: `void ggml_backend_buffer_set_usage(${T} b, int usage)`,
  tensorSet: `void ggml_backend_tensor_set(${T} t, ${T} data, size_t offset, size_t size)`,
  tensorGet: `void ggml_backend_tensor_get(${T} t, ${T} data, size_t offset, size_t size)`,
  gallocrNew: `${T} ggml_gallocr_new(${T} buft)`,
  gallocrFree: `void ggml_gallocr_free(${T} a)`,
  gallocrReserve: `bool ggml_gallocr_reserve(${T} a, ${T} graph)`,
  gallocrAlloc: `bool ggml_gallocr_alloc_graph(${T} a, ${T} graph)`,
  gallocrSize: `size_t ggml_gallocr_get_buffer_size(${T} a, int i)`,
  graphCompute: `int ggml_backend_graph_compute(${T} b, ${T} graph)`,
  schedNew: `${T} ggml_backend_sched_new(${T} backends, ${T} bufts, int n, size_t size, bool parallel, bool offload)`,
  schedFree: `void ggml_backend_sched_free(${T} s)`,
  schedReset: `void ggml_backend_sched_reset(${T} s)`,
  schedAlloc: `bool ggml_backend_sched_alloc_graph(${T} s, ${T} graph)`,
  schedCompute: `int ggml_backend_sched_graph_compute(${T} s, ${T} graph)`,
}

const registrySymbols: Symbols = {
  deviceCount: 'size_t ggml_backend_dev_count()',
  deviceGet: `${T} ggml_backend_dev_get(size_t i)`,
}

/** Sinks for what the native side says; set before {@link loadGgml} to see the loading too. */
export const nativeLog: { write: (level: number, text: string) => void } = { write: () => undefined }

const gpuVariants = ['cuda', 'vulkan'] as const

let loaded: Ggml | undefined

/** Loads ggml once per process. Throws a UserError that says which package is missing or wrong. */
export function loadGgml(): Ggml {
  loaded ??= load()
  return loaded
}

function load(): Ggml {
  const platform = platformPackage()
  const folder = packageBinaries(platform)
  if (folder === undefined) {
    throw new UserError(`The native library package ${platform} is not installed for this Node.`, {
      fix: `Run: npm install ${platform}@3.22.1 (npm ci restores it too, unless optional packages are omitted).`,
    })
  }
  try {
    return bind(folder, platform)
  } catch (error) {
    if (error instanceof UserError) throw error
    throw new UserError(`The native library in ${platform} cannot be used: ${messageOf(error)}`, {
      fix: 'Reinstall the packages (npm ci). Ropeway is tested with version 3.22.1 of that package.',
      cause: error,
    })
  }
}

function bind(folder: string, platform: string): Ggml {
  const suffix = process.platform === 'win32' ? '.dll' : process.platform === 'darwin' ? '.dylib' : '.so'
  const base = koffi.load(join(folder, `libggml-base${suffix}`), { global: true })
  const registryFile = [`libggml.v0.5.0${suffix}`, `libggml${suffix}`].find((name) =>
    existsSync(join(folder, name)),
  )
  if (registryFile === undefined) throw new UserError(`${platform} holds no libggml${suffix}.`)
  const registry = koffi.load(join(folder, registryFile), { global: true })
  declareStructs()
  // Pointers to memory that koffi must not copy are declared void*; typed arrays pass as their address.
  const ggml = { packages: [platform] } as unknown as Ggml & Record<string, unknown>
  const functions = ggml as unknown as Record<string, KoffiFunction>
  for (const [name, declaration] of Object.entries(baseSymbols)) functions[name] = base.func(declaration)
  for (const [name, declaration] of Object.entries(registrySymbols))
    functions[name] = registry.func(declaration)
  ggml.version = base.func('const char* ggml_version()')()
  installLog(base)
  const variant = process.env.ROPEWAY_GGML_CPU ?? ''
  if (variant === '') registry.func('void ggml_backend_load_all_from_path(const char* path)')(folder)
  else loadVariant(registry, join(folder, `libggml-cpu-${variant}${suffix}`), variant)
  const { packages, problems } = loadGpuPackages(registry, platform, suffix, () => Number(ggml.deviceCount()))
  ggml.packages = [platform, ...packages]
  ggml.gpuProblems = problems
  ggml.graphComputeAsync = promised(functions.graphCompute!)
  ggml.schedComputeAsync = promised(functions.schedCompute!)
  ggml.pretendBuffer = (tensor, buffer) => {
    // struct ggml_tensor: int32 type, then the buffer's pointer at the next multiple of eight.
    new DataView(koffi.view(tensor, 16)).setBigUint64(8, buffer, true)
  }
  ggml.retype = (tensor, type, lengths, strides) => {
    // struct ggml_tensor: int32 type, the buffer's pointer, then four lengths (ne) and four strides (nb) of 64 bits.
    const struct = new DataView(koffi.view(tensor, 80))
    struct.setInt32(0, type, true)
    for (const [i, length] of lengths.entries()) struct.setBigInt64(16 + 8 * i, BigInt(length), true)
    for (const [i, stride] of strides.entries()) struct.setBigInt64(48 + 8 * i, BigInt(stride), true)
  }
  ggml.view = (pointer, bytes) => koffi.view(pointer, bytes)
  ggml.extraBufferTypes = (device) => extraBufferTypes(ggml, device)
  ggml.setThreads = (device, backend, threads) => {
    const address = ggml.procAddress(ggml.deviceRegistry(device), 'ggml_backend_set_n_threads')
    if (address) koffi.decode(address, prototypes.setThreads!)(backend, threads)
  }
  bindThreadPools(ggml, base)
  return ggml
}

/** Backends of GPU packages that are installed; each finds libggml-base by its name, as it is loaded already. */
function loadGpuPackages(
  registry: LibraryHandle,
  platform: string,
  suffix: string,
  countDevices: () => number,
) {
  const backendLoad = registry.func('void* ggml_backend_load(const char* path)')
  const packages: string[] = []
  const problems: GpuProblem[] = []
  for (const variant of gpuVariants) {
    const found = findGpuLibrary(platform, variant, suffix, packageBinaries)
    if (found === undefined) continue
    if ('reason' in found) problems.push(found)
    else {
      const before = countDevices()
      // With no device beside those before, the package is of no use.
      if (backendLoad(found.path) && countDevices() > before) packages.push(found.package)
      else problems.push(refusal(found, variant))
    }
  }
  return { packages, problems }
}

/** ROPEWAY_GGML_CPU=haswell: ggml as another processor would run it, instead of its best here; unset or empty for that. */
function loadVariant(registry: LibraryHandle, path: string, variant: string): void {
  if (existsSync(path) && registry.func('void* ggml_backend_load(const char* path)')(path)) return
  throw new UserError(`ROPEWAY_GGML_CPU is '${variant}', which is no build of ggml that runs here.`, {
    failure: 'usage',
    fix: 'Unset it, or name one of the package, for example haswell.',
  })
}

/** Bytes that surely hold a ggml_threadpool_params (a CPU mask of 512 and five numbers). */
const poolParamsBytes = 1024

function bindThreadPools(ggml: Ggml, base: LibraryHandle): void {
  const initialise = base.func('void ggml_threadpool_params_init(void* params, int threads)')
  const find = (device: Pointer, name: string) => ggml.procAddress(ggml.deviceRegistry(device), name)
  ggml.threadPoolNew = (device, backend, threads) => {
    const [make, attach] = ['ggml_threadpool_new', 'ggml_backend_cpu_set_threadpool'].map((name) =>
      find(device, name),
    )
    if (!make || !attach) return undefined
    const params = new Uint8Array(poolParamsBytes)
    initialise(params, threads)
    const pool: Pointer | null = koffi.decode(make, prototypes.threadPoolNew!)(params)
    if (!pool) return undefined
    koffi.decode(attach, prototypes.threadPoolAttach!)(backend, pool)
    return pool
  }
  ggml.threadPoolFree = (device, pool) => {
    const free = find(device, 'ggml_threadpool_free')
    if (free) koffi.decode(free, prototypes.threadPoolFree!)(pool)
  }
}

const prototypes: Partial<
  Record<
    'setThreads' | 'extraBufferTypes' | 'threadPoolNew' | 'threadPoolAttach' | 'threadPoolFree',
    TypeObject
  >
> = {}

function declareStructs(): void {
  koffi.struct('ropeway_init_params', { mem_size: 'size_t', mem_buffer: 'void*', no_alloc: 'bool' })
  prototypes.setThreads = koffi.proto('void ropeway_set_threads(void* backend, int threads)')
  prototypes.extraBufferTypes = koffi.proto('void* ropeway_extra_bufts(void* device)')
  prototypes.threadPoolNew = koffi.proto('void* ropeway_threadpool_new(void* params)')
  prototypes.threadPoolAttach = koffi.proto('void ropeway_threadpool_attach(void* backend, void* pool)')
  prototypes.threadPoolFree = koffi.proto('void ropeway_threadpool_free(void* pool)')
}

function extraBufferTypes(ggml: Ggml, device: Pointer): Pointer[] {
  const address = ggml.procAddress(ggml.deviceRegistry(device), 'ggml_backend_dev_get_extra_bufts')
  if (!address) return []
  const list: Pointer | null = koffi.decode(address, prototypes.extraBufferTypes!)(device)
  if (!list) return []
  const found: Pointer[] = []
  // The list is small and ends with NULL; sixteen is a bound, not a size.
  for (let i = 0; i < 16; i++) {
    const entry = koffi.decode(list, i * 8, 'void*') as Pointer | null
    if (!entry) break
    found.push(entry)
  }
  return found
}

function installLog(base: LibraryHandle): void {
  const callback = koffi.proto('void ropeway_log(int level, const char* text, void* user)')
  const pointer = koffi.register(
    (level: number, text: string) => nativeLog.write(level, text),
    koffi.pointer(callback),
  )
  base.func('void ggml_log_set(ropeway_log* callback, void* user)')(pointer, null)
}

function promised(fn: KoffiFunction): (a: Pointer, b: Pointer) => Promise<number> {
  return (a, b) =>
    new Promise((resolve, reject) => {
      fn.async(a, b, (error: unknown, status: number) => (error ? reject(error) : resolve(status)))
    })
}

function platformPackage(): string {
  const { platform, arch } = process
  if (platform === 'darwin')
    return arch === 'arm64' ? '@node-llama-cpp/mac-arm64-metal' : '@node-llama-cpp/mac-x64'
  if (platform === 'win32') return `@node-llama-cpp/win-${arch}`
  if (platform === 'linux' && arch === 'arm') return '@node-llama-cpp/linux-armv7l'
  if (platform === 'linux') return `@node-llama-cpp/linux-${arch}`
  throw new UserError(`There is no native library for ${platform} on ${arch}.`)
}

/** The folder with a package's shared libraries, or undefined when the package is not installed. */
function packageBinaries(name: string): string | undefined {
  try {
    const entry = createRequire(import.meta.url).resolve(name)
    const folder = join(
      dirname(entry),
      '..',
      'bins',
      name.replace('@node-llama-cpp/', '').replace(/-ext$/, ''),
    )
    return existsSync(folder) ? folder : undefined
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'MODULE_NOT_FOUND') return undefined
    throw error
  }
}
