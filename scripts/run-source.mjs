/** Runs a TypeScript program of the source tree: `node scripts/run-source.mjs src/cli/main.ts ARGUMENTS`. */
import { resolve } from 'node:path'
import { bundleOf } from './bundle-source.mjs'

// The program finds its own path and arguments where it would find them without us.
process.argv.splice(1, 1)
process.argv[1] = resolve(process.argv[1])
await import(bundleOf(process.argv[1]))
