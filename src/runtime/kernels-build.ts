/**
 * Compiles native/ on first use, when a C++ compiler is there, and keeps the result in the cache folder
 * under a hash of everything that went into it. Never by an install script, never through a shell.
 */
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
import { basename, dirname, join } from 'node:path'
import { messageOf, UserError } from '../base/errors.ts'
import { ownFile, userCacheFolder } from '../base/files.ts'
import { isRunning } from '../base/processes.ts'
import { type Compiler, compileLimitMs, findCompiler, knowsInstructions, runSideBySide } from './compiler.ts'
import {
  everyUnit,
  featuresHere,
  flagsOf,
  instructionSets,
  units,
  unitsFor,
  unitsKnown,
} from './instruction-sets.ts'
import {
  buildName,
  cameAlong,
  folderOfPackage,
  type KeptLibrary,
  libraryName,
  madeHere,
  sourcesOf,
  wholeIn,
  writeMade,
} from './kernels-kept.ts'

export type KernelBuild =
  | {
      ok: true
      path: string
      compiler: string
      cached: boolean
      tookMs: number
      /** Units that it lacks: the compiler is too old to know their instructions, or see `alongFrom`. */
      leftOut: readonly string[]
      /** The folder of libraries in which it was found, where no compiler of this machine made it. */
      alongFrom: string | undefined
      /** What $CXX names, where that does not answer and another compiler did the work. */
      passedOver: string | undefined
    }
  | { ok: false; reason: string; fix: string }
type Kept = Extract<KernelBuild, { ok: true }>

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
    const kept = madeHere(kernelCacheFolder(), source, compiler, chosen)
    return kept === undefined && ofPackage(source, chosen, []) === undefined
  } catch {
    return false // no folder to keep them in, as buildKernels says
  }
}

export function kernelCacheFolder(): string {
  return join(userCacheFolder(), 'kernels')
}

/**
 * The library's path: what the compiler of this machine made of these sources before, what came with the package, or what
 * is compiled now. Of the instruction sets only the best is compiled that this processor has, or those of `chosen` units.
 * Without a compiler, what another machine's compiler left in the cache folder serves too.
 */
export function buildKernels(
  cacheFolder?: string,
  chosen: readonly string[] = unitsFor(featuresHere()),
  unloadable: readonly string[] = [],
): KernelBuild {
  const source = nativeFolder()
  if (source === undefined) return withoutSources
  const compiler = findCompiler()
  try {
    const cache = cacheFolder ?? kernelCacheFolder()
    const made = compiler && madeHere(cache, source, compiler, chosen)
    if (made) return kept(made, chosen, compiler)
    const along = ofPackage(source, chosen, unloadable)
    if (along) return kept(along, chosen, undefined)
    if (compiler) return compile(compiler, source, cache, chosen)
    const other = cameAlong([folderOfPackage(source), cache], source, chosen, unloadable)
    return other ? kept(other, chosen, undefined) : withoutCompiler()
  } catch (error) {
    if (!(error instanceof UserError)) throw error
    return { ok: false, reason: `compiled kernels cannot be kept: ${error.message}`, fix: error.fix ?? '' }
  }
}

/** A library of these units in `folder`, for machines to which it is brought; compiled now if it is not there. */
export function compileKernels(folder: string, chosen: readonly string[]): KernelBuild {
  const source = nativeFolder()
  if (source === undefined) return withoutSources
  const compiler = findCompiler()
  return compiler ? compile(compiler, source, folder, chosen) : withoutCompiler()
}

const withoutSources: KernelBuild = {
  ok: false,
  reason: 'the folder native/ is missing',
  fix: 'Reinstall the ropeway package.',
}

function withoutCompiler(): KernelBuild {
  const named = process.env.CXX ? `, and CXX, '${process.env.CXX}', does not answer` : ''
  return {
    ok: false,
    reason: `there is no C++ compiler (g++ or clang++)${named}`,
    fix: 'Install one, for example: apt-get install g++.',
  }
}

/** What the package brought, if it has all that is wanted: less would be slower than what a compiler makes. */
function ofPackage(source: string, chosen: readonly string[], unloadable: readonly string[]) {
  const found = cameAlong([folderOfPackage(source)], source, chosen, unloadable)
  return found && missingIn(found, chosen).length === 0 ? found : undefined
}

function missingIn({ units = everyUnit, leftOut }: KeptLibrary, chosen: readonly string[]): string[] {
  return chosen.filter((unit) => leftOut.includes(unit) || !units.includes(unit))
}

/** `compiler`: the one of this machine, where it made the library. */
function kept(library: KeptLibrary, chosen: readonly string[], compiler: Compiler | undefined): Kept {
  const { path } = library
  const leftOut = compiler === undefined ? missingIn(library, chosen) : library.leftOut
  return {
    ...{ ok: true, path, cached: true, tookMs: 0, leftOut },
    compiler: compiler?.version ?? library.compiler ?? 'unknown',
    passedOver: compiler?.passedOver,
    alongFrom: compiler === undefined ? dirname(dirname(path)) : undefined,
  }
}

function compile(
  compiler: Compiler,
  source: string,
  cacheFolder: string,
  chosen: readonly string[],
): KernelBuild {
  const folder = join(cacheFolder, buildName(source, compiler, chosen))
  const startMs = performance.now()
  try {
    mkdirSync(cacheFolder, { recursive: true })
    using _turn = turnFor(folder)
    const others = wholeIn(folder)
    if (others) return { ...kept(others, chosen, compiler), tookMs: performance.now() - startMs }
    const failure = compileInto(folder, source, compiler, chosen)
    if (failure !== undefined) return { ok: false, reason: failure, fix: fixOf(failure) }
    return {
      ...kept(wholeIn(folder)!, chosen, compiler),
      cached: false,
      tookMs: performance.now() - startMs,
    }
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

/** Compiles beside `folder` and moves the whole result there; the text of a failure, or undefined. */
function compileInto(
  folder: string,
  source: string,
  compiler: Compiler,
  chosen: readonly string[],
): string | undefined {
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
    writeMade(temporary, { leftOut, units: chosen, sources: sourcesOf(source), compiler: compiler.version })
    moveUnlessThere(temporary, folder)
    return undefined
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
