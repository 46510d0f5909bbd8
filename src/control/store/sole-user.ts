import { mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import Database from 'libsql'
import { UserError } from '../../base/errors.ts'

/**
 * Makes this process the only one that serves a data folder, until it ends, however it ends: the lock is the
 * operating system's, on an empty database beside the real one. Throws UserError when another process has it.
 */
export function holdAlone(path: string): Disposable {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const lock = new Database(path)
  try {
    lock.pragma('busy_timeout = 0')
    lock.prepare('begin exclusive').run()
  } catch (error) {
    lock.close()
    if ((error as { code?: string }).code !== 'SQLITE_BUSY') throw error
    throw new UserError(`Another process of Ropeway uses ${dirname(path)}.`, {
      failure: 'conflict',
      fix: 'Stop it first, or give another folder with --data. Several servers share a PostgreSQL (--database).',
      cause: error,
    })
  }
  return { [Symbol.dispose]: () => void lock.close() }
}
