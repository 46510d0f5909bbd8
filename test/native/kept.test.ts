/** Kernels that were compiled elsewhere: in an image's first stage, or for a package. */
import { spawnSync } from 'node:child_process'
import {
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { afterAll, beforeEach, describe, expect, test } from 'vitest'
import { hashOfFile } from '../../src/base/files.ts'
import { runnerOf } from '../../src/base/processes.ts'
import { kernelFinding } from '../../src/cli/commands/doctor.ts'
import { featuresHere, setsFor, setsOfArchitecture, unitsFor } from '../../src/runtime/instruction-sets.ts'
import { openKernels } from '../../src/runtime/kernels.ts'
import { compileKernels } from '../../src/runtime/kernels-build.ts'
import { libraryCompiler, shellCompiler } from './compilers.ts'
import { everyKernels } from './tensors.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const scratch = mkdtempSync(join(tmpdir(), 'ropeway-kept-'))
const before = { CXX: process.env.CXX, PATH: process.env.PATH }
const best = (setsFor(featuresHere()) ?? setsOfArchitecture)[0]!
let cache = ''
let runs = 0

function restore(): void {
  for (const [name, value] of Object.entries(before))
    if (value === undefined) delete process.env[name]
    else process.env[name] = value
}

beforeEach(() => {
  restore()
  cache = join(scratch, `cache${++runs}`)
})

afterAll(() => {
  restore()
  rmSync(scratch, { recursive: true, force: true, maxRetries: 9 })
})

/** Compiles as another machine would, and leaves this one without a compiler. */
function compiledElsewhere(units: readonly string[], version?: string): string {
  process.env.PATH = before.PATH
  process.env.CXX = libraryCompiler(join(scratch, 'ready-cxx'), version)
  const build = compileKernels(cache, units)
  if (!build.ok) throw new Error(build.reason)
  process.env.PATH = scratch
  delete process.env.CXX
  return build.path
}

function editNote(library: string, change: object): void {
  const path = join(dirname(library), 'made.json')
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...change }))
}

/** By another file of the same name: this process may have loaded the whole one. */
function cutShort(library: string): void {
  writeFileSync(`${library}.short`, readFileSync(library).subarray(0, 100_000))
  renameSync(`${library}.short`, library)
}

describe.skipIf(everyKernels.length === 0)('without a compiler, what was compiled elsewhere', () => {
  test('serves with the best set of this processor, or the one that is forced, and says where it comes from', () => {
    const path = compiledElsewhere(unitsFor(undefined))
    const status = openKernels(undefined, cache)
    expect(status).toMatchObject({ compiler: 'ready 1.0', tookMs: 0, leftOut: [], alongFrom: cache })
    expect([status.kernels?.path, status.kernels?.instructionSet]).toEqual([path, best])
    const finding = kernelFinding(status)
    expect(finding).toMatchObject({ ok: true, found: expect.stringContaining(`(ready 1.0, from ${cache})`) })
    expect(finding.fix).toBeUndefined()
    expect(openKernels('portable', cache).kernels?.instructionSet).toBe('portable')
  })

  test.skipIf(best === 'portable')('serves with less where it has no more, and says what is missing', () => {
    const path = compiledElsewhere(unitsFor(featuresHere(), 'portable'))
    const status = openKernels(undefined, cache)
    expect(status.kernels?.path).toBe(path)
    expect(kernelFinding(status).fix).toMatch(new RegExp(`have none for .*${best}.*kernels build --all`))
    expect(() => openKernels(best, cache)).toThrow(`compiled elsewhere, have none for ${best}.`)
    const whole = compiledElsewhere(unitsFor(undefined), 'ready 2.0')
    expect(openKernels(undefined, cache).kernels?.path).toBe(whole)
    expect(openKernels(best, cache).kernels?.instructionSet).toBe(best)
  })

  test('is not taken when it is of other sources, older than such notes, or cut short', () => {
    const path = compiledElsewhere(unitsFor(undefined))
    const note = readFileSync(join(dirname(path), 'made.json'), 'utf8')
    for (const change of [{ sources: 'others' }, { sources: undefined, units: undefined }]) {
      editNote(path, change)
      expect(openKernels(undefined, cache)).toMatchObject({
        reason: expect.stringMatching(/^there is no C\+\+ compiler/),
      })
      writeFileSync(join(dirname(path), 'made.json'), note)
    }
    expect(openKernels(undefined, cache).kernels?.path).toBe(path)
    const other = compiledElsewhere(unitsFor(featuresHere()), 'ready 3.0')
    cutShort(other)
    expect(openKernels(undefined, cache).kernels?.path).toBe(path)
    cutShort(path)
    expect(openKernels(undefined, cache).kernels).toBeUndefined()
  })

  test('is passed over when it cannot be loaded here', () => {
    const path = compiledElsewhere(unitsFor(undefined))
    writeFileSync(path, 'for another C library')
    editNote(path, { sha256: hashOfFile(path) })
    expect(openKernels(undefined, cache)).toMatchObject({
      kernels: undefined,
      reason: expect.stringMatching(
        /^there is no C\+\+ compiler .*, and .*, compiled elsewhere, cannot be loaded: /,
      ),
    })
    const other = compiledElsewhere(unitsFor(undefined), 'ready 2.0')
    expect(openKernels(undefined, cache).kernels?.path).toBe(other)
  })

  test('does not stand in for what the compiler of this machine makes', () => {
    compiledElsewhere(unitsFor(undefined))
    process.env.PATH = before.PATH
    process.env.CXX = libraryCompiler(join(scratch, 'own-cxx'), 'own 1.0')
    expect(openKernels(undefined, cache)).toMatchObject({ compiler: 'own 1.0', alongFrom: undefined })
  })
})

test.skipIf(everyKernels.length === 0)('what a package brings is compiled by no one', () => {
  const copy = join(scratch, 'package')
  for (const part of ['src', 'native', 'package.json'])
    cpSync(join(root, part), join(copy, part), { recursive: true })
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  const main = join(copy, 'src/cli/main.ts')
  const tsx = ['--import', import.meta.resolve('tsx')]
  const environment = { ...process.env, XDG_CACHE_HOME: cache }
  const made = spawnSync(
    process.execPath,
    [...runnerOf(main), main, 'kernels', 'build', '--all', '--into', join(copy, 'prebuilt')],
    { encoding: 'utf8', env: { ...environment, CXX: libraryCompiler(join(scratch, 'ready-cxx')) } },
  )
  expect([made.status, made.stderr]).toEqual([0, ''])
  expect(made.stdout).toMatch(/^\S.*portable \(ready 1\.0\) in .*prebuilt.*, in \d+ s\n$/)
  expect(readdirSync(join(copy, 'prebuilt'))).toHaveLength(1)
  const program = `import { openKernels } from ${JSON.stringify(pathToFileURL(join(copy, 'src/runtime/kernels.ts')))}
    import { kernelsNeedBuilding } from ${JSON.stringify(pathToFileURL(join(copy, 'src/runtime/kernels-build.ts')))}
    const waits = kernelsNeedBuilding()
    const { alongFrom, kernels, reason } = openKernels(undefined)
    process.stdout.write(JSON.stringify({ waits, alongFrom, set: kernels?.instructionSet, reason }))`
  const run = () => {
    const child = spawnSync(process.execPath, [...tsx, '--input-type=module', '-e', program], {
      encoding: 'utf8',
      env: {
        ...environment,
        CXX: shellCompiler(join(scratch, 'never-cxx'), 'never 1.0', 'echo "it ran" >&2; exit 1'),
      },
    })
    expect(child.stderr).toBe('')
    return JSON.parse(child.stdout)
  }
  expect(run()).toEqual({ waits: false, alongFrom: join(copy, 'prebuilt'), set: best })
  writeFileSync(join(copy, 'native', 'new.h'), '// of a later version')
  expect(run()).toEqual({ waits: true, reason: expect.stringContaining('it ran') })
})
