/** What a processor runs of our kernels, and which files of native/ make that. */
import { readFileSync } from 'node:fs'

export const instructionSets = ['portable', 'neon', 'avx2', 'avxvnni', 'avx512', 'amx'] as const
export type InstructionSet = (typeof instructionSets)[number]

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

/** The translation units and what each may use beyond the platform's oldest machine. Those that take longest come first. */
export const units: Readonly<Record<string, readonly string[]>> = {
  ...(process.arch === 'x64' && {
    'isa_avx512.cpp': avx512Flags,
    'isa_amx.cpp': [...avx512Flags, '-mamx-tile', '-mamx-int8', '-mamx-bf16'],
    // One row of codes is a short loop: at an unlucky place it took a fifth longer.
    'isa_avx2.cpp': [...avx2Flags, '-falign-loops=32'],
    'isa_avx512_training.cpp': avx512Flags,
    'isa_avxvnni.cpp': [...avx2Flags, '-mavxvnni', '-falign-loops=32'],
    // For tests alone: they need no speed, and the bits are the same.
    'isa_amx_emulated.cpp': [...avx512Flags, '-O1'],
    'isa_avx2_training.cpp': avx2Flags,
  }),
  ...(process.arch === 'arm64' && {
    'isa_neon.cpp': [],
    'isa_neon_dot.cpp': ['-march=armv8.2-a+dotprod'],
    'isa_neon_training.cpp': [],
    'isa_neon_dot_training.cpp': ['-march=armv8.2-a+dotprod'],
  }),
  'isa_portable.cpp': [],
  'isa_portable_training.cpp': [],
  'pool.cpp': ['-std=c++20'],
  'library.cpp': [],
}

export const everyUnit: readonly string[] = Object.keys(units)

export function flagsOf(unit: string, leftOut = false): readonly string[] {
  return leftOut ? [...commonFlags, '-DROPEWAY_LEFT_OUT'] : [...commonFlags, ...units[unit]!]
}

/** One set of instructions: its units, and what Linux calls the features that they need. */
interface OneSet {
  set: InstructionSet
  units: readonly string[]
  needs: readonly string[]
}

const avx2Needs = ['avx2', 'fma', 'f16c']
const avx512Needs = [...avx2Needs, 'avx512f', 'avx512bw', 'avx512vl', 'avx512dq', 'avx512_vnni']
const avx2Units = ['isa_avx2.cpp', 'isa_avx2_training.cpp']
const avx512Units = ['isa_avx512.cpp', 'isa_avx512_training.cpp']

/** Best first. */
const sets: readonly OneSet[] = [
  ...(process.arch === 'x64'
    ? ([
        {
          set: 'amx',
          // What tiles do not serve is left to AVX-512.
          units: ['isa_amx.cpp', ...avx512Units],
          needs: [...avx512Needs, 'amx_tile', 'amx_int8', 'amx_bf16'],
        },
        { set: 'avx512', units: avx512Units, needs: avx512Needs },
        // Processors with AVX2 alone, but for products of bytes: Intel's for laptops since 2021.
        { set: 'avxvnni', units: ['isa_avxvnni.cpp', ...avx2Units], needs: [...avx2Needs, 'avx_vnni'] },
        { set: 'avx2', units: avx2Units, needs: avx2Needs },
      ] as const)
    : []),
  ...(process.arch === 'arm64'
    ? ([
        {
          set: 'neon',
          // With and without products of bytes: the library asks the system.
          units: everyUnit.filter((unit) => unit.startsWith('isa_neon')),
          needs: [],
        },
      ] as const)
    : []),
  { set: 'portable', units: ['isa_portable.cpp', 'isa_portable_training.cpp'], needs: [] },
]

/** Linux's names for what a processor has. */
export type Features = ReadonlySet<string>

/** The sets that there are for this architecture. */
export const setsOfArchitecture: readonly InstructionSet[] = sets.map(({ set }) => set)

/** Undefined on systems that do not say. */
export function featuresHere(): Features | undefined {
  try {
    // Under an emulator the file may tell of the processor beneath, which calls it by another name.
    const name = process.arch === 'arm64' ? 'Features' : 'flags'
    const line = new RegExp(`^${name}\\s*:(.*)$`, 'm').exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]
    return line === undefined ? undefined : new Set(line.trim().split(/\s+/))
  } catch {
    return undefined // another system
  }
}

/** The sets that a processor with these features runs, best first; undefined where they are not known. */
export function setsFor(features: Features | undefined): InstructionSet[] | undefined {
  if (features === undefined) return undefined
  return sets.filter(({ needs }) => needs.every((feature) => features.has(feature))).map(({ set }) => set)
}

/**
 * What is compiled for a processor with these features: the wanted set, or its best. All sets where features are not
 * known; emulated tiles are for tests alone.
 */
export function unitsFor(features: Features | undefined, wanted?: InstructionSet): string[] {
  const best = wanted ?? setsFor(features)?.[0]
  const chosen = sets.filter(({ set }) => best === undefined || set === best).flatMap(({ units }) => units)
  return everyUnit.filter((unit) => !unit.startsWith('isa_') || chosen.includes(unit))
}

/**
 * What to compile of `chosen` by a compiler that knows only some of it: whole sets alone, and where none is left, the next
 * best that it knows.
 */
export function unitsKnown(chosen: readonly string[], knows: (unit: string) => boolean): string[] {
  const highest = sets.findIndex(({ units }) => units.every((unit) => chosen.includes(unit)))
  const known = sets.filter(({ units }, at) => at >= highest && units.every(knows))
  const wanted = known.filter(({ units }) => units.every((unit) => chosen.includes(unit)))
  const kept = (wanted.length > 0 ? wanted : known.slice(0, 1)).flatMap(({ units }) => units)
  const ofSets = sets.flatMap(({ units }) => units)
  return everyUnit.filter((unit) =>
    ofSets.includes(unit) ? kept.includes(unit) : chosen.includes(unit) && knows(unit),
  )
}

/** The sets that units belong to, best first. */
export function setsOf(some: readonly string[]): string[] {
  return sets.filter(({ units }) => some.includes(units[0]!)).map(({ set }) => set)
}
