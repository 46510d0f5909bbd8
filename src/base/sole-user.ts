import { mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import Database from 'libsql'
import { systemRefusal, UserError } from './errors.ts'

/**
 * Makes this process the only one that works in the folder of `path`, until it ends, however it ends: the lock is the
 * operating system's, on an empty database of that name. Throws UserError with `fix` when another process has it.
 */
export function holdAlone(path: string, fix: string): Disposable {
  const held = tryHoldAlone(path)
  if (held !== undefined) return held
  throw new UserError(`Another process of Ropeway uses ${dirname(path)}.`, {
    failure: 'conflict',
    fix,
    // It may be the one before, on its way out.
    mayPass: true,
  })
}

/** The same, and undefined when another process (or another part of this one) has it. */
export function tryHoldAlone(path: string): Disposable | undefined {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  const lock = new Database(path)
  try {
    lock.pragma('busy_timeout = 0')
    lock.prepare('begin exclusive').run()
  } catch (error) {
    lock.close()
    if ((error as { code?: string }).code === 'SQLITE_BUSY') return undefined
    throw systemRefusal(error, `${dirname(path)} cannot be locked`) ?? error
  }
  return {
    [Symbol.dispose]: () => {
      // Closing alone waits for the statement above to be collected.
      lock.exec('rollback')
      lock.close()
    },
  }
}
