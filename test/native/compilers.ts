/** Compilers that are none, for what happens around them. */
import { chmodSync, writeFileSync } from 'node:fs'
import { everyKernels } from './tensors.ts'

/** A compiler made of a few lines of shell; $1.. are its arguments. */
export function shellCompiler(path: string, version: string, lines: string): string {
  writeFileSync(path, `#!/bin/sh\ncase "$1" in --version) echo "${version}"; exit 0;; esac\n${lines}\n`)
  chmodSync(path, 0o755)
  return path
}

/** A compiler that hands out the library that is there already: what is tested is what happens around it. */
export function libraryCompiler(path: string, version = 'ready 1.0'): string {
  const library = everyKernels[0]!.path
  const last = 'for last; do :; done'
  return shellCompiler(
    path,
    version,
    `${last}\ncase "$1" in -shared) cp '${library}' "$last";; *) : > "$last";; esac`,
  )
}
