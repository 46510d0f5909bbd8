import { fileURLToPath } from 'node:url'

/** Whether a process of this machine has this id now; another one may have it later. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/**
 * What stands before the path of a program of this package in a command of Node's: nothing where it was built, and in the
 * source tree what compiles its TypeScript.
 */
export function runnerOf(path: string): string[] {
  if (!path.endsWith('.ts')) return []
  return [fileURLToPath(new URL('../../scripts/run-source.mjs', import.meta.url))]
}
