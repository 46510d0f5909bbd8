/**
 * Folders that are made once for each content: a folder's name is the hash of everything that decides what is in it.
 * It appears whole or not at all, whoever else is making it at the same time.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../../base/clock.ts'
import { messageOf, UserError } from '../../base/errors.ts'
import { syncFolder } from '../../base/files.ts'
import { waitPausing } from '../../base/pauses.ts'
import { tryHoldAlone } from '../../base/sole-user.ts'
import type { Preparing } from './preparing.ts'

/** Of all folders of one kind; the ones unused for longest are removed first. */
const cacheBytesMax = 20e9

/** What was begun so long ago belongs to nobody any more. */
const leftoverMs = 24 * 3600 * 1000

const begunPrefix = '.making-'
const turnPollMs = 200

export interface Cached<Store> {
  /** Where folders of this kind are kept; without it they live as long as the process. */
  root: string | undefined
  key: string
  /** What is in the folder, for messages: "samples". */
  what: string
  make: (folder: string) => Promise<void>
  /** Throws an Error for a folder that is damaged. */
  open: (folder: string) => Store | Promise<Store>
  preparing: Preparing
}

/** Opens the folder of this content, made now where it is not there yet. Of several who want it, one makes it. */
export async function cachedStore<Store>(cached: Cached<Store>): Promise<Store> {
  const { root, key } = cached
  if (root === undefined) return await temporaryStore(cached)
  const folder = join(root, key)
  const found = await opened(cached, folder)
  if (found.store !== undefined) return found.store
  using _turn = await turnAt(cached, root)
  // Whoever had the turn before may have made it.
  const { store, damage } = await opened(cached, folder)
  if (store !== undefined) return store
  if (damage !== undefined) {
    const { what, preparing } = cached
    preparing.onNote(`The cached ${what} in ${folder} are damaged (${damage}); making them again.`)
    rmSync(folder, { recursive: true, force: true })
  }
  const making = mkdtempSync(join(root, `${begunPrefix}${key}-`))
  try {
    await made(cached, making)
    const store = await cached.open(making)
    appear(making, folder)
    evict(root, cacheBytesMax, folder)
    return store
  } catch (error) {
    rmSync(making, { recursive: true, force: true })
    throw error
  }
}

/** Nothing where there is no such folder. */
async function opened<Store>(
  { open, preparing }: Cached<Store>,
  folder: string,
): Promise<{ store?: Store; damage?: string }> {
  if (!existsSync(folder)) return {}
  try {
    const store = await open(folder)
    const nowSeconds = systemClock.unixMs() / 1000
    utimesSync(folder, nowSeconds, nowSeconds)
    return { store }
  } catch (error) {
    // An interruption says nothing about the folder.
    await preparing.pause()
    return { damage: messageOf(error) }
  }
}

/**
 * Waits until nobody else makes this content here: the turn is a lock that ends with its process, however that ends.
 * What a dead one had begun is removed. Where the file system has no locks, whoever comes makes it for himself.
 */
async function turnAt(
  { key, what, preparing: { onNote, pause } }: Cached<unknown>,
  root: string,
): Promise<Disposable> {
  mkdirSync(root, { recursive: true })
  // Few files that stay: contents of one beginning take turns.
  const path = join(root, '.turns', key.slice(0, 2))
  let isTold = false
  for (;;) {
    const turn = lockOf(path)
    if (turn === 'none') return { [Symbol.dispose]: () => undefined }
    if (turn !== 'taken') {
      for (const name of readdirSync(root))
        if (name.startsWith(`${begunPrefix}${key}-`))
          rmSync(join(root, name), { recursive: true, force: true })
      return turn
    }
    if (!isTold) onNote(`Another process makes the ${what}; waiting for it.`)
    isTold = true
    await waitPausing(turnPollMs, pause)
  }
}

function lockOf(path: string): Disposable | 'taken' | 'none' {
  try {
    return tryHoldAlone(path) ?? 'taken'
  } catch {
    return 'none'
  }
}

async function temporaryStore<Store>(cached: Cached<Store>): Promise<Store> {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-data-'))
  try {
    await made(cached, folder)
    return await cached.open(folder)
  } finally {
    // The open files outlive their names.
    rmSync(folder, { recursive: true, force: true })
  }
}

async function made({ make, what }: Pick<Cached<unknown>, 'make' | 'what'>, folder: string): Promise<void> {
  try {
    await make(folder)
  } catch (error) {
    if (!(error instanceof Error) || !('code' in error) || error.code !== 'ENOSPC') throw error
    throw new UserError(`The disk is full: the ${what} do not fit into ${folder}.`, {
      fix: 'Free some space, or keep the cache elsewhere: set XDG_CACHE_HOME (or ROPEWAY_HOME, or TMPDIR).',
      cause: error,
    })
  }
}

/** Gives the folder its name. Who was faster made the same: theirs stays, and ours is removed. */
function appear(making: string, folder: string): void {
  try {
    renameSync(making, folder)
    syncFolder(join(folder, '..'))
  } catch (error) {
    if (!existsSync(folder)) throw error
    rmSync(making, { recursive: true, force: true })
  }
}

/** Removes folders, the ones unused for longest first, until the others have `bytesMax` at most. */
export function evict(root: string, bytesMax: number, keep: string): void {
  const oldestMs = systemClock.unixMs() - leftoverMs
  const names = readdirSync(root).filter((name) => !name.startsWith('.') || name.startsWith(begunPrefix))
  const stores = names.flatMap((name) => {
    const folder = join(root, name)
    const found = sizeOf(folder)
    return found === undefined ? [] : [{ folder, ...found, isBegun: name.startsWith(begunPrefix) }]
  })
  for (const { folder } of stores.filter((one) => one.isBegun && one.usedMs < oldestMs))
    rmSync(folder, { recursive: true, force: true })
  const whole = stores.filter(({ isBegun }) => !isBegun).sort((a, b) => a.usedMs - b.usedMs)
  let bytes = whole.reduce((sum, store) => sum + store.bytes, 0)
  for (const store of whole) {
    if (bytes <= bytesMax) return
    if (store.folder === keep) continue
    rmSync(store.folder, { recursive: true, force: true })
    bytes -= store.bytes
  }
}

/** Undefined for a folder that another process removes meanwhile. */
function sizeOf(folder: string): { bytes: number; usedMs: number } | undefined {
  try {
    const bytes = readdirSync(folder).reduce((sum, file) => sum + statSync(join(folder, file)).size, 0)
    return { bytes, usedMs: statSync(folder).mtimeMs }
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}
