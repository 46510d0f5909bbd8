/**
 * What a command writes its output to. Node's own `pipe` is a socket, which nobody can open again by its name:
 * `echo ... > /dev/stderr` and `tee /dev/stderr`, which scripts are full of, would fail with ENXIO.
 */
import { spawnSync } from 'node:child_process'
import { closeSync, constants, openSync, rmSync } from 'node:fs'
import { Socket } from 'node:net'
import { join } from 'node:path'
import type { Readable } from 'node:stream'

export interface OutputPipe {
  /** What the command gets; closed here once it has started. */
  readonly fd: number
  readonly source: Readable
}

/**
 * A pipe that nobody else finds by a name once this returns. Undefined where `folder` holds none or the machine has no
 * `mkfifo`; the command then writes to a socket.
 */
export function openOutputPipe(folder: string, name: string): OutputPipe | undefined {
  const path = join(folder, `${name}.pipe`)
  // Of a wrapper that was killed here.
  rmSync(path, { force: true })
  if (spawnSync('mkfifo', ['-m', '600', path], { stdio: 'ignore' }).status !== 0) return undefined
  try {
    // Without a writer yet, only an open that does not block comes back; the command's own end must block as usual.
    const read = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
    try {
      const fd = openSync(path, constants.O_WRONLY)
      return { fd, source: new Socket({ fd: read, readable: true, writable: false }) }
    } catch (error) {
      closeSync(read)
      throw error
    }
  } finally {
    rmSync(path, { force: true })
  }
}
