// `npm test`: installs what is missing, checks types and style, runs every test, and ends with one line to count.
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
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

/** Runs one to its end and prints what it said as a whole: they run side by side. True when it found nothing. */
async function check([name, script, args]) {
  const started = performance.now()
  const child = spawn(process.execPath, [join(root, script), ...args], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let said = ''
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text) => (said += text))
  const status = await new Promise((resolve, reject) => child.once('error', reject).once('close', resolve))
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  console.log(`${said}${name}: ${status === 0 ? 'ok' : 'failed'} (${seconds} s)`)
  return status === 0
}

const failures = (await Promise.all(checks.map(check))).filter((passed) => !passed)

const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs')
const args = [
  vitest,
  'run',
  '--reporter=default',
  '--reporter=json',
  `--outputFile.json=${report}`,
  // vitest leaves one processor to itself, which hardly does anything: of two, one would stand still.
  `--maxWorkers=${availableParallelism()}`,
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
