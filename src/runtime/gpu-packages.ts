/**
 * Which library of ggml's GPU packages can be loaded here, and what is missing where none can.
 *
 * `linux-x64-cuda` 3.22.1 is made by CUDA 13.1: machine code for compute capability 8.6, 8.9, 12.0 and 12.1, and
 * intermediate code (PTX 9.1) for 7.5, 8.0 and 9.0, which only a driver of CUDA 13.1 or newer compiles: an A100 or
 * H100 with an older one would end at its first kernel. `linux-x64-cuda-ext` has one made by CUDA 12 for GPUs from 5.0
 * on. Both need the CUDA runtime and cuBLAS of their version, which no package brings.
 */
import { existsSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import koffi from 'koffi'
import { loadFailure } from './load-failure.ts'

/** One library that ggml can load as a backend. */
export interface GpuLibrary {
  package: string
  path: string
}

/** A package that is installed and of no use here. */
export interface GpuProblem {
  variant: string
  reason: string
  fix?: string
}

/** What NVIDIA's driver says of its first GPU. */
export interface Nvidia {
  /** The newest CUDA that it runs: 13000 is 13.0. */
  cuda: number
  /** 90 is 9.0. */
  capability: number
}

export type FolderOf = (packageName: string) => string | undefined

/** The library of a variant that loads here, its needs already loaded, or why there is none; undefined where none is installed. */
export function findGpuLibrary(
  platform: string,
  variant: 'cuda' | 'vulkan',
  suffix: string,
  folderOf: FolderOf,
): GpuLibrary | GpuProblem | undefined {
  const file = `libggml-${variant}${suffix}`
  const candidates = [
    { package: `${platform}-${variant}`, inside: file },
    ...(variant === 'cuda' ? [{ package: `${platform}-cuda-ext`, inside: join('fallback', file) }] : []),
  ].flatMap(({ package: name, inside }): GpuLibrary[] => {
    // The extension's files lie in a folder named like the package that it extends.
    const folder = folderOf(name)
    const path = folder === undefined ? undefined : join(folder, inside)
    return path !== undefined && existsSync(path) ? [{ package: name, path }] : []
  })
  if (candidates.length === 0) return undefined
  if (variant === 'vulkan') return firstThatLoads(variant, candidates, [])
  const fitting = fittingLibraries(platform, candidates, askNvidia())
  return 'reason' in fitting ? fitting : firstThatLoads(variant, fitting, cudaFolders())
}

/** Those of CUDA's libraries that have code for what the driver says of itself and its GPU; it is undefined without one. */
export function fittingLibraries(
  platform: string,
  candidates: readonly GpuLibrary[],
  nvidia: Nvidia | undefined,
): readonly GpuLibrary[] | GpuProblem {
  if (nvidia === undefined) {
    return {
      variant: 'cuda',
      reason: 'no NVIDIA driver that sees a GPU was found (libcuda.so.1)',
      fix: 'Install NVIDIA’s driver; in a container, give it the GPUs (for example podman run --device nvidia.com/gpu=all).',
    }
  }
  const fitting = candidates.filter(({ package: name }) => name.endsWith('-ext') || runsNewest(nvidia))
  if (fitting.length > 0) return fitting
  return {
    variant: 'cuda',
    reason: `it has no code that this GPU's driver takes (compute capability ${(nvidia.capability / 10).toFixed(1)}, driver for CUDA ${shownVersion(nvidia.cuda)})`,
    fix: `Install the package for older drivers and GPUs, with CUDA 12's runtime and cuBLAS: npm install ${platform}-cuda-ext@3.22.1. Or a driver for CUDA 13.1 (590 or newer), for GPUs from 7.5 on.`,
  }
}

/** Machine code runs on GPUs of the same generation that are no older. */
const machineCode = [86, 120]

/** True where the library made by CUDA 13.1 has code for a GPU. */
export function runsNewest({ cuda, capability }: Nvidia): boolean {
  const exact = machineCode.some(
    (made) => Math.floor(made / 10) === Math.floor(capability / 10) && capability >= made,
  )
  return exact ? cuda >= 13000 : cuda >= 13010 && capability >= 75
}

const shownVersion = (cuda: number) => `${Math.floor(cuda / 1000)}.${(cuda % 1000) / 10}`

function firstThatLoads(
  variant: string,
  candidates: readonly GpuLibrary[],
  folders: readonly string[],
): GpuLibrary | GpuProblem {
  let reason = ''
  for (const candidate of candidates) {
    const failure = loadWithNeeds(candidate.path, folders)
    if (failure === undefined) return candidate
    reason = reason === '' ? failure : `${reason}; ${failure}`
  }
  return { variant, reason: `its library does not load: ${reason}`, fix: fixes[variant]! }
}

const fixes: Readonly<Record<string, string>> = {
  cuda: 'Install the CUDA runtime and cuBLAS: version 13 for the cuda package, 12 for cuda-ext. Elsewhere than in the usual places, name their folder in LD_LIBRARY_PATH.',
  vulkan: 'Install the Vulkan loader (libvulkan1 in Debian and Ubuntu, vulkan-loader in Fedora).',
}

/** Libraries that one may need of its own; a bound on the search, not a count. */
const needsMax = 8

/** Loads a library and, from `folders`, what the system does not find for it. Says why when that fails. */
function loadWithNeeds(path: string, folders: readonly string[]): string | undefined {
  for (let found = 0; found < needsMax; found++) {
    const failure = loadFailure(path)
    // glibc: libcudart.so.13: cannot open shared object file: No such file or directory
    const missing = failure && /(\S+\.so[.\d]*): cannot open shared object/.exec(failure)?.[1]
    if (!missing) return failure
    const place = folders.map((folder) => join(folder, missing)).find((candidate) => existsSync(candidate))
    if (place === undefined) return `${missing} is missing`
    const nested = loadWithNeeds(place, [dirname(place), ...folders.filter((one) => one !== dirname(place))])
    if (nested !== undefined) return nested
  }
  return 'it needs too many libraries'
}

/** VkResult of a loader that found no driver. */
const incompatibleDriver = -9

/** Why ggml took a library that loads and made no backend of it, or one without a device. */
export function refusal({ package: name }: GpuLibrary, variant: string): GpuProblem {
  const result = variant === 'vulkan' ? vulkanResult() : undefined
  if (result === undefined || result === 0) {
    const fix =
      'Vulkan’s drivers that compute on the CPU (llvmpipe) count only where GGML_VK_VISIBLE_DEVICES=0 asks for them.'
    const reason = `ggml found no GPU through the library of ${name}`
    return { variant, reason, ...(variant === 'vulkan' && { fix }) }
  }
  const what = result === incompatibleDriver ? 'finds no driver for a GPU' : `failed (VkResult ${result})`
  return {
    variant,
    reason: `Vulkan's loader ${what}`,
    fix: 'Install the GPU’s Vulkan driver (mesa-vulkan-drivers; NVIDIA’s with its graphics libraries, in a container NVIDIA_DRIVER_CAPABILITIES=all). VK_DRIVER_FILES names its .json where it lies elsewhere. vulkaninfo shows what the loader sees.',
  }
}

/** What vkCreateInstance answers; undefined where it cannot be asked. */
function vulkanResult(): number | undefined {
  try {
    const loader = koffi.load(process.platform === 'win32' ? 'vulkan-1.dll' : 'libvulkan.so.1')
    // VkInstanceCreateInfo: its type is 1, everything else may be zero; 64 bytes where pointers have eight.
    const information = new Int32Array(16)
    information[0] = 1
    const instance = new BigUint64Array(1)
    const create = 'int vkCreateInstance(void* information, void* allocator, void* instance)'
    const result = loader.func(create)(information, null, instance) as number
    if (result === 0)
      loader.func('void vkDestroyInstance(uint64_t instance, void* allocator)')(instance[0]!, null)
    return result
  } catch {
    // Without a loader the library would not have loaded: on another system it has another name.
    return undefined
  }
}

/** Where CUDA's libraries lie when the system's loader does not know them. */
function cudaFolders(): string[] {
  const { CUDA_HOME, CUDA_PATH, VIRTUAL_ENV, CONDA_PREFIX } = process.env
  const homes = [CUDA_HOME, CUDA_PATH, ...insideOf('/usr/local', /^cuda/), '/opt/cuda']
  const python = [VIRTUAL_ENV, CONDA_PREFIX].flatMap((prefix) => pythonFolders(prefix))
  const toolkits = homes.flatMap((home) =>
    home ? [join(home, 'lib64'), join(home, 'targets', 'x86_64-linux', 'lib')] : [],
  )
  return [...toolkits, ...python].filter((folder) => existsSync(folder))
}

/** PyTorch brings CUDA as packages: site-packages/nvidia/cu13/lib, or one folder a library. */
function pythonFolders(prefix: string | undefined): string[] {
  if (!prefix) return []
  return insideOf(join(prefix, 'lib'), /^python3/)
    .flatMap((python) => insideOf(join(python, 'site-packages', 'nvidia'), /./))
    .map((part) => join(part, 'lib'))
}

function insideOf(folder: string, name: RegExp): string[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter((entry) => name.test(entry))
    .map((entry) => join(folder, entry))
}

/** CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR (cuda.h). */
const [capabilityMajor, capabilityMinor] = [75, 76]

function askNvidia(): Nvidia | undefined {
  try {
    const driver = koffi.load(process.platform === 'win32' ? 'nvcuda.dll' : 'libcuda.so.1')
    const numberOf = (ask: (into: Int32Array) => number) => {
      const into = new Int32Array(1)
      return ask(into) === 0 ? into[0]! : undefined
    }
    const attribute = driver.func('int cuDeviceGetAttribute(void* into, int attribute, int device)')
    if (driver.func('int cuInit(unsigned int flags)')(0) !== 0) return undefined
    const cuda = numberOf((into) => driver.func('int cuDriverGetVersion(void* into)')(into))
    const first = numberOf((into) => driver.func('int cuDeviceGet(void* into, int ordinal)')(into, 0))
    if (cuda === undefined || first === undefined) return undefined
    const major = numberOf((into) => attribute(into, capabilityMajor, first))
    const minor = numberOf((into) => attribute(into, capabilityMinor, first))
    if (major === undefined || minor === undefined) return undefined
    return { cuda, capability: 10 * major + minor }
  } catch {
    // No driver is no fault: the machine has no NVIDIA GPU.
    return undefined
  }
}
