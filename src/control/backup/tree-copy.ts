/** Copies folders in which others go on working: jobs make, change and remove there whatever they like. */
import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  futimesSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  type Stats,
  symlinkSync,
  utimesSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'

/** Why something was not copied: it is no file, folder or link; it went meanwhile; it cannot be read, or not be named. */
export type Reason = 'special' | 'gone' | 'unreadable'

export interface PassedOver {
  /** Relative to the folder that was copied. */
  readonly path: string
  readonly why: Reason
}

const reasonOfCode: { readonly [code: string]: Reason } = {
  ENOENT: 'gone',
  // It became something else between two looks: a link, a file in place of a folder.
  ELOOP: 'gone',
  ENOTDIR: 'gone',
  ENXIO: 'special',
  EACCES: 'unreadable',
  EPERM: 'unreadable',
}
/** Of a path inside: with the folders around it, here and where it is restored, it stays below what systems take (4096). */
const pathBytesMax = 2000
const pieceBytes = 1 << 20
/** Stands where a name is no UTF-8; the file is not found by it. */
const noText = '\ufffd'
// Neither follows a link nor waits for who would write into a pipe.
const readOnly = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK

export class TreeCopy {
  readonly passedOver: PassedOver[] = []
  readonly #leavesOut: ReadonlySet<string>
  readonly #piece = Buffer.allocUnsafe(pieceBytes)

  /** `leavesOut` are paths inside. */
  constructor(leavesOut: ReadonlySet<string> = new Set()) {
    this.#leavesOut = leavesOut
  }

  /** Copies what is at `from` to `to`, where nothing is. Links stay as they are, wherever they lead. */
  copy(from: string, to: string, path = ''): void {
    if (this.#leavesOut.has(path)) return
    if (isNameable(path)) this.#named(from, to, path)
    else this.#pass(path, 'unreadable')
  }

  #named(from: string, to: string, path: string): void {
    const stat = this.#read(path, () => lstatSync(from))
    if (stat?.isDirectory()) this.#folder(from, to, path, stat)
    else if (stat?.isFile()) this.#file(from, to, path)
    else if (stat?.isSymbolicLink()) this.#link(from, to, path)
    else if (stat !== undefined) this.#pass(path, 'special')
  }

  #folder(from: string, to: string, path: string, { mode, atime, mtime }: Stats): void {
    const found = this.#read(path, () => readdirSync(from))
    if (found === undefined) return
    mkdirSync(to, { recursive: true, mode: 0o700 })
    for (const name of found) this.copy(join(from, name), join(to, name), join(path, name))
    // What its owner may not write in, nobody could remove or restore.
    chmodSync(to, (mode & 0o777) | 0o700)
    utimesSync(to, atime, mtime)
  }

  #link(from: string, to: string, path: string): void {
    const target = this.#read(path, () => readlinkSync(from))
    if (target !== undefined) symlinkSync(target, to)
  }

  #file(from: string, to: string, path: string): void {
    const source = this.#read(path, () => openSync(from, readOnly))
    if (source === undefined) return
    try {
      const stat = fstatSync(source)
      if (stat.isFile()) this.#content(source, to, stat)
      else this.#pass(path, 'gone')
    } finally {
      closeSync(source)
    }
  }

  #content(source: number, to: string, { size, mode, atime, mtime }: Stats): void {
    const target = openSync(to, 'wx', 0o600)
    try {
      // Not what is written from now on: it may come faster than it can be copied.
      for (let left = size; left > 0; ) {
        const bytes = readSync(source, this.#piece, 0, Math.min(left, pieceBytes), null)
        if (bytes === 0) break
        for (let at = 0; at < bytes; ) at += writeSync(target, this.#piece, at, bytes - at)
        left -= bytes
      }
      fchmodSync(target, mode & 0o777)
      futimesSync(target, atime, mtime)
    } finally {
      closeSync(target)
    }
  }

  /** What `look` finds at a path; undefined when that is passed over. */
  #read<T>(path: string, look: () => T): T | undefined {
    try {
      return look()
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException
      const why = Object.hasOwn(reasonOfCode, code) ? reasonOfCode[code] : undefined
      if (why === undefined) throw error
      this.#pass(path, why)
      return undefined
    }
  }

  #pass(path: string, why: Reason): void {
    this.passedOver.push({ path, why })
  }
}

function isNameable(path: string): boolean {
  return !path.includes(noText) && Buffer.byteLength(path) <= pathBytesMax
}
