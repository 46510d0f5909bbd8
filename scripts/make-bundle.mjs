/** Bundles a TypeScript program of the source tree: `node scripts/make-bundle.mjs PATH` prints the folder. See bundle-source.mjs. */
import { createHash } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { build } from 'esbuild'
import { cache, nameOf, stateOf, touch } from './bundle-source.mjs'

const dayMs = 86_400_000
const entry = process.argv[2]
const inputs = {}

function load({ path }) {
  // Before it is read: what changes meanwhile is bundled again.
  inputs[path] = stateOf(path)
  return { contents: placed(readFileSync(path, 'utf8'), path), loader: 'ts' }
}

/** A module finds files beside itself: it goes on being where its source lies. */
function placed(text, path) {
  return text
    .replaceAll('import.meta.url', JSON.stringify(pathToFileURL(path).href))
    .replaceAll('import.meta.dirname', JSON.stringify(dirname(path)))
}

function moveTo(temporary, folder) {
  try {
    renameSync(temporary, folder)
  } catch (error) {
    // The same was made before: by another process just now, or long ago, and then it is not to be removed as old.
    if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error
    rmSync(temporary, { recursive: true })
    touch(folder)
  }
}

/** What nobody began to use for a day: a process that runs may still import a part of its bundle, but not for so long. */
function removeOld() {
  for (const name of readdirSync(cache)) {
    const found = statSync(join(cache, name), { throwIfNoEntry: false })
    if (found !== undefined && performance.timeOrigin - found.mtimeMs > dayMs)
      rmSync(join(cache, name), { recursive: true, force: true })
  }
}

const { outputFiles } = await build({
  ...{ entryPoints: [entry], outdir: cache, write: false, logLevel: 'error' },
  ...{ bundle: true, splitting: true, packages: 'external', keepNames: true },
  ...{ format: 'esm', platform: 'node', target: 'node20' },
  plugins: [{ name: 'sources', setup: ({ onLoad }) => onLoad({ filter: /\.ts$/ }, load) }],
}).catch(() => process.exit(1))

const name = nameOf(entry)
const state = createHash('sha256').update(JSON.stringify(inputs)).digest('hex').slice(0, 16)
const folder = `${name}-${state}`
const temporary = join(cache, `.${folder}-${process.pid}`)
mkdirSync(temporary, { recursive: true })
for (const { path, contents } of outputFiles) writeFileSync(join(temporary, basename(path)), contents)
moveTo(temporary, join(cache, folder))
writeFileSync(`${temporary}.json`, JSON.stringify({ folder, inputs }))
renameSync(`${temporary}.json`, join(cache, `${name}.json`))
removeOld()
process.stdout.write(folder)
