import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { expect, test } from 'vitest'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')

function filesUnder(folder: string, endings: readonly string[]): string[] {
  const found = readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
  return found
    .filter((name) => endings.some((ending) => name.endsWith(ending)))
    .map((name) => join(folder, name))
}

interface Source {
  path: string
  text: string
  /** Repository paths of what it imports; package names start with no dot and are kept as they are. */
  imports: string[]
}

const sources: Source[] = ['src', 'test', 'bench'].flatMap((folder) =>
  filesUnder(folder, ['.ts']).map((path) => {
    const text = readFileSync(join(root, path), 'utf8')
    const { importedFiles } = ts.preProcessFile(text, true, true)
    const imports = importedFiles.map(({ fileName }) =>
      fileName.startsWith('.') ? relative(root, resolve(root, dirname(path), fileName)) : fileName,
    )
    return { path, text, imports }
  }),
)
const product = sources.filter(({ path }) => path.startsWith('src/'))

/** The layer table of ARCHITECTURE.md: folder -> folders that it may import. */
function layers(): Map<string, string[]> {
  const table = new Map<string, string[]>()
  for (const line of readFileSync(join(root, 'ARCHITECTURE.md'), 'utf8').split('\n')) {
    const cells = line.split('|').map((cell) => cell.trim())
    if (cells.length < 5 || !/^[a-z0-9]+$/.test(cells[1]!) || cells[1] === 'folder') continue
    table.set(
      cells[1]!,
      cells[2]!
        .split(',')
        .map((name) => name.trim())
        .filter(Boolean),
    )
  }
  return table
}

const folderOf = (path: string) => path.split('/')[1]!

test('the layer table names every folder of src and no other', () => {
  const folders = readdirSync(join(root, 'src'), { withFileTypes: true }).filter((entry) =>
    entry.isDirectory(),
  )
  expect([...layers().keys()].sort()).toEqual(folders.map(({ name }) => name).sort())
})

test('folders import only what the layer table in ARCHITECTURE.md lets them', () => {
  const table = layers()
  const wrong = product.flatMap(({ path, imports }) => {
    const own = folderOf(path)
    const allowed = table.get(own) ?? []
    return imports
      .filter(
        (target) => target.startsWith('src/') || target.startsWith('test/') || target.startsWith('bench/'),
      )
      .filter((target) => {
        if (!target.startsWith('src/')) return true
        const folder = folderOf(target)
        return folder !== own && folder !== 'base' && !allowed.includes(folder) && !allowed.includes('*')
      })
      .map((target) => `${path} imports ${target}`)
  })
  expect(wrong).toEqual([])
})

test('the page imports nothing of src but what runs in a browser', () => {
  const wrong = filesUnder('console/src', ['.ts', '.tsx']).flatMap((path) => {
    const { importedFiles } = ts.preProcessFile(readFileSync(join(root, path), 'utf8'), true, true)
    const targets = importedFiles.filter(({ fileName }) => fileName.startsWith('.'))
    return targets
      .map(({ fileName }) => relative(root, resolve(root, dirname(path), fileName)))
      .filter((target) => !/^(console\/src|src\/api|src\/base)\//.test(target))
      .map((target) => `${path} imports ${target}`)
  })
  expect(wrong).toEqual([])
})

test('imports run in no circle', () => {
  const graph = new Map(
    product.map(({ path, imports }) => [path, imports.filter((target) => target.startsWith('src/'))]),
  )
  const done = new Set<string>()
  const circles: string[] = []
  const visit = (path: string, trail: readonly string[]) => {
    if (trail.includes(path)) circles.push([...trail.slice(trail.indexOf(path)), path].join(' -> '))
    if (trail.includes(path) || done.has(path)) return
    for (const target of graph.get(path) ?? []) visit(target, [...trail, path])
    done.add(path)
  }
  for (const path of graph.keys()) visit(path, [])
  expect(circles).toEqual([])
})

test('every file of src is imported by somebody or is an entry', () => {
  const entries = [
    'main',
    'engine-process',
    'constraint-thread',
    'encoder-thread',
    'run-wrapper',
    'tuning-plan',
  ].map((name) => `src/cli/${name}.ts`)
  const imported = new Set(sources.flatMap(({ imports }) => imports))
  expect(
    product.map(({ path }) => path).filter((path) => !imported.has(path) && !entries.includes(path)),
  ).toEqual([])
})

/** What is not written here, and what is written instead. */
const bans: readonly { pattern: RegExp; instead: string; except: RegExp }[] = [
  { pattern: /Math\.random/, instead: 'base/random', except: /^$/ },
  { pattern: /Date\.now|new Date\(\)/, instead: 'base/clock', except: /^src\/base\/clock\.ts$/ },
  { pattern: /catch\s*(\([^)]*\))?\s*\{\s*\}/, instead: 'a decision about the error', except: /^$/ },
  { pattern: /\b(TODO|FIXME|XXX)\b/, instead: 'the thing itself, or an issue', except: /^$/ },
  { pattern: /\bexec(Sync)?\(|shell: true/, instead: 'spawn with an argument list', except: /^$/ },
  {
    pattern: /['"`](void\*?|size_t|int|bool|const char\*) ggml_/,
    instead: 'a symbol in runtime/ffi.ts',
    except: /^src\/runtime\/ffi\.ts$/,
  },
]

for (const { pattern, instead, except } of bans) {
  test(`src has no ${pattern.source}; it takes ${instead}`, () => {
    const hits = product.filter(
      ({ path, text }) => !except.test(path) && pattern.test(withoutRegexCalls(text)),
    )
    expect(hits.map(({ path }) => path)).toEqual([])
  })
}

/** `pattern.exec(text)` runs a regular expression, not a shell. */
function withoutRegexCalls(text: string): string {
  return text.replace(/\.exec\(/g, '.match(')
}

test('no file holds an absolute path of a developer machine or the host of a package registry', () => {
  const endings = ['.ts', '.tsx', '.md', '.mjs', '.js', '.json', '.jsonl', '.cpp', '.h', '.yml']
  const folders = ['src', 'console/src', 'test', 'bench', 'docs', 'native', 'examples', 'scripts', 'bin']
  const top = readdirSync(root).filter((name) => endings.some((ending) => name.endsWith(ending)))
  const files = [
    ...folders.filter((folder) => existsSync(join(root, folder))).flatMap((f) => filesUnder(f, endings)),
    ...top,
  ]
  const bad = new RegExp(['/wo' + 'rk/', '/ro' + 'ot/', 'regis' + 'try\\.npmjs', 'pypi' + '\\.org'].join('|'))
  // What examples write when they run is not kept.
  const kept = files.filter((path) => !/^examples\/[^/]+\/out\//.test(path))
  expect(kept.filter((path) => bad.test(readFileSync(join(root, path), 'utf8')))).toEqual([])
})

test('links between documents lead somewhere', () => {
  const documents = [
    ...['docs', 'examples', 'bench', 'native'].flatMap((folder) => filesUnder(folder, ['.md'])),
    'README.md',
    'ARCHITECTURE.md',
  ]
  const dead = documents
    .filter((path) => existsSync(join(root, path)))
    .flatMap((path) => {
      const links = [
        ...readFileSync(join(root, path), 'utf8').matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)[^)]*\)/g),
      ]
      return links
        .map(([, target]) => target!)
        .filter((target) => !existsSync(join(root, dirname(path), target)))
        .map((target) => `${path}: ${target}`)
    })
  expect(dead).toEqual([])
})
