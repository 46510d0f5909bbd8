import { spawn, spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { kernelFinding } from '../../src/cli/commands/doctor.ts'
import { findCompiler } from '../../src/runtime/compiler.ts'
import {
  everyUnit,
  featuresHere,
  flagsOf,
  instructionSets,
  setsFor,
  setsOf,
  unitsFor,
  unitsKnown,
} from '../../src/runtime/instruction-sets.ts'
import { Kernels, openKernels, plainNote } from '../../src/runtime/kernels.ts'
import { buildKernels, type KernelBuild, nativeFolder } from '../../src/runtime/kernels-build.ts'
import { buildName } from '../../src/runtime/kernels-kept.ts'
import { libraryCompiler, shellCompiler } from './compilers.ts'
import { functionsWith, loopsWith } from './machine-code.ts'
import { everyKernels } from './tensors.ts'

const scratch = mkdtempSync(join(tmpdir(), 'ropeway-build-'))
const cxx = process.env.CXX
const path = process.env.PATH
const kernelsModule = fileURLToPath(new URL('../../src/runtime/kernels.ts', import.meta.url))
const tsx = import.meta.resolve('tsx')
let cache = ''
let runs = 0

function restore(): void {
  if (cxx === undefined) delete process.env.CXX
  else process.env.CXX = cxx
  process.env.PATH = path
}

beforeEach(() => {
  restore()
  cache = join(scratch, `cache${++runs}`)
})

afterAll(() => {
  restore()
  rmSync(scratch, { recursive: true, force: true, maxRetries: 9 })
})

const compilerOf = (name: string, version: string, lines: string) =>
  shellCompiler(join(scratch, name), version, lines)
const readyCompiler = (version?: string) => libraryCompiler(join(scratch, 'ready-cxx'), version)

function built(build: KernelBuild): Extract<KernelBuild, { ok: true }> {
  if (!build.ok) throw new Error(build.reason)
  return build
}

test('a compiler that fails leaves a reason and what to do, and no library', () => {
  process.env.CXX = compilerOf('broken-cxx', 'broken 1.0', 'echo "no such thing" >&2; exit 1')
  const build = buildKernels(cache)
  expect(build).toMatchObject({
    ok: false,
    reason: expect.stringMatching(/broken-cxx failed: no such thing/),
  })
  expect(build).toMatchObject({ fix: expect.stringContaining('ROPEWAY_KERNELS=ggml') })
  expect(readdirSync(cache)).toEqual([])
})

test('a compiler that fails without a word, and a full disk, are told as that', () => {
  process.env.CXX = compilerOf('silent-cxx', 'silent 1.0', 'exit 3')
  expect(buildKernels(cache)).toMatchObject({
    ok: false,
    reason: expect.stringMatching(/silent-cxx failed: it ended with 3 and said nothing$/),
  })
  process.env.CXX = compilerOf(
    'full-cxx',
    'full 1.0',
    'echo "cannot write: No space left on device" >&2; exit 1',
  )
  expect(buildKernels(cache)).toMatchObject({ fix: expect.stringMatching(/^Free some space.*TMPDIR/) })
})

test.skipIf(process.getuid?.() !== 0)('a user without a home gets plain ggml and is told what to set', () => {
  const compiler = compilerOf('homeless-cxx', 'homeless 1.0', 'exit 1')
  chmodSync(scratch, 0o755)
  const program = `import { openKernels } from ${JSON.stringify(kernelsModule)}
    delete process.env.HOME
    delete process.env.XDG_CACHE_HOME
    process.setuid(54321)
    process.stdout.write(JSON.stringify(openKernels(undefined)))`
  const child = spawnSync(process.execPath, ['--import', tsx, '--input-type=module', '-e', program], {
    encoding: 'utf8',
    env: { ...process.env, CXX: compiler },
  })
  expect(child.stderr).toBe('')
  expect(JSON.parse(child.stdout)).toEqual({
    reason: 'compiled kernels cannot be kept: This user has no home folder.',
    fix: expect.stringMatching(/^Set HOME, .*XDG_CACHE_HOME/),
  })
})

test('a library is named by its sources, its compiler and the words before the arguments', () => {
  const folder = join(scratch, 'sources')
  mkdirSync(folder)
  const compiler = { command: 'g++', leading: [], version: '1', passedOver: undefined }
  const names = new Set<string>()
  const add = (changed: object) => names.add(buildName(folder, { ...compiler, ...changed }))
  for (const [name, content] of [
    ['a.h', 'one'],
    ['a.h', 'two'],
    ['b.cpp', 'two'],
  ] as const) {
    writeFileSync(join(folder, name), content)
    add({})
  }
  for (const changed of [{ command: 'clang++' }, { version: '2' }, { leading: ['-m64'] }]) add(changed)
  expect(names.size).toBe(6)
  writeFileSync(join(folder, 'README.md'), 'what is not compiled')
  add({})
  expect(names.size).toBe(6)
})

test('nothing is compiled when the package is installed', () => {
  const { scripts, dependencies } = JSON.parse(
    readFileSync(join(nativeFolder()!, '..', 'package.json'), 'utf8'),
  )
  for (const name of ['preinstall', 'install', 'postinstall', 'prepare'])
    expect(scripts).not.toHaveProperty(name)
  expect(Object.keys(dependencies)).not.toContain('node-gyp')
})

test('who starts work on plain ggml is told why and what to do, but for who asked for it', () => {
  process.env.CXX = compilerOf('broken-cxx', 'broken 1.0', 'echo "no such thing" >&2; exit 1')
  expect(plainNote(openKernels(undefined, cache))).toMatch(
    /^Plain ggml computes, several times slower .*broken-cxx failed: no such thing\. Set CXX to another compiler/,
  )
  expect(plainNote(openKernels('ggml', cache))).toBeUndefined()
})

test('without a compiler plain ggml works, and doctor says what is missing and what it would bring', () => {
  process.env.PATH = scratch
  process.env.CXX = join(scratch, 'nobody')
  const status = openKernels(undefined, cache)
  expect(status.kernels).toBeUndefined()
  const { ok, found, fix } = kernelFinding(status)
  expect(ok).toBe(false)
  expect(found).toMatch(/plain ggml: there is no C\+\+ compiler .*, and CXX, '.*nobody', does not answer$/)
  expect(fix).toMatch(/apt-get install g\+\+.*several times as fast/)
  expect(() => openKernels('portable', cache)).toThrow(
    /asks for the portable kernels, but there is no C\+\+ compiler/,
  )
})

test('ROPEWAY_KERNELS=ggml takes no kernels, and a set that does not exist is refused by name', () => {
  expect(openKernels('ggml', cache)).toMatchObject({ kernels: undefined, reason: 'ROPEWAY_KERNELS=ggml' })
  expect(() => openKernels('mmx', cache)).toThrow("ROPEWAY_KERNELS is 'mmx', which is no set of kernels.")
})

describe.skipIf(everyKernels.length === 0)('the cache of compiled kernels', () => {
  test('each set that the machine has can be forced, and a set that it lacks is an error', () => {
    process.env.CXX = readyCompiler()
    const { available } = everyKernels[0]!
    for (const set of instructionSets) {
      if (available.includes(set)) {
        expect(openKernels(set, cache).kernels?.instructionSet).toBe(set)
      } else {
        expect(() => openKernels(set, cache)).toThrow(`This machine does not run the ${set} kernels.`)
      }
    }
    expect(openKernels('', cache).kernels?.instructionSet).toBe(available[0])
  })

  test('what was built is found again, and each version of a compiler has its own', () => {
    process.env.CXX = readyCompiler()
    const first = built(buildKernels(cache))
    expect(first.cached).toBe(false)
    expect(built(buildKernels(cache))).toMatchObject({ cached: true, path: first.path })
    readyCompiler('ready 2.0')
    const second = built(buildKernels(cache))
    expect(second).toMatchObject({ cached: false, compiler: 'ready 2.0' })
    expect(second.path).not.toBe(first.path)
  })

  test('CXX is a path with spaces, or a command with arguments, and one that does not answer is told', () => {
    const spaced = join(scratch, 'my tools')
    mkdirSync(spaced)
    const ready = readyCompiler()
    const compiler = join(spaced, 'my c++')
    renameSync(ready, compiler)
    process.env.CXX = compiler
    cache = join(spaced, 'cache')
    const status = openKernels(undefined, cache)
    expect(status).toMatchObject({ compiler: 'ready 1.0', passedOver: undefined })
    expect(kernelFinding(status).fix).toBeUndefined()
    // As `ccache g++` does, it hands its arguments on.
    process.env.CXX = `${compilerOf('launcher', 'no compiler', 'exec "$@"')} ${readyCompiler('ready 3.0')}`
    const launched = built(buildKernels(cache))
    expect(launched).toMatchObject({ cached: false, compiler: 'ready 3.0', passedOver: undefined })
    renameSync(readyCompiler('ready 4.0'), join(spaced, 'g++'))
    process.env.PATH = `${spaced}:${path}`
    process.env.CXX = 'no-such-compiler --fast'
    const other = openKernels(undefined, cache)
    expect(other).toMatchObject({ compiler: 'ready 4.0', passedOver: 'no-such-compiler --fast' })
    expect(kernelFinding(other)).toMatchObject({
      ok: true,
      fix: "CXX is 'no-such-compiler --fast', which does not answer to --version; this compiler was taken instead.",
    })
  })

  test('a library that was cut short is not loaded but built anew', () => {
    process.env.CXX = readyCompiler()
    const { path } = built(buildKernels(cache))
    truncateSync(path, 100_000)
    const again = built(buildKernels(cache))
    expect(again).toMatchObject({ cached: false, path })
    expect(openKernels(undefined, cache).kernels?.path).toBe(path)
  })

  test('a build that stopped half way is done anew, and its folder goes after a while', () => {
    process.env.CXX = readyCompiler()
    const { path } = built(buildKernels(cache))
    rmSync(path)
    const folder = dirname(path)
    const abandoned = [`${folder}.aaaaaa`, `${folder}.bbbbbb`] as const
    for (const left of abandoned) {
      mkdirSync(left)
      writeFileSync(join(left, 'library.o'), '')
    }
    utimesSync(abandoned[0], 1, 1)
    expect(built(buildKernels(cache))).toMatchObject({ cached: false, path })
    expect(existsSync(path)).toBe(true)
    expect(abandoned.map((left) => existsSync(left))).toEqual([false, true])
  })

  test('a note of a process that ended, or had the same number, holds nobody up', () => {
    process.env.CXX = readyCompiler()
    const { path } = built(buildKernels(cache))
    for (const pid of [spawnSync('true').pid, process.pid]) {
      rmSync(path)
      writeFileSync(`${dirname(path)}.turn`, `${pid}`)
      expect(built(buildKernels(cache)).cached).toBe(false)
      expect(readdirSync(cache)).toHaveLength(1)
    }
  })

  test('of two processes that build at once one compiles, and both end with a whole library', async () => {
    process.env.CXX = readyCompiler()
    const module = fileURLToPath(new URL('../../src/runtime/kernels-build.ts', import.meta.url))
    const program = `import { buildKernels } from ${JSON.stringify(module)}
      process.stdout.write(JSON.stringify(buildKernels(${JSON.stringify(cache)})))`
    const outputs = await Promise.all(
      [0, 1].map(
        () =>
          new Promise<string>((resolve, reject) => {
            const child = spawn(process.execPath, ['--import', tsx, '--input-type=module', '-e', program])
            let text = ''
            child.stdout.on('data', (data: Buffer) => {
              text += data.toString()
            })
            child.on('error', reject)
            child.on('close', () => resolve(text))
          }),
      ),
    )
    const [one, two] = outputs.map((text) => built(JSON.parse(text)))
    expect(one!.path).toBe(two!.path)
    expect([one!.cached, two!.cached].sort()).toEqual([false, true])
    expect(readdirSync(cache)).toHaveLength(1)
    expect(built(buildKernels(cache)).cached).toBe(true)
  })

  test('a home that cannot be written leaves plain ggml, and says which folder and what to do', () => {
    process.env.CXX = readyCompiler()
    const file = join(scratch, 'a-file')
    writeFileSync(file, '')
    const status = openKernels(undefined, join(file, 'kernels'))
    expect(status).toMatchObject({
      kernels: undefined,
      reason: expect.stringContaining(`cannot be kept in ${join(file, 'kernels')}`),
      fix: expect.stringContaining('XDG_CACHE_HOME'),
    })
  })

  test('a library that is none leaves plain ggml', () => {
    process.env.CXX = compilerOf('wrong-cxx', 'wrong 1.0', 'for last; do :; done\necho wrong > "$last"')
    const status = openKernels(undefined, cache)
    expect(status).toMatchObject({ kernels: undefined, reason: expect.stringContaining('cannot be loaded') })
  })
})

describe('a processor gets the sets of instructions that it runs', () => {
  const zen3 = new Set(['avx2', 'fma', 'f16c'])
  const alderLake = new Set([...zen3, 'avx_vnni'])
  const zen4 = new Set([...zen3, 'avx512f', 'avx512bw', 'avx512vl', 'avx512dq', 'avx512_vnni', 'avx512_bf16'])
  const sapphireRapids = new Set([...zen4, 'avx_vnni', 'amx_tile', 'amx_int8', 'amx_bf16'])
  const tables = (units: readonly string[]) => units.filter((unit) => unit.startsWith('isa_')).toSorted()

  test.skipIf(process.arch !== 'x64')('the best that the processor says it has, or the wanted one', () => {
    const portable = ['isa_portable.cpp', 'isa_portable_training.cpp']
    const avx2 = ['isa_avx2.cpp', 'isa_avx2_training.cpp']
    const avx512 = ['isa_avx512.cpp', 'isa_avx512_training.cpp']
    const amx = ['isa_amx.cpp', ...avx512]
    expect(tables(unitsFor(new Set()))).toEqual(portable)
    expect(tables(unitsFor(zen3))).toEqual(avx2)
    expect(tables(unitsFor(alderLake))).toEqual([...avx2, 'isa_avxvnni.cpp'])
    expect(tables(unitsFor(zen4))).toEqual(avx512)
    expect(tables(unitsFor(sapphireRapids))).toEqual(amx)
    expect(tables(unitsFor(sapphireRapids, 'avx2'))).toEqual(avx2)
    expect(tables(unitsFor(undefined))).toEqual([...amx, ...avx2, 'isa_avxvnni.cpp', ...portable].toSorted())
    expect(setsFor(sapphireRapids)).toEqual(['amx', 'avx512', 'avxvnni', 'avx2', 'portable'])
    expect(setsFor(zen3)).toEqual(['avx2', 'portable'])
    expect(setsFor(undefined)).toBeUndefined()
    expect(setsOf(everyUnit)).toEqual(['amx', 'avx512', 'avxvnni', 'avx2', 'portable'])
  })

  test.skipIf(process.arch !== 'x64')('the next best, where the compiler is too old for it', () => {
    const old = (unit: string) => !/avx512|amx|avxvnni/.test(unit)
    expect(tables(unitsKnown(unitsFor(zen4), old))).toEqual(['isa_avx2.cpp', 'isa_avx2_training.cpp'])
    expect(tables(unitsKnown(unitsFor(zen3), old))).toEqual(['isa_avx2.cpp', 'isa_avx2_training.cpp'])
    const noTiles = (unit: string) => !/amx/.test(unit)
    expect(tables(unitsKnown(unitsFor(sapphireRapids), noTiles))).toEqual(tables(unitsFor(zen4)))
    expect(unitsKnown(everyUnit, () => true)).toEqual(everyUnit)
    // Half a set is none.
    const noTraining = (unit: string) => unit !== 'isa_avx512_training.cpp'
    expect(tables(unitsKnown(unitsFor(sapphireRapids), noTraining))).toEqual([
      'isa_avx2.cpp',
      'isa_avx2_training.cpp',
      'isa_avxvnni.cpp',
    ])
  })

  test.skipIf(process.arch !== 'x64')('in a library of its own, or in one that has more', () => {
    const log = join(scratch, 'chosen.log')
    process.env.CXX = compilerOf(
      'chosen-cxx',
      'chosen 1.0',
      `echo "$@" >> ${log}\nfor last; do :; done\necho library > "$last"`,
    )
    const small = built(buildKernels(cache, unitsFor(zen3)))
    const lines = readFileSync(log, 'utf8').split('\n')
    const compiled = lines.filter(
      (line) => /-c .*\/(isa_|library|pool)/.test(line) && !line.includes('-DROPEWAY_LEFT_OUT'),
    )
    expect(compiled.map((line) => /\w+\.cpp/.exec(line)?.[0]).toSorted()).toEqual([
      'isa_avx2.cpp',
      'isa_avx2_training.cpp',
      'library.cpp',
      'pool.cpp',
    ])
    expect(small.leftOut).toEqual([])
    const larger = built(buildKernels(cache, unitsFor(zen4)))
    expect(larger).toMatchObject({ cached: false })
    expect(larger.path).not.toBe(small.path)
    const whole = built(buildKernels(cache, everyUnit))
    expect(buildKernels(cache, unitsFor(sapphireRapids))).toMatchObject({ cached: true, path: whole.path })
    expect(buildKernels(cache, unitsFor(zen3))).toMatchObject({ cached: true, path: small.path })
  })
})

const real = ['g++', 'clang++'].filter((command) => spawnSync(command, ['--version']).status === 0)

test.skipIf(findCompiler() === undefined || process.arch !== 'x64')(
  'a compiler that knows neither AVX-512 nor AMX builds the rest, and doctor says so',
  () => {
    const refuse = 'case "$*" in *-mavx512*|*-mamx*|*-mavxvnni*) echo "unknown option" >&2; exit 1;; esac'
    process.env.CXX = compilerOf('old-cxx', 'old 1.0', `${refuse}\nexec ${findCompiler()!.command} "$@" -O0`)
    const { leftOut, path } = built(buildKernels(cache, everyUnit))
    expect(leftOut.toSorted()).toEqual([
      'isa_amx.cpp',
      'isa_amx_emulated.cpp',
      'isa_avx512.cpp',
      'isa_avx512_training.cpp',
      'isa_avxvnni.cpp',
    ])
    expect(new Kernels(path).available).toEqual(
      everyKernels[0]!.available.filter((set) => set === 'avx2' || set === 'portable'),
    )
    const runs512 = setsFor(featuresHere())?.includes('avx512') === true
    expect(() => openKernels('avx512', cache)).toThrow(
      runs512 ? /^This compiler is too old for the avx512 kernels: old 1\.0/ : /does not run the avx512/,
    )
    const again = openKernels(undefined, cache)
    expect(kernelFinding(again)).toMatchObject({
      ok: true,
      fix: expect.stringMatching(/too old for amx, avx512, avxvnni:/),
    })
  },
)

/** By format: instructions of the loop at the most, and how many of them may find a vector on the stack. */
const hotLoops = [
  ['PairScaled<FourBits', 315, 8],
  ['PairScaled<FiveBits', 355, 16],
  ['GroupScaled<FourBits', 315, 0],
  ['GroupScaled<FiveBits', 345, 0],
  ['BlockScaled<FourBits', 370, 8],
  ['BlockScaled<FiveBits', 400, 16],
  ['Q6KCodes', 430, 25],
] as const
// Another compiler, or another version, makes other code: what this holds to was seen to be quick with this one.
const library = everyKernels[0]?.path
const tiles =
  library !== undefined &&
  process.arch === 'x64' &&
  /^g\+\+ .* 12\.\d+\.\d+$/.test(findCompiler()?.version ?? '')
    ? functionsWith(library, 'Tile<')
    : undefined

test.skipIf(tiles === undefined)(
  'g++ 12 multiplies six rows of q8 by blocks in one stretch, with no vector on the stack',
  () => {
    const [, place] =
      [...tiles!].find(([name]) => name.includes('sharedTile<Q8Codes') && name.includes(', 2, 6>')) ?? []
    expect(place, 'a function of its own').toBeDefined()
    const stretch = loopsWith(library!, place!, 'vpdpbusd').find(({ counted }) => counted === 384)
    expect(stretch).toMatchObject({ spilled: 0 })
    expect(stretch!.instructions).toBeLessThanOrEqual(870)
  },
)

test.skipIf(tiles === undefined).each(hotLoops)(
  'g++ 12 multiplies six rows of %s in one loop, and takes no more than %i instructions and %i vectors on the stack for it',
  (format, instructionsMax, spilledMax) => {
    // Where it is inlined, g++ runs out of registers, and a prompt takes a quarter longer.
    const [, place] =
      [...tiles!].find(([name]) => name.includes(`productTile<${format}`) && name.includes(', 2, 6>')) ?? []
    expect(place, 'a function of its own').toBeDefined()
    const [loop] = loopsWith(library!, place!, 'vpdpbusd')
    expect(loop).toMatchObject({ counted: 96 })
    expect(loop!.instructions).toBeLessThanOrEqual(instructionsMax)
    expect(loop!.spilled).toBeLessThanOrEqual(spilledMax)
  },
)

test.skipIf(real.length === 0).each(real)('%s finds nothing to warn of', (command) => {
  const warn = ['-fsyntax-only', '-Wall', '-Wextra', '-Wno-missing-field-initializers']
  for (const unit of everyUnit) {
    const flags = flagsOf(unit).filter((flag) => flag !== '-w')
    const { stderr } = spawnSync(command, [...flags, ...warn, join(nativeFolder()!, unit)], {
      encoding: 'utf8',
    })
    expect(stderr).toBe('')
  }
  // Run by hand under the thread sanitiser; that it is still a program is seen here.
  const outside = join(import.meta.dirname, '..', 'outside', 'pool.cpp')
  const { stderr } = spawnSync(command, ['-std=c++20', ...warn, outside], { encoding: 'utf8' })
  expect(stderr).toBe('')
})
