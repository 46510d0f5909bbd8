import { spawnSync } from 'node:child_process'
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'

const repository = fileURLToPath(new URL('../..', import.meta.url))
const root = mkdtempSync(join(tmpdir(), 'ropeway-package-'))
const installed = join(root, 'package')
let packed: { filename: string; size: number; files: { path: string }[] }

/** What `npm pack` makes, with what package.json depends on and nothing else of this checkout. */
beforeAll(() => {
  const result = spawnSync('npm', ['pack', '--json', '--pack-destination', root], {
    cwd: repository,
    encoding: 'utf8',
  })
  expect(result.status, result.stderr).toBe(0)
  packed = JSON.parse(result.stdout.slice(result.stdout.indexOf('[')))[0]
  expect(spawnSync('tar', ['-xzf', join(root, packed.filename), '-C', root]).status).toBe(0)
  const { dependencies } = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>
  }
  for (const name of Object.keys(dependencies)) {
    const place = join(installed, 'node_modules', name)
    mkdirSync(dirname(place), { recursive: true })
    symlinkSync(join(repository, 'node_modules', name), place)
  }
})
afterAll(() => rmSync(root, { recursive: true, force: true, maxRetries: 9 }))

function ropeway(...args: string[]) {
  const env = { ...process.env, ROPEWAY_HOME: join(root, 'home') }
  const command = [join(installed, 'bin', 'ropeway.js'), ...args]
  const { status, stdout, stderr } = spawnSync(process.execPath, command, {
    cwd: root,
    encoding: 'utf8',
    env,
  })
  return { status, stdout, stderr }
}

test('the package holds what runs, and nothing of how it is made', () => {
  const tops = new Set(packed.files.map(({ path }) => path.split('/')[0]))
  expect([...tops].sort()).toEqual([
    'LICENSE',
    'NOTICE',
    'README.md',
    'bin',
    'dist',
    'docs',
    'examples',
    'native',
    'package.json',
  ])
  expect(packed.size).toBeLessThan(10e6)
})

test('trains an example on the text that it brings, and generates from it', () => {
  const job = join(root, 'job.yml')
  writeFileSync(job, readFileSync(join(installed, 'examples', 'whale', 'job.yml')))
  const trained = ropeway('train', job, '--here', '--steps', '2')
  expect(trained.stderr).toMatch(/Finished after step 2/)
  expect(readdirSync(join(root, 'out', 'checkpoints'))).toEqual(['step-000002'])
  const { status, stdout, stderr } = ropeway(
    'generate',
    'out',
    '-p',
    'The whale',
    '--max-tokens',
    '8',
    // Two steps in, a text may end anywhere.
    '--ignore-eos',
    '--json',
  )
  expect(status, stderr).toBe(0)
  expect(JSON.parse(stdout)).toMatchObject({ generatedTokens: 8, finish: 'length' })
})
