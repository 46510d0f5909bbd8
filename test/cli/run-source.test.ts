/** How programs of the source tree are started: bundled once, and again when something of them changes. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, expect, test } from 'vitest'
import { runnerOf } from '../../src/base/processes.ts'

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'ropeway-source-')))
afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }))

function write(name: string, text: string): string {
  const path = join(folder, name)
  mkdirSync(join(path, '..'), { recursive: true })
  writeFileSync(path, text)
  return path
}

function run(program: string, ...args: string[]) {
  const command = [...runnerOf(program), program, ...args]
  const { status, stdout, stderr } = spawnSync(process.execPath, command, { cwd: folder, encoding: 'utf8' })
  return { status, stdout, stderr }
}

test('a program that was built has no runner', () => {
  expect(runnerOf('/somewhere/dist/main.js')).toEqual([])
})

test('a program and each of its modules find their own place, and the program its arguments', () => {
  write('parts/named.ts', 'export const place: string = import.meta.url')
  write('parts/late.ts', 'export const place: string = import.meta.dirname')
  const program = write(
    'places.ts',
    `import { place } from './parts/named.ts'
    const late = await import('./parts/late.ts')
    console.log(JSON.stringify([place, late.place, ...process.argv.slice(1)]))
    process.exitCode = 3`,
  )
  const expected = [
    pathToFileURL(join(folder, 'parts', 'named.ts')).href,
    join(folder, 'parts'),
    program,
    'a b',
  ]
  for (const given of [program, 'places.ts']) {
    const { status, stdout, stderr } = run(given, 'a b')
    expect([status, stderr]).toEqual([3, ''])
    expect(JSON.parse(stdout)).toEqual(expected)
  }
})

test('what changes in a module or in the program is what runs next', () => {
  const program = write('changing.ts', `import { word } from './word.ts'\nconsole.log(word)`)
  const part = write('word.ts', `export const word: string = 'one'`)
  expect(run(program)).toEqual({ status: 0, stdout: 'one\n', stderr: '' })
  write('word.ts', `export const word: string = 'two'`)
  // The same size: only the time tells. Clocks of file systems may be coarse.
  utimesSync(part, 1e9, 1e9)
  expect(run(program).stdout).toBe('two\n')
  write('changing.ts', `console.log('three')`)
  expect(run(program).stdout).toBe('three\n')
  rmSync(part)
  expect(run(program).stdout).toBe('three\n')
})

test('a bundle that is made again as it lies there from days ago is used, not removed as old', () => {
  const program = write('returning.ts', `console.log('here')`)
  expect(run(program).stdout).toBe('here\n')
  const cache = join(import.meta.dirname, '..', '..', 'node_modules', '.cache', 'ropeway')
  const [bundle, ...others] = readdirSync(cache).filter(
    (name) => /^returning-/.test(name) && !name.endsWith('.json'),
  )
  expect(others).toEqual([])
  utimesSync(join(cache, bundle!), 1e9, 1e9)
  rmSync(join(cache, `${bundle!.replace(/-[^-]*$/, '')}.json`))
  expect(run(program)).toEqual({ status: 0, stdout: 'here\n', stderr: '' })
  rmSync(join(cache, bundle!), { recursive: true })
})

test('a program that cannot be compiled, or is not there, is told with its file', () => {
  const broken = run(write('broken.ts', 'const = 1'))
  expect(broken.status).toBe(1)
  expect(broken.stderr).toMatch(/broken\.ts:1:6/)
  const absent = run('absent.ts')
  expect(absent.status).toBe(1)
  expect(absent.stderr).toContain('absent.ts')
})
