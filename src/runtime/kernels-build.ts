/**
 * Compiles native/ on first use, when a C++ compiler is there, and keeps the result in the cache folder
 * under a hash of everything that went into it. Never by an install script, never through a shell.
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { messageOf, UserError } from '../base/errors.ts'
import { hashOfFile, ownFile, userCacheFolder } from '../base/files.ts'
import { isRunning } from '../base/processes.ts'
import {
  everyUnit,
  featuresHere,
  flagsOf,
  instructionSets,
  units,
  unitsFor,
  unitsKnown,
} from './instruction-sets.ts'

const compilers = ['g++', 'clang++', 'c++'] as const
const compileLimitMs = 300_000

export type KernelBuild =
  | {
      ok: true
      path: string
      compiler: string
      cached: boolean
      tookMs: number
      /** Units that need instructions which the compiler is too old to know. */
      leftOut: readonly string[]
      /** What $CXX names, where that does not answer and another compiler did the work. */
      passedOver: string | undefined
    }
  | { ok: false; reason: string; fix: string }

export interface Compiler {
  command: string
  /** What stands before all other arguments, as in `ccache g++` or `g++ -m64`. */
  leading: readonly string[]
  /** First line of `--version`. */
  version: string
  passedOver: string | undefined
}

/** The first C++ compiler that answers, $CXX before the usual names: as one path, or as a command with arguments. */
export function findCompiler(): Compiler | undefined {
  const wanted = process.env.CXX?.trim() ?? ''
  const [first = '', ...words] = wanted.split(/\s+/)
  const usual = compilers.map((command) => ({
    command,
    leading: [],
    passedOver: wanted === '' ? undefined : wanted,
  }))
  const asked = [
    { command: wanted, leading: [], passedOver: undefined },
    { command: first, leading: words, passedOver: undefined },
  ].filter(({ command }) => command !== '')
  for (const way of [...asked, ...usual]) {
    const result = spawnSync(way.command, [...way.leading, '--version'], {
      encoding: 'utf8',
      timeout: 10_000,
    })
    const version = result.stdout?.split('\n')[0]?.trim()
    if (result.status === 0 && version) return { ...way, version }
  }
  return undefined
}

export function nativeFolder(): string | undefined {
  const library = ownFile(join('native', 'library.cpp'))
  return library && dirname(library)
}

/** True when the next {@link buildKernels} has to compile, which takes a while. */
export function kernelsNeedBuilding(): boolean {
  const source = nativeFolder()
  const wanted = process.env.ROPEWAY_KERNELS
  const compiler = wanted === 'ggml' ? undefined : findCompiler()
  if (source === undefined || compiler === undefined) return false
  const chosen = unitsFor(
    featuresHere(),
    instructionSets.find((set) => set === wanted),
  )
  try {
    return foundIn(kernelCacheFolder(), source, compiler, chosen) === undefined
  } catch {
    return false // no folder to keep them in, as buildKernels says
  }
}

export function kernelCacheFolder(): string {
  return join(userCacheFolder(), 'kernels')
}

/**
 * The library's path, compiled now if this source and compiler have not met before, or what they left is not whole. Of the
 * instruction sets only the best is compiled that this processor has, or those of `chosen` units.
 */
export function buildKernels(
  cacheFolder?: string,
  chosen: readonly string[] = unitsFor(featuresHere()),
): KernelBuild {
  const source = nativeFolder()
  if (source === undefined) {
    return { ok: false, reason: 'the folder native/ is missing', fix: 'Reinstall the ropeway package.' }
  }
  const compiler = findCompiler()
  if (compiler === undefined) {
    const named = process.env.CXX ? `, and CXX, '${process.env.CXX}', does not answer` : ''
    return {
      ok: false,
      reason: `there is no C++ compiler (g++ or clang++)${named}`,
      fix: 'Install one, for example: apt-get install g++.',
    }
  }
  try {
    return buildBy(compiler, source, cacheFolder ?? kernelCacheFolder(), chosen)
  } catch (error) {
    if (!(error instanceof UserError)) throw error
    return { ok: false, reason: `compiled kernels cannot be kept: ${error.message}`, fix: error.fix ?? '' }
  }
}

function buildBy(
  compiler: Compiler,
  source: string,
  cacheFolder: string,
  chosen: readonly string[],
): KernelBuild {
  const folder = join(cacheFolder, buildName(source, compiler, chosen))
  const path = join(folder, libraryName())
  const by = { ok: true, path, compiler: compiler.version, passedOver: compiler.passedOver } as const
  const found = foundIn(cacheFolder, source, compiler, chosen)
  if (found) return { ...by, cached: true, tookMs: 0, ...found }
  const startMs = performance.now()
  try {
    mkdirSync(cacheFolder, { recursive: true })
    using _turn = turnFor(folder)
    const others = wholeIn(folder)
    if (others) return { ...by, cached: true, tookMs: performance.now() - startMs, ...others }
    const made = compileInto(folder, source, compiler, chosen)
    if (typeof made === 'string') return { ok: false, reason: made, fix: fixOf(made) }
    return { ...by, cached: false, tookMs: performance.now() - startMs, ...made }
  } catch (error) {
    return {
      ok: false,
      reason: `compiled kernels cannot be kept in ${cacheFolder}: ${messageOf(error)}`,
      fix: 'Set XDG_CACHE_HOME to a folder that can be written.',
    }
  }
}

function fixOf(failure: string): string {
  return /no space left/i.test(failure)
    ? 'Free some space (some 100 MB while it compiles), or set TMPDIR and XDG_CACHE_HOME to folders that have it.'
    : 'Set CXX to another compiler, or ROPEWAY_KERNELS=ggml.'
}

/** A library of these units, or one that has more: the processor's best set, or all. */
function foundIn(cacheFolder: string, source: string, compiler: Compiler, chosen: readonly string[]) {
  for (const some of [chosen, unitsFor(featuresHere()), everyUnit]) {
    if (!chosen.every((unit) => some.includes(unit))) continue
    const folder = join(cacheFolder, buildName(source, compiler, some))
    const made = wholeIn(folder)
    if (made) return { path: join(folder, libraryName()), ...made }
  }
  return undefined
}

/** What is written beside a library once it is whole. */
interface Made {
  leftOut: readonly string[]
}

const madeFile = 'made.json'

/**
 * What `folder` says of its library, if that is there and as it was when it was written: loading a file that
 * was cut short would end the process.
 */
function wholeIn(folder: string): Made | undefined {
  try {
    const { sha256, leftOut } = JSON.parse(readFileSync(join(folder, madeFile), 'utf8'))
    return sha256 === hashOfFile(join(folder, libraryName())) ? { leftOut } : undefined
  } catch {
    return undefined // not there, or not readable: made again
  }
}

function libraryName(): string {
  return process.platform === 'darwin' ? 'libropeway.dylib' : 'libropeway.so'
}

/** The name of the library that this compiler makes of units in a folder of sources. */
export function buildName(source: string, compiler: Compiler, chosen: readonly string[] = everyUnit): string {
  const hash = createHash('sha256')
  const parts = [process.platform, process.arch, compiler.command, ...compiler.leading, compiler.version]
  for (const unit of chosen) parts.push(unit, ...flagsOf(unit))
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

/** How often is looked whether another process is through. */
const turnPauseMs = 200

/**
 * Waits while another process of this machine compiles the same library: eight that start together would each take eight
 * times as long. A note beside the folder names who compiles; one that ended, or takes too long, is passed over.
 */
function turnFor(folder: string): Disposable {
  const note = `${folder}.turn`
  const deadlineMs = performance.now() + compileLimitMs
  const pause = new Int32Array(new SharedArrayBuffer(4))
  while (!tookTurn(note)) {
    const who = Number(readOr(note, '0'))
    // In a container that began anew, who left it may have had this process's number.
    const ended = who === process.pid || !isRunning(who)
    if (ended || performance.now() > deadlineMs) rmSync(note, { force: true })
    else Atomics.wait(pause, 0, 0, turnPauseMs)
  }
  return { [Symbol.dispose]: () => rmSync(note, { force: true }) }
}

function tookTurn(note: string): boolean {
  try {
    writeFileSync(note, `${process.pid}`, { flag: 'wx' })
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

function readOr(file: string, other: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return other // its process was through meanwhile
  }
}

/** Compiles beside `folder` and moves the whole result there; the text of a failure, or what was made. */
function compileInto(
  folder: string,
  source: string,
  compiler: Compiler,
  chosen: readonly string[],
): string | Made {
  mkdirSync(dirname(folder), { recursive: true })
  const temporary = mkdtempSync(`${folder}.`)
  try {
    removeAbandoned(temporary)
    // By flags, which units share.
    const answers = new Map<string, boolean>()
    const compiled = unitsKnown(chosen, (unit) => {
      const flags = units[unit]!
      const answer = answers.get(flags.join()) ?? knowsInstructions(compiler, flags, temporary)
      answers.set(flags.join(), answer)
      return answer
    })
    const leftOut = chosen.filter((unit) => !compiled.includes(unit))
    const objects = everyUnit.map((unit) => join(temporary, unit.replace('.cpp', '.o')))
    const compile = everyUnit.map((unit, i) => {
      const flags = flagsOf(unit, !compiled.includes(unit))
      return [...flags, '-c', join(source, unit), '-o', objects[i]!]
    })
    const library = join(temporary, libraryName())
    const link = ['-shared', '-pthread', ...objects, '-o', library]
    const failure = runSideBySide(compiler, compile) ?? runSideBySide(compiler, [link])
    if (failure !== undefined) return failure
    for (const object of objects) rmSync(object)
    writeFileSync(join(temporary, madeFile), JSON.stringify({ sha256: hashOfFile(library), leftOut }))
    moveUnlessThere(temporary, folder)
    return { leftOut }
  } finally {
    rmSync(temporary, { recursive: true, force: true })
  }
}

/** Removes what compilations left that were killed: folders like ours, far older than one takes. */
function removeAbandoned(own: string): void {
  const cache = dirname(own)
  const oldestMs = statSync(own).mtimeMs - 10 * compileLimitMs
  for (const name of readdirSync(cache)) {
    if (!/^[0-9a-f]{24}\.\w{6}$/.test(name) || name === basename(own)) continue
    const path = join(cache, name)
    // Another process that compiles may take its own away meanwhile.
    const found = statSync(path, { throwIfNoEntry: false })
    if (found !== undefined && found.mtimeMs < oldestMs) rmSync(path, { recursive: true, force: true })
  }
}

/** The youngest instruction that each set's code holds: assemblers learn them apart from compilers. */
const instructions = `
#if defined(__AMX_INT8__)
asm("tdpbssd %tmm0, %tmm1, %tmm2");
#elif defined(__AVX512VNNI__)
asm("vpdpbusd %zmm0, %zmm1, %zmm2");
#elif defined(__AVXVNNI__)
asm("{vex} vpdpbusd %ymm0, %ymm1, %ymm2");
#elif defined(__AVX2__)
asm("vpmaddubsw %ymm0, %ymm1, %ymm2");
#endif
`

/** Old compilers and assemblers do not know young instructions; the other units serve without them. */
function knowsInstructions(compiler: Compiler, flags: readonly string[], folder: string): boolean {
  if (!flags.some((flag) => flag.startsWith('-m'))) return true
  const [program, object] = [join(folder, 'probe.cpp'), join(folder, 'probe.o')]
  writeFileSync(program, instructions)
  const probe = [...compiler.leading, ...flags, '-c', program, '-o', object]
  const { status } = spawnSync(compiler.command, probe, { timeout: 30_000 })
  rmSync(program)
  rmSync(object, { force: true })
  return status === 0
}

/** Another process may have built the same library meanwhile; its copy is as good as ours. A broken one gives way. */
function moveUnlessThere(from: string, to: string): void {
  try {
    renameSync(from, to)
  } catch {
    if (wholeIn(to) !== undefined) return
    rmSync(to, { recursive: true, force: true })
    renameSync(from, to)
  }
}

/** Runs on a thread of its own, because the caller waits without an event loop. */
const spawner = `
const { workerData } = require('node:worker_threads')
const { execFile } = require('node:child_process')
const { command, lists, atOnce, timeout, shared } = workerData
const [state, text] = [new Int32Array(shared, 0, 2), new Uint8Array(shared, 8)]
const finish = (failure) => {
  if (Atomics.compareExchange(state, 0, 0, 1) !== 0) return
  state[1] = new TextEncoder().encodeInto(failure, text).written
  Atomics.store(state, 0, 2)
  Atomics.notify(state, 0)
}
let [next, left] = [0, lists.length]
const start = () => {
  if (next === lists.length) return
  execFile(command, lists[next++], { timeout, maxBuffer: 1 << 24 }, (error, _, stderr) => {
    if (error) return finish(stderr.trim() || (error.killed ? 'it took too long' : \`it ended with \${error.signal ?? error.code} and said nothing\`))
    if (--left === 0) finish('')
    else start()
  })
}
for (let i = 0; i < atOnce; i++) start()`

/** Runs the compiler once per list, as many at once as there are processors; the text of the first failure, or undefined. */
function runSideBySide(compiler: Compiler, lists: readonly (readonly string[])[]): string | undefined {
  const shared = new SharedArrayBuffer(8 + 65536)
  const state = new Int32Array(shared, 0, 2)
  const { command, leading } = compiler
  const workerData = {
    command,
    lists: lists.map((list) => [...leading, ...list]),
    atOnce: availableParallelism(),
    timeout: compileLimitMs,
    shared,
  }
  // No loaders in there: they might wait for this thread.
  const worker = new Worker(spawner, { eval: true, workerData, execArgv: [] })
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
