import { createHash } from 'node:crypto'
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs'
import { open } from 'node:fs/promises'
import { homedir, userInfo } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { messageOf, UserError } from './errors.ts'
import { atOnce, type Pause, type Steps } from './pauses.ts'

/**
 * Replaces `path` by `content` so that a crash at any moment leaves the old file or the new one, whole:
 * temp file in the same folder, fsync, rename, fsync of the folder. Where it cannot, the temp file is removed.
 */
export function writeFileAtomic(path: string, content: string | Uint8Array): void {
  mkdirSync(dirname(path), { recursive: true })
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.tmp`)
  try {
    const file = openSync(temporary, 'w')
    try {
      const bytes = typeof content === 'string' ? Buffer.from(content) : content
      for (let offset = 0; offset < bytes.length; ) offset += writeSync(file, bytes, offset)
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
    renameSync(temporary, path)
  } catch (error) {
    // On a full disk what is half written would keep the place that others need.
    rmSync(temporary, { force: true })
    throw error
  }
  syncFolder(dirname(path))
}

/** Where a file or folder of this package is, found upward from here: a checkout, or an installed package. */
export function ownFile(path: string): string | undefined {
  for (let folder = import.meta.dirname; ; folder = dirname(folder)) {
    const candidate = join(folder, path)
    if (existsSync(candidate)) return candidate
    if (dirname(folder) === folder) return undefined
  }
}

/** Makes renames and new names inside `folder` durable (POSIX: a folder is synced like a file). */
export function syncFolder(folder: string): void {
  const handle = openSync(folder, 'r')
  try {
    fsyncSync(handle)
  } finally {
    closeSync(handle)
  }
}

/** Reads a JSON object; a missing or broken file is a UserError that names it. */
export function readJsonFile(path: string): Record<string, unknown> {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw new UserError(`${path} cannot be read: ${messageOf(error)}`, { failure: 'not_found', cause: error })
  }
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      return value as Record<string, unknown>
  } catch (error) {
    throw new UserError(`${path} is not JSON: ${messageOf(error)}`, { cause: error })
  }
  throw new UserError(`${path} must hold a JSON object.`)
}

/** Hashed in a fraction of a millisecond. */
const pieceBytes = 1 << 20

/** A file that someone named. Throws a UserError where it cannot be read. */
export function readTextFile(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    throw new UserError(`${path} cannot be read: ${messageOf(error)}`, { failure: 'not_found', cause: error })
  }
}

/** SHA-256 in hex, in one call. The file is read in pieces, however large it is. */
export function hashOfFile(path: string): string {
  return atOnce(hashing(path))
}

/** The same in steps of a piece each. */
export function* hashing(path: string): Steps<string> {
  const hash = createHash('sha256')
  const piece = Buffer.allocUnsafe(pieceBytes)
  const file = openSync(path, 'r')
  try {
    for (let read = readSync(file, piece); read > 0; read = readSync(file, piece)) {
      hash.update(piece.subarray(0, read))
      yield
    }
  } finally {
    closeSync(file)
  }
  return hash.digest('hex')
}

/** The same where others wait for the event loop, which turns between any two pieces; ends where `pause` rejects. */
export async function hashOfLargeFile(path: string, pause?: Pause): Promise<string> {
  const hash = createHash('sha256')
  const piece = Buffer.allocUnsafe(pieceBytes)
  const file = await open(path, 'r')
  try {
    for (;;) {
      const { bytesRead } = await file.read(piece, 0, pieceBytes)
      if (bytesRead === 0) return hash.digest('hex')
      hash.update(piece.subarray(0, bytesRead))
      await pause?.()
    }
  } finally {
    await file.close()
  }
}

/** The user's home, by HOME or the list of users. Throws where neither has one, as in a container with a number for a user. */
export function homeFolder(): string {
  try {
    // An empty HOME would make every folder below it one of the current folder.
    const home = homedir() || userInfo().homedir
    if (home !== '') return home
  } catch {
    // Nobody has this number.
  }
  throw new UserError('This user has no home folder.', {
    failure: 'usage',
    fix: 'Set HOME, or ROPEWAY_HOME for models and runs and XDG_CACHE_HOME for what can be made again.',
  })
}

/** Where the user keeps what can be made again (XDG base directories). */
export function userCacheFolder(): string {
  return join(process.env.XDG_CACHE_HOME || join(homeFolder(), '.cache'), 'ropeway')
}
