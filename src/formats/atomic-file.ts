import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync, writeSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { messageOf, UserError } from '../base/errors.ts'
import { syncFolder } from '../base/files.ts'

/** Moments of a save at which a crash is interesting. */
export type SaveStage = 'opened' | 'piece' | 'synced' | 'renamed' | 'done'

export interface SaveOptions {
  /** Called at every stage, so that a test can fail or die there. */
  readonly onStage?: (stage: SaveStage) => void
}

/** Node hands lengths to the system as 32-bit integers. */
const writeBytesMax = 1 << 30

/**
 * Replaces `path` by what `write` appends, piece by piece, so that a crash at any moment leaves the old
 * file or the new one, whole. When `write` throws, the old file stays and the temporary one is removed.
 */
export function saveAtomic(
  path: string,
  write: (append: (bytes: Uint8Array) => void) => void,
  options: SaveOptions = {},
): void {
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.tmp`)
  try {
    mkdirSync(dirname(path), { recursive: true })
    fillAndSync(temporary, write, options)
    renameSync(temporary, path)
    options.onStage?.('renamed')
    syncFolder(dirname(path))
    options.onStage?.('done')
  } catch (error) {
    rmSync(temporary, { force: true })
    throw sayWhy(path, error)
  }
}

function fillAndSync(
  temporary: string,
  write: (append: (bytes: Uint8Array) => void) => void,
  options: SaveOptions,
): void {
  const file = openSync(temporary, 'w')
  try {
    options.onStage?.('opened')
    write((bytes) => {
      for (let offset = 0; offset < bytes.length; )
        offset += writeSync(file, bytes, offset, Math.min(bytes.length - offset, writeBytesMax))
      options.onStage?.('piece')
    })
    fsyncSync(file)
    options.onStage?.('synced')
  } finally {
    closeSync(file)
  }
}

const fixes: Readonly<Record<string, string>> = {
  ENOSPC: 'Free some space on that disk, or save somewhere else. The previous file is unchanged.',
  EDQUOT: 'Your quota on that disk is used up. The previous file is unchanged.',
  EACCES: 'Choose a folder that you may write to.',
  EPERM: 'Choose a folder that you may write to.',
  EROFS: 'That disk is read-only. Choose another folder.',
}

/** The system's refusals are the user's to solve; anything else is passed on as it is. */
function sayWhy(path: string, error: unknown): unknown {
  const code = (error as NodeJS.ErrnoException | undefined)?.code
  if (error instanceof UserError || typeof code !== 'string' || !(code in fixes)) return error
  const fix = fixes[code]
  return new UserError(`${path} cannot be written: ${messageOf(error)}`, {
    ...(fix === undefined ? {} : { fix }),
    mayPass: true,
    cause: error,
  })
}
