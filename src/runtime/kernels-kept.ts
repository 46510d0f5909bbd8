/**
 * Compiled kernels as they are kept: a folder per library, with a note of what it was made from. Which of them is the right
 * one: what the compiler of this machine made, or what came along from another machine.
 */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { hashOfFile } from '../base/files.ts'
import type { Compiler } from './compiler.ts'
import {
  everyUnit,
  featuresHere,
  flagsOf,
  setsFor,
  setsOf,
  setsOfArchitecture,
  unitsFor,
} from './instruction-sets.ts'

/** What is written beside a library once it is whole. */
export interface Made {
  /** Units that its compiler was too old to know. */
  readonly leftOut: readonly string[]
  /** The units that it was made of, and a hash of their sources and flags; older notes lack these. */
  readonly units?: readonly string[]
  readonly sources?: string
  readonly compiler?: string
}

export interface KeptLibrary extends Made {
  readonly path: string
}

const madeFile = 'made.json'

export function libraryName(): string {
  return process.platform === 'darwin' ? 'libropeway.dylib' : 'libropeway.so'
}

export function writeMade(folder: string, made: Made): void {
  const sha256 = hashOfFile(join(folder, libraryName()))
  writeFileSync(join(folder, madeFile), JSON.stringify({ sha256, ...made }))
}

function noteIn(folder: string): (Made & { sha256: string }) | undefined {
  try {
    const note = JSON.parse(readFileSync(join(folder, madeFile), 'utf8'))
    return Array.isArray(note.leftOut) ? note : undefined
  } catch {
    return undefined // not there, or not readable: made again
  }
}

/**
 * The library in `folder`, if it is there and as it was when it was written: loading a file that was cut short would
 * end the process.
 */
export function wholeIn(folder: string): KeptLibrary | undefined {
  const note = noteIn(folder)
  const path = join(folder, libraryName())
  if (note === undefined || note.sha256 !== hashIfThere(path)) return undefined
  const { sha256: _, ...made } = note
  return { ...made, path }
}

function hashIfThere(path: string): string | undefined {
  try {
    return hashOfFile(path)
  } catch {
    return undefined
  }
}

/** The name of the library that this compiler makes of units in a folder of sources. */
export function buildName(source: string, compiler: Compiler, chosen: readonly string[] = everyUnit): string {
  const hash = createHash('sha256')
  const parts = [process.platform, process.arch, compiler.command, ...compiler.leading, compiler.version]
  for (const unit of chosen) parts.push(unit, ...flagsOf(unit))
  for (const part of parts) hash.update(part).update('\0')
  addSources(hash, source)
  return hash.digest('hex').slice(0, 24)
}

/** What any compiler makes a library for this platform from: all that its results may hang on. */
export function sourcesOf(source: string): string {
  const hash = createHash('sha256')
  for (const part of [
    process.platform,
    process.arch,
    ...everyUnit.flatMap((unit) => [unit, ...flagsOf(unit)]),
  ])
    hash.update(part).update('\0')
  addSources(hash, source)
  return hash.digest('hex')
}

function addSources(hash: ReturnType<typeof createHash>, source: string): void {
  for (const name of readdirSync(source).sort()) {
    if (/\.(h|cpp)$/.test(name))
      hash
        .update(name)
        .update('\0')
        .update(readFileSync(join(source, name)))
  }
}

/** A library of these units that this compiler made, or one that has more: the processor's best set, or all. */
export function madeHere(
  cacheFolder: string,
  source: string,
  compiler: Compiler,
  chosen: readonly string[],
): KeptLibrary | undefined {
  for (const some of [chosen, unitsFor(featuresHere()), everyUnit]) {
    if (!chosen.every((unit) => some.includes(unit))) continue
    const found = wholeIn(join(cacheFolder, buildName(source, compiler, some)))
    if (found) return found
  }
  return undefined
}

/** What a package may bring along: libraries beside its sources. */
export function folderOfPackage(source: string): string {
  return join(dirname(source), 'prebuilt')
}

/**
 * A library in one of `folders` that any compiler made from these sources: one that has `chosen`, or else the best that
 * this processor runs. Of those that cannot be loaded here (another C library), `unloadable` holds the paths.
 */
export function cameAlong(
  folders: readonly string[],
  source: string,
  chosen: readonly string[],
  unloadable: readonly string[],
): KeptLibrary | undefined {
  const sources = sourcesOf(source)
  const here = setsFor(featuresHere()) ?? setsOfArchitecture
  const ranked = folders
    .flatMap((folder) => foldersIn(folder))
    .filter((folder) => !unloadable.includes(join(folder, libraryName())))
    .flatMap((folder) => {
      const note = noteIn(folder)
      if (note?.units === undefined || note.sources !== sources) return []
      const has = note.units.filter((unit) => !note.leftOut.includes(unit))
      const best = here.findIndex((set) => setsOf(has).includes(set))
      if (best < 0) return []
      return [{ folder, rank: chosen.every((unit) => has.includes(unit)) ? -1 : best }]
    })
    .toSorted((a, b) => a.rank - b.rank)
  for (const { folder } of ranked) {
    const found = wholeIn(folder)
    if (found) return found
  }
  return undefined
}

function foldersIn(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => join(folder, name))
      .sort()
  } catch {
    return [] // not there
  }
}
