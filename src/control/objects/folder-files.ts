/** Files that stay: the few moves on a file system after which a crash loses nothing that was promised. */
import { type FileHandle, mkdir, open, rename, rm, rmdir } from 'node:fs/promises'
import { dirname, relative, sep } from 'node:path'
import { UserError } from '../../base/errors.ts'

/** Codes of the file system that mean: there is no such file here. */
const absentCodes = new Set(['ENOENT', 'ENOTDIR', 'EISDIR'])

export function isAbsent(error: unknown): boolean {
  return absentCodes.has((error as NodeJS.ErrnoException).code ?? '')
}

/** `work`, or undefined when it found no file. */
export async function unlessAbsent<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work
  } catch (error) {
    if (isAbsent(error)) return undefined
    throw error
  }
}

export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Makes `folder` and what it lies in, each name of it durable. */
export async function makeFolder(folder: string): Promise<void> {
  const first = await mkdir(folder, { recursive: true, mode: 0o700 })
  if (first === undefined) return
  for (let made = folder; made.length >= first.length; made = dirname(made)) await syncFolder(dirname(made))
}

/** Writes all of `bytes` at `position`; returns when they are on the disk. */
export async function writeSynced(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done)
    done += bytesWritten
  }
  await file.datasync()
}

/** Writes a new file whole under a name that nobody reads yet. */
export async function writeNew(path: string, bytes: Uint8Array): Promise<void> {
  const file = await open(path, 'wx', 0o600)
  try {
    await writeSynced(file, bytes, 0)
  } finally {
    await file.close()
  }
}

/** So often a folder may vanish (its last object was deleted) between making it and moving a file into it. */
const moveTriesMax = 10

/** Gives a synced file its final name, making the folders that it needs; durable when it returns. */
export async function moveInto(from: string, to: string, isInside: (folder: string) => Promise<void>) {
  for (let attempt = 1; ; attempt++) {
    await makeFolder(dirname(to))
    await isInside(dirname(to))
    try {
      await rename(from, to)
      break
    } catch (error) {
      if (attempt === moveTriesMax || (error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    }
  }
  await syncFolder(dirname(to))
}

/** Removes `folder` and the ones above it up to `root`, as far as they are empty. */
export async function removeEmptyFolders(folder: string, root: string): Promise<void> {
  for (let here = folder; isBelow(here, root); here = dirname(here)) {
    try {
      await rmdir(here)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ENOTEMPTY' || code === 'EEXIST' || code === 'ENOENT') return
      throw error
    }
  }
}

export function isBelow(path: string, root: string): boolean {
  const way = relative(root, path)
  return way !== '' && way !== '..' && !way.startsWith(`..${sep}`)
}

export async function removeAll(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true })
}

const refusals: Record<string, { message: string; fix: string }> = {
  ENOSPC: { message: 'the disk is full', fix: 'Make room on it and go on: what was acknowledged is kept.' },
  EDQUOT: {
    message: 'the disk quota is used up',
    fix: 'Make room and go on: what was acknowledged is kept.',
  },
  EACCES: { message: 'this process may not', fix: 'Give the user that runs Ropeway access to it.' },
  EPERM: { message: 'this process may not', fix: 'Give the user that runs Ropeway access to it.' },
  EROFS: { message: 'the file system is read-only', fix: 'Mount it for writing.' },
  EISDIR: { message: 'objects lie below that name', fix: 'Take another key.' },
  ENOTDIR: { message: 'a part of that name is an object', fix: 'Take another key.' },
  ENOTEMPTY: { message: 'objects lie below that name', fix: 'Take another key.' },
  EEXIST: { message: 'a part of that name is an object', fix: 'Take another key.' },
}

/** Failures of the disk that a person can mend become UserErrors that name `what`. */
export async function explained<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    const refusal = refusals[(error as NodeJS.ErrnoException).code ?? '']
    if (error instanceof UserError || refusal === undefined) throw error
    throw new UserError(`${what} cannot be written or read: ${refusal.message}.`, {
      fix: refusal.fix,
      cause: error,
    })
  }
}
