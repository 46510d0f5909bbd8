import { closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs'
import { assert } from '../base/assert.ts'
import { messageOf, UserError } from '../base/errors.ts'
import type { TensorInfo, TensorSource } from './source.ts'

/** Node hands lengths to the system as 32-bit integers. */
const readBytesMax = 1 << 30

/** A refusal of what a file contains. `byte` is where in the file the reader stood. */
export function damaged(path: string, byte: number, what: string, fix?: string): UserError {
  return new UserError(`${path}: ${what} (byte ${byte})`, {
    fix: fix ?? 'The file is cut short, damaged or not what its name says. Download or export it again.',
  })
}

/** A regular file, open for positioned reads. */
export class OpenFile implements Disposable {
  readonly path: string
  readonly bytes: number
  #handle: number | undefined

  constructor(path: string, handle: number, bytes: number) {
    this.path = path
    this.bytes = bytes
    this.#handle = handle
  }

  /** Fills `into` from `position` on and returns how many bytes the file had for it. */
  read(position: number, into: Uint8Array): number {
    assert(this.#handle !== undefined, `${this.path} is open while it is read`)
    let done = 0
    while (done < into.length) {
      const length = Math.min(into.length - done, readBytesMax)
      const count = readSync(this.#handle, into, done, length, position + done)
      if (count === 0) break
      done += count
    }
    return done
  }

  [Symbol.dispose](): void {
    if (this.#handle !== undefined) closeSync(this.#handle)
    this.#handle = undefined
  }
}

/** Opens a regular file. Anything else (a folder, a pipe, a device) is refused before it can block the caller. */
export function openForReading(path: string): OpenFile {
  let handle: number
  try {
    if (!statSync(path).isFile()) throw new UserError(`${path} is not a regular file`)
    handle = openSync(path, 'r')
  } catch (error) {
    if (error instanceof UserError) throw error
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    throw new UserError(
      missing ? `${path} does not exist` : `${path} cannot be opened: ${messageOf(error)}`,
      {
        failure: missing ? 'not_found' : 'failed',
        cause: error,
      },
    )
  }
  return new OpenFile(path, handle, fstatSync(handle).size)
}

/** Opens `path` and hands it to `parse`, which takes it over; when `parse` throws, the file is closed again. */
export function openAndParse<Source>(path: string, parse: (file: OpenFile) => Source): Source {
  const file = openForReading(path)
  try {
    return parse(file)
  } catch (error) {
    file[Symbol.dispose]()
    throw error
  }
}

export interface TensorPlace {
  readonly info: TensorInfo
  /** First byte of the data, counted from the start of the file. */
  readonly start: number
}

/** The tensors of one file whose header has been checked. Owns the file. */
export class FileSource implements TensorSource {
  readonly path: string
  readonly #file: OpenFile
  readonly #places: ReadonlyMap<string, TensorPlace>

  constructor(file: OpenFile, places: ReadonlyMap<string, TensorPlace>) {
    this.path = file.path
    this.#file = file
    this.#places = places
  }

  names(): string[] {
    return [...this.#places.keys()]
  }

  info(name: string): TensorInfo | undefined {
    return this.#places.get(name)?.info
  }

  read(name: string, into: Uint8Array, offset = 0): void {
    const place = this.#places.get(name)
    assert(place !== undefined, `tensor ${name} is asked for only when ${this.path} has it`)
    assert(offset >= 0 && offset + into.length <= place.info.bytes, `a read stays inside tensor ${name}`)
    const done = this.#file.read(place.start + offset, into)
    if (done < into.length) {
      const end = place.start + offset + done
      throw damaged(
        this.path,
        end,
        `tensor "${name}": the file ends inside its data; it shrank after it was opened`,
      )
    }
  }

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]()
  }
}
