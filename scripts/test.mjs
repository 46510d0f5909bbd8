// `npm test`: installs what is missing, checks types and style, runs every test, and ends with one line to count.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { prepare, root } from './prepare.mjs'

prepare()
const folder = mkdtempSync(join(tmpdir(), 'ropeway-test-'))
const report = join(folder, 'report.json')
const filters = process.argv.slice(2)

const checks =
  filters.length > 0
    ? []
    : [
        ['types', join('node_modules', 'typescript', 'bin', 'tsc'), ['--noEmit']],
        [
          'types of the page',
          join('node_modules', 'typescript', 'bin', 'tsc'),
          ['--noEmit', '-p', 'console'],
        ],
        [
          'style',
          join('node_modules', '@biomejs', 'biome', 'bin', 'biome'),
          ['check', '--error-on-warnings', '.'],
        ],
      ]
const failures = checks.filter(([name, script, args]) => {
  const started = performance.now()
  const { status } = spawnSync(process.execPath, [join(root, script), ...args], {
    cwd: root,
    stdio: 'inherit',
  })
  console.log(`${name}: ${status === 0 ? 'ok' : 'failed'} (${Math.round(performance.now() - started)} ms)`)
  return status !== 0
})

const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs')
const args = [
  vitest,
  'run',
  '--reporter=default',
  '--reporter=json',
  `--outputFile.json=${report}`,
  ...filters,
]
// Test files run side by side: more compute threads than one each would only wait for one another.
const env = { ROPEWAY_THREADS: '1', ...process.env }
const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit', env })

let counts = { numPassedTests: 0, numFailedTests: 1, numPendingTests: 0, numTotalTests: 0 }
try {
  counts = JSON.parse(readFileSync(report, 'utf8'))
} catch (error) {
  console.error(`The test runner left no report: ${error.message}`)
}
rmSync(folder, { recursive: true, force: true })
// A file that fails to load counts as a failure though it ran no test.
const broken = status !== 0 && counts.numFailedTests === 0 ? 1 : 0
const passed = counts.numPassedTests + checks.length - failures.length
const failed = counts.numFailedTests + failures.length + broken
if (counts.numPendingTests > 0) console.log(`${counts.numPendingTests} skipped`)
// Alone on the last line: CI reads it.
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed > 0 || passed === 0 ? 1 : 0)
