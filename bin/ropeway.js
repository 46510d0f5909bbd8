#!/usr/bin/env node
// Runs the built command line; in a checkout that was not built yet it builds first.
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const built = join(root, 'dist', 'main.js')
if (!existsSync(built) && existsSync(join(root, 'scripts', 'prepare.mjs'))) {
  const { prepare } = await import(pathToFileURL(join(root, 'scripts', 'prepare.mjs')).href)
  prepare()
}
await import(pathToFileURL(built).href)
