/**
 * Makes a checkout ready: packages installed as package-lock.json says, sources built. Does nothing when
 * both are up to date. Plain JavaScript without dependencies, because it runs before there are any.
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const nodeMin = [20, 19]

/** Installs what is missing. Ends the process with a clear sentence when that is not possible. */
export function install() {
  checkNode()
  const wanted = hashOf(['package.json', 'package-lock.json'])
  const mark = join(root, 'node_modules', '.ropeway-installed')
  if (existsSync(mark) && readFileSync(mark, 'utf8') === wanted) return
  console.error('Installing packages ...')
  run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'], 'The packages could not be installed.')
  writeFileSync(mark, wanted)
}

/** Installs and builds. */
export function prepare() {
  install()
  const page = filesUnder('console').filter((file) => !file.includes('node_modules'))
  const sources = [...filesUnder('src'), ...page, 'package-lock.json', 'tsdown.config.ts']
  const wanted = hashOf(sources)
  const mark = join(root, 'dist', '.built')
  if (existsSync(mark) && readFileSync(mark, 'utf8') === wanted) return
  console.error('Building ...')
  const tsdown = join(root, 'node_modules', 'tsdown', 'dist', 'run.mjs')
  run(process.execPath, [tsdown, '--log-level', 'error'], 'The sources could not be built.')
  // After it: tsdown empties dist.
  const vite = join(root, 'node_modules', 'vite', 'bin', 'vite.js')
  run(process.execPath, [vite, 'build', '--logLevel', 'error', 'console'], 'The page could not be built.')
  mkdirSync(join(root, 'dist'), { recursive: true })
  writeFileSync(mark, wanted)
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major > nodeMin[0] || (major === nodeMin[0] && minor >= nodeMin[1])) return
  console.error(`Ropeway needs Node ${nodeMin.join('.')} or later; this is ${process.versions.node}.`)
  process.exit(1)
}

function run(command, args, failure) {
  // npm is a script on Windows and needs its shell there; nothing in these arguments comes from outside.
  const shell = process.platform === 'win32' && command === 'npm'
  const result = spawnSync(command, args, { cwd: root, stdio: ['ignore', 2, 2], shell })
  if (result.status === 0) return
  console.error(
    `${failure} (${result.error?.message ?? `${command} ended with ${result.status ?? result.signal}`})`,
  )
  process.exit(1)
}

function filesUnder(folder) {
  return readdirSync(join(root, folder), { recursive: true })
    .map((name) => join(folder, name))
    .filter((name) => statSync(join(root, name)).isFile())
    .sort()
}

function hashOf(files) {
  const hash = createHash('sha256').update(process.version)
  for (const file of files) hash.update(file).update(readFileSync(join(root, file)))
  return hash.digest('hex')
}
