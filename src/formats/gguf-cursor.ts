import { isUtf8 } from 'node:buffer'
import type { UserError } from '../base/errors.ts'
import { damaged, type OpenFile } from './file-source.ts'
import { fixedTypes, type GgufScalar, type GgufScalarValue } from './gguf-values.ts'

const chunkBytes = 1 << 20
/** No chat template or token comes near this; a length beyond it is a lie. */
const stringBytesMax = 1 << 26
/** The largest headers known (262,144 tokens with merges and scores) take 15 MB. */
const headerBytesMax = 1 << 28
/** Values in all arrays of a file together: 64 vocabularies of 262,144 tokens and as many merges and scores fit. */
const arrayValuesMax = 1 << 25

/**
 * Reads a GGUF header front to back through one buffer, whatever the header's size.
 *
 * Every length is held against what is left of the file before anything is allocated for it, and every
 * refusal carries the byte where the lie stands.
 */
export class GgufCursor {
  readonly #file: OpenFile
  #buffer: Buffer
  /** Place of the buffer's first byte in the file, and how many bytes of it are filled. */
  #base = 0
  #filled = 0
  /** Place in the buffer of the next byte. */
  #at = 0
  #arrayValues = 0

  constructor(file: OpenFile) {
    this.#file = file
    this.#buffer = Buffer.allocUnsafe(Math.min(chunkBytes, file.bytes))
  }

  /** The next byte's place in the file. */
  get position(): number {
    return this.#base + this.#at
  }

  get bytesLeft(): number {
    return this.#file.bytes - this.position
  }

  get path(): string {
    return this.#file.path
  }

  refuse(what: string, byte = this.position): UserError {
    return damaged(this.#file.path, byte, what)
  }

  uint32(what: string): number {
    this.#need(4, what)
    return this.#buffer.readUInt32LE(this.#advance(4))
  }

  /** Beyond 2^53 the number is rounded; every use of it compares it with something smaller. */
  uint64(what: string): number {
    this.#need(8, what)
    const at = this.#advance(8)
    return this.#buffer.readUInt32LE(at) + this.#buffer.readUInt32LE(at + 4) * 4294967296
  }

  /** How many things of at least `bytesEach` follow; refused when they are more than `most` or than the file can hold. */
  count(bytesEach: number, what: string, most = arrayValuesMax): number {
    const byte = this.position
    const count = this.uint64(what)
    if (count > most) throw this.refuse(`${what} says ${count}; at most ${most} are allowed`, byte)
    if (count * bytesEach > this.bytesLeft)
      throw this.refuse(`${what} says ${count}, but only ${this.bytesLeft} bytes of the file are left`, byte)
    return count
  }

  /** A name: text that is compared, so bytes that are not UTF-8 must not be replaced silently. */
  name(what: string): string {
    const byte = this.position
    const bytes = this.#text(what)
    if (!isUtf8(bytes)) throw this.refuse(`${what} is not valid UTF-8`, byte)
    return bytes.toString('utf8')
  }

  scalar(type: GgufScalar, what: string): GgufScalarValue {
    // Some vocabularies hold tokens that are parts of characters: those bytes become U+FFFD.
    if (type === 'string') return this.#text(what).toString('utf8')
    const codec = fixedTypes[type]
    this.#need(codec.bytes, what)
    if (type === 'bool' && this.#buffer[this.#at]! > 1)
      throw this.refuse(`${what} is a bool of value ${this.#buffer[this.#at]}`)
    return codec.read(this.#buffer, this.#advance(codec.bytes))
  }

  array(type: GgufScalar, what: string): GgufScalarValue[] {
    const byte = this.position
    const count = this.count(type === 'string' ? 8 : fixedTypes[type].bytes, `the length of ${what}`)
    this.#arrayValues += count
    if (this.#arrayValues > arrayValuesMax)
      throw this.refuse(`${what} brings the metadata to more than ${arrayValuesMax} array values`, byte)
    const values: GgufScalarValue[] = []
    for (let index = 0; index < count; index++) values.push(this.scalar(type, what))
    return values
  }

  /** The bytes of a length-prefixed text; they are overwritten by the next read. */
  #text(what: string): Buffer {
    const byte = this.position
    const length = this.uint64(what)
    if (length > stringBytesMax || length > this.bytesLeft)
      throw this.refuse(
        `${what} is a text of ${length} bytes; ${this.bytesLeft} bytes of the file are left`,
        byte,
      )
    this.#need(length, what)
    const at = this.#advance(length)
    return this.#buffer.subarray(at, at + length)
  }

  #advance(bytes: number): number {
    const at = this.#at
    this.#at += bytes
    return at
  }

  /** Brings the next `bytes` bytes into the buffer. */
  #need(bytes: number, what: string): void {
    if (this.#at + bytes <= this.#filled) return
    if (bytes > this.bytesLeft) throw this.refuse(`the file ends inside ${what}`, this.#file.bytes)
    if (this.position + bytes > headerBytesMax)
      throw this.refuse(`the header is longer than ${headerBytesMax} bytes`)
    this.#base += this.#at
    this.#at = 0
    if (bytes > this.#buffer.length) this.#buffer = Buffer.allocUnsafe(bytes)
    this.#filled = this.#file.read(this.#base, this.#buffer)
    if (this.#filled < bytes) throw this.refuse(`the file ends inside ${what}`, this.#base + this.#filled)
  }
}
