/**
 * Where a TypeScript program of the source tree is as JavaScript: bundled once (make-bundle.mjs), and kept while nothing that it is
 * made of changes. A process that compiles module by module on its way (tsx) works for 2.8 s before `ropeway --version`
 * is there; from a bundle for a third of that.
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync, statSync, utimesSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const scripts = dirname(fileURLToPath(import.meta.url))
const root = join(scripts, '..')
const maker = join(scripts, 'make-bundle.mjs')

/** Below node_modules: packages stay outside of a bundle and are found upward from it. */
export const cache = join(root, 'node_modules', '.cache', 'ropeway')

/** The URL of what to import instead of `entry`, the path or the file URL of a TypeScript module. */
export function bundleOf(entry) {
  const path = entry.startsWith('file:') ? fileURLToPath(entry) : entry
  const folder = kept(path) ?? made(path)
  return pathToFileURL(join(cache, folder, `${basename(path, '.ts')}.js`)).href
}

/** Bundles of one entry share a name, in which is how they are made. */
export function nameOf(path) {
  const hash = createHash('sha256')
  for (const file of [maker, join(root, 'package-lock.json')]) hash.update(readFileSync(file))
  return `${basename(path, '.ts')}-${hash.update(path).digest('hex').slice(0, 16)}`
}

/** What changes when the file does. */
export function stateOf(path) {
  const found = statSync(path, { throwIfNoEntry: false })
  return found === undefined ? 'gone' : `${found.mtimeMs} ${found.size}`
}

/** In use: nobody removes it. */
export function touch(folder) {
  const now = new Date()
  utimesSync(folder, now, now)
}

/** The folder of its newest bundle, when it is still what would be made. */
function kept(path) {
  try {
    const { folder, inputs } = JSON.parse(readFileSync(join(cache, `${nameOf(path)}.json`), 'utf8'))
    if (Object.entries(inputs).some(([input, state]) => stateOf(input) !== state)) return undefined
    touch(join(cache, folder))
    return folder
  } catch (error) {
    if (error.code === 'ENOENT') return undefined
    throw error
  }
}

/** In a process of its own: how much memory a program takes does not depend on whether it had to be compiled. */
function made(path) {
  const { status, signal, stdout } = spawnSync(process.execPath, [maker, path], {
    stdio: ['ignore', 'pipe', 'inherit'],
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`${path} could not be compiled (${signal ?? `exit code ${status}`}).`)
  return stdout
}
