/**
 * Compiles native/ on first use, when a C++ compiler is there, and keeps the result in the cache folder
 * under a hash of everything that went into it. Never by an install script, never through a shell.
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { userCacheFolder } from '../base/files.ts'

const compilers = ['g++', 'clang++', 'c++'] as const
const compileLimitMs = 120_000

// Contraction off: a fused multiply-add is written where it is meant, so that bits do not depend on how the
// compiler unrolls. No -march=native: the library picks an instruction set at run time.
const commonFlags = [
  '-O3',
  '-std=c++17',
  '-fPIC',
  '-pthread',
  '-ffp-contract=off',
  '-fno-math-errno',
  '-fno-trapping-math',
  '-w',
]

const avx2Flags = ['-mavx2', '-mfma', '-mf16c']
const avx512Flags = [
  ...avx2Flags,
  ...['-mavx512f', '-mavx512bw', '-mavx512vl', '-mavx512dq', '-mavx512vnni', '-mprefer-vector-width=512'],
]

/** The translation units and what each may use beyond the platform's oldest machine. */
const units: Readonly<Record<string, readonly string[]>> = {
  'library.cpp': [],
  'pool.cpp': ['-std=c++20'],
  'isa_portable.cpp': [],
  'isa_avx2.cpp': avx2Flags,
  'isa_avx512.cpp': avx512Flags,
  'isa_amx.cpp': [...avx512Flags, '-mamx-tile', '-mamx-int8', '-mamx-bf16'],
  'isa_amx_emulated.cpp': avx512Flags,
}

export type KernelBuild =
  | { ok: true; path: string; compiler: string; cached: boolean; tookMs: number }
  | { ok: false; reason: string; fix: string }

export interface Compiler {
  command: string
  /** First line of `--version`. */
  version: string
}

/** The first C++ compiler that answers, $CXX before the usual names. */
export function findCompiler(): Compiler | undefined {
  const wanted = process.env.CXX
  for (const command of wanted ? [wanted, ...compilers] : compilers) {
    const result = spawnSync(command, ['--version'], { encoding: 'utf8', timeout: 10_000 })
    const version = result.stdout?.split('\n')[0]?.trim()
    if (result.status === 0 && version) return { command, version }
  }
  return undefined
}

/** native/ of this package, found upward from here: src/runtime/ in a checkout, dist/ in a package. */
export function nativeFolder(): string | undefined {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    const candidate = join(folder, 'native')
    if (existsSync(join(candidate, 'library.cpp'))) return candidate
    if (dirname(folder) === folder) return undefined
  }
}

/** True when the next {@link buildKernels} has to compile, which takes a while. */
export function kernelsNeedBuilding(): boolean {
  const source = nativeFolder()
  const compiler = process.env.ROPEWAY_KERNELS === 'ggml' ? undefined : findCompiler()
  if (source === undefined || compiler === undefined) return false
  return !existsSync(join(kernelCacheFolder(), hashOf(source, compiler), libraryName()))
}

export function kernelCacheFolder(): string {
  return join(userCacheFolder(), 'kernels')
}

/** The library's path, compiled now if this source and compiler have not met before. */
export function buildKernels(cacheFolder = kernelCacheFolder()): KernelBuild {
  const source = nativeFolder()
  if (source === undefined) {
    return { ok: false, reason: 'the folder native/ is missing', fix: 'Reinstall the ropeway package.' }
  }
  const compiler = findCompiler()
  if (compiler === undefined) {
    return {
      ok: false,
      reason: 'there is no C++ compiler (g++ or clang++)',
      fix: 'Install one, for example: apt-get install g++. Until then plain ggml does the work.',
    }
  }
  const folder = join(cacheFolder, hashOf(source, compiler))
  const path = join(folder, libraryName())
  if (existsSync(path)) return { ok: true, path, compiler: compiler.version, cached: true, tookMs: 0 }
  const startMs = performance.now()
  const failure = compileInto(folder, source, compiler)
  if (failure !== undefined) {
    return { ok: false, reason: failure, fix: 'Set CXX to another compiler, or ROPEWAY_KERNELS=ggml.' }
  }
  return { ok: true, path, compiler: compiler.version, cached: false, tookMs: performance.now() - startMs }
}

function libraryName(): string {
  return process.platform === 'darwin' ? 'libropeway.dylib' : 'libropeway.so'
}

function flagsOf(unit: string): readonly string[] {
  return [...commonFlags, ...units[unit]!.filter((flag) => process.arch === 'x64' || !flag.startsWith('-m'))]
}

function hashOf(source: string, compiler: Compiler): string {
  const hash = createHash('sha256')
  const parts = [process.platform, process.arch, compiler.command, compiler.version]
  for (const unit of Object.keys(units)) parts.push(unit, ...flagsOf(unit))
  for (const part of parts) hash.update(part).update('\0')
  for (const name of readdirSync(source).sort()) {
    if (/\.(h|cpp)$/.test(name))
      hash
        .update(name)
        .update('\0')
        .update(readFileSync(join(source, name)))
  }
  return hash.digest('hex').slice(0, 24)
}

/** Compiles beside `folder` and moves the whole result there; the text of a failure, or undefined. */
function compileInto(folder: string, source: string, compiler: Compiler): string | undefined {
  mkdirSync(dirname(folder), { recursive: true })
  const temporary = mkdtempSync(`${folder}.`)
  try {
    const names = Object.keys(units)
    const objects = names.map((unit) => join(temporary, unit.replace('.cpp', '.o')))
    const compile = names.map((unit, i) => [...flagsOf(unit), '-c', join(source, unit), '-o', objects[i]!])
    const library = join(temporary, libraryName())
    const link = ['-shared', '-pthread', ...objects, '-o', library]
    const failure = runSideBySide(compiler, compile) ?? runSideBySide(compiler, [link])
    if (failure !== undefined) return failure
    for (const object of objects) rmSync(object)
    moveUnlessThere(temporary, folder)
    return undefined
  } finally {
    rmSync(temporary, { recursive: true, force: true })
  }
}

/** Another process may have built the same library meanwhile; its copy is as good as ours. */
function moveUnlessThere(from: string, to: string): void {
  try {
    renameSync(from, to)
  } catch (error) {
    if (!existsSync(join(to, libraryName()))) throw error
  }
}

/** Runs on a thread of its own, because the caller waits without an event loop. */
const spawner = `
const { workerData } = require('node:worker_threads')
const { execFile } = require('node:child_process')
const { command, lists, timeout, shared } = workerData
const [state, text] = [new Int32Array(shared, 0, 2), new Uint8Array(shared, 8)]
const finish = (failure) => {
  if (Atomics.compareExchange(state, 0, 0, 1) !== 0) return
  state[1] = new TextEncoder().encodeInto(failure, text).written
  Atomics.store(state, 0, 2)
  Atomics.notify(state, 0)
}
let left = lists.length
for (const list of lists) {
  execFile(command, list, { timeout, maxBuffer: 1 << 24 }, (error, _, stderr) => {
    if (error) finish((stderr || error.message).trim())
    else if (--left === 0) finish('')
  })
}`

/** Runs the compiler once per list, side by side; the text of the first failure, or undefined. */
function runSideBySide(compiler: Compiler, lists: readonly (readonly string[])[]): string | undefined {
  const shared = new SharedArrayBuffer(8 + 65536)
  const state = new Int32Array(shared, 0, 2)
  const workerData = { command: compiler.command, lists, timeout: compileLimitMs, shared }
  const worker = new Worker(spawner, { eval: true, workerData })
  // Two states: 1 while the failure is being written, 2 when it can be read.
  const deadlineMs = performance.now() + compileLimitMs + 5000
  while (Atomics.load(state, 0) !== 2 && performance.now() < deadlineMs) {
    Atomics.wait(state, 0, Atomics.load(state, 0), 1000)
  }
  const done = Atomics.load(state, 0) === 2
  const text = done
    ? new TextDecoder().decode(new Uint8Array(shared, 8).slice(0, state[1]))
    : 'it took too long'
  worker.unref()
  if (text === '') return undefined
  return `${compiler.command} failed: ${text.split('\n').slice(0, 4).join(' | ')}`
}
