/**
 * A member's log: lines with their time in files of limited size, of which the newest are kept.
 * A line is `<unix ms> <o|e> <text>`; a cursor is `<file number>:<byte>`.
 */
import { closeSync, fstatSync, openSync, readdirSync, readSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { LogLine, LogPage } from '../launcher.ts'

/** The log is cut into so many files; the oldest goes when a new one begins. */
const filesKept = 8
export const logBytesDefault = 64 << 20
const lineBytesMax = 32 << 10
const namePattern = /^log\.(\d{6,})$/

function fileName(number: number): string {
  return `log.${String(number).padStart(6, '0')}`
}

function fileNumbers(folder: string): number[] {
  return readdirSync(folder)
    .flatMap((name) => namePattern.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b)
}

export class LogWriter {
  readonly #folder: string
  readonly #fileBytesMax: number
  readonly #unixMs: () => number
  #file: number
  #number = 1
  #bytes = 0
  /** Lines that a full disk swallowed. The job goes on without them. */
  #lost = 0

  constructor(folder: string, bytesMax: number, unixMs: () => number) {
    this.#folder = folder
    this.#fileBytesMax = Math.max(lineBytesMax, Math.floor(bytesMax / filesKept))
    this.#unixMs = unixMs
    this.#file = openSync(join(folder, fileName(this.#number)), 'a', 0o600)
  }

  line(stream: LogLine['stream'], text: string): void {
    const lost = this.#lost
    if (lost > 0 && this.#append('err', `[${lost} lines were lost: the disk was full]`)) this.#lost -= lost
    if (!this.#append(stream, text)) this.#lost++
  }

  #append(stream: LogLine['stream'], text: string): boolean {
    const line = Buffer.from(`${this.#unixMs()} ${stream === 'out' ? 'o' : 'e'} ${text}\n`)
    try {
      if (this.#bytes + line.length > this.#fileBytesMax) this.#rotate()
      for (let offset = 0; offset < line.length; ) offset += writeSync(this.#file, line, offset)
      this.#bytes += line.length
      return true
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ENOSPC' || code === 'EDQUOT') return false
      throw error
    }
  }

  #rotate(): void {
    const next = openSync(join(this.#folder, fileName(this.#number + 1)), 'a', 0o600)
    closeSync(this.#file)
    this.#file = next
    this.#number++
    this.#bytes = 0
    for (const number of fileNumbers(this.#folder))
      if (number <= this.#number - filesKept) rmSync(join(this.#folder, fileName(number)), { force: true })
  }

  close(): void {
    closeSync(this.#file)
  }
}

/** Cuts a byte stream into lines; a carriage return ends one too, as progress bars use it. */
export class LineCutter {
  readonly #onLine: (text: string) => void
  readonly #decoder = new TextDecoder()
  #rest = ''

  constructor(onLine: (text: string) => void) {
    this.#onLine = onLine
  }

  push(bytes: Uint8Array): void {
    const pieces = (this.#rest + this.#decoder.decode(bytes, { stream: true })).split(/\r\n|\n|\r/)
    this.#rest = pieces.pop()!
    for (const piece of pieces) this.#emit(piece)
    // A line without end must not grow without end.
    while (this.#rest.length > lineBytesMax) {
      this.#emit(this.#rest.slice(0, lineBytesMax))
      this.#rest = this.#rest.slice(lineBytesMax)
    }
  }

  end(): void {
    const rest = this.#rest + this.#decoder.decode()
    this.#rest = ''
    if (rest !== '') this.#emit(rest)
  }

  #emit(text: string): void {
    for (let offset = 0; offset === 0 || offset < text.length; offset += lineBytesMax)
      this.#onLine(text.slice(offset, offset + lineBytesMax))
  }
}

/** Undefined for a cursor that no page of a log ever gave. */
function parseCursor(cursor: string): { number: number; offset: number } | undefined {
  const match = /^(\d{1,9}):(\d{1,15})$/.exec(cursor)
  return match === null ? undefined : { number: Number(match[1]), offset: Number(match[2]) }
}

/** Whole lines from `cursor` on, at most `bytesMax` of them. `ended` says that nobody writes any more. */
export function readLog(
  folder: string,
  cursor: string | undefined,
  bytesMax: number,
  ended: boolean,
): LogPage {
  const numbers = fileNumbers(folder)
  const asked = cursor === undefined ? undefined : parseCursor(cursor)
  const oldest = numbers[0]
  if (oldest === undefined) return { lines: [], cursor: cursor ?? '1:0', skipped: false, complete: ended }
  // The first file has number 1: what a log without cursor no longer begins with was there once.
  const skipped = (asked?.number ?? 1) < oldest
  let position = asked === undefined || skipped ? { number: oldest, offset: 0 } : asked
  const lines: LogLine[] = []
  let left = Math.max(bytesMax, lineBytesMax * 4)
  const newest = numbers.at(-1)!
  while (left > 0) {
    const { text, bytes, atEnd } = readWholeLines(
      join(folder, fileName(position.number)),
      position.offset,
      left,
    )
    for (const line of text) lines.push(line)
    position = { number: position.number, offset: position.offset + bytes }
    left -= bytes
    if (!atEnd) break
    if (position.number >= newest) {
      return { lines, cursor: cursorOf(position), skipped, complete: ended }
    }
    position = { number: position.number + 1, offset: 0 }
  }
  return { lines, cursor: cursorOf(position), skipped, complete: false }
}

function cursorOf({ number, offset }: { number: number; offset: number }): string {
  return `${number}:${offset}`
}

function readWholeLines(path: string, offset: number, bytesMax: number) {
  let file: number
  try {
    file = openSync(path, 'r')
  } catch (error) {
    // Rotated away between the listing and now.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { text: [], bytes: 0, atEnd: true }
    throw error
  }
  try {
    const size = fstatSync(file).size
    const buffer = Buffer.alloc(Math.max(0, Math.min(bytesMax, size - offset)))
    const read = readSync(file, buffer, 0, buffer.length, offset)
    const whole = buffer.subarray(0, read).lastIndexOf(10) + 1
    const lines = buffer.subarray(0, whole).toString('utf8').split('\n').slice(0, -1)
    return { text: lines.map(parseLine), bytes: whole, atEnd: offset + read >= size }
  } finally {
    closeSync(file)
  }
}

function parseLine(line: string): LogLine {
  const match = /^(\d+) ([oe]) (.*)$/s.exec(line)
  if (match === null) return { atMs: 0, stream: 'out', text: line }
  return { atMs: Number(match[1]), stream: match[2] === 'o' ? 'out' : 'err', text: match[3]! }
}
