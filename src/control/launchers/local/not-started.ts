/** Why a command could not be executed, in words that say what to look at. */
import { closeSync, existsSync, openSync, readSync } from 'node:fs'
import { resolve } from 'node:path'
import { messageOf } from '../../../base/errors.ts'

const firstBytes = 256

/** `error` is what `spawn` gave for `program` in `folder`. */
export function whyNotStarted(error: unknown, program: string, folder: string): string {
  if (!existsSync(folder)) return `${folder} is not there`
  const { code } = error as NodeJS.ErrnoException
  if (code === 'EACCES') return 'it may not be executed (chmod +x)'
  if (code !== 'ENOENT') return messageOf(error)
  if (!program.includes('/')) return 'there is no program of this name in PATH'
  const path = resolve(folder, program)
  if (!existsSync(path)) return 'there is no such file'
  // The file is there, so what is missing is what runs it.
  const [, interpreter] = /^#!([^\n]*)/.exec(beginningOf(path)) ?? []
  if (interpreter === undefined) return 'what loads it is not there: it was made for another system'
  const why = interpreter.endsWith('\r') ? ': its lines end as on Windows, in CR and LF' : ''
  return `what its first line names, ${interpreter.trim()}, is not there${why}`
}

function beginningOf(path: string): string {
  const bytes = Buffer.alloc(firstBytes)
  const file = openSync(path, 'r')
  try {
    return bytes.toString('utf8', 0, readSync(file, bytes, 0, bytes.length, 0))
  } finally {
    closeSync(file)
  }
}
