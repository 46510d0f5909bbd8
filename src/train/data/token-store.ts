/**
 * Tokens of texts in a folder on disk, written once as they come and read by place: what is in memory is a line for each
 * file, however long the texts are.
 *
 * training.bin and validation.bin hold the tokens of all their documents behind one another, little-endian, in 1, 2 or 4
 * bytes each as the vocabulary needs; store.json says where the documents begin, and the SHA-256 of both.
 */
import { createHash, type Hash } from 'node:crypto'
import { closeSync, openSync, readFileSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { assert } from '../../base/assert.ts'
import { hashOfLargeFile, writeFileAtomic } from '../../base/files.ts'
import type { Pause } from '../../base/pauses.ts'
import { HashedFile } from './hashed-file.ts'

export const sides = ['training', 'validation'] as const
export type Side = (typeof sides)[number]

export interface TextDocument {
  /** Number of its file among those of the job. */
  file: number
  /** Place of its first token, and how many there are. */
  start: number
  tokens: number
  /** Equal for equal documents. */
  hash: number
}

interface StoreFile {
  format: 1
  width: 1 | 2 | 4
  /** SHA-256 of the training tokens as int32, `|` behind each document. */
  hash: string
  documents: Record<Side, TextDocument[]>
  fileHashes: Record<Side, string>
}

const fileName = 'store.json'
const nameOf = (side: Side) => `${side}.bin`

const arrays = { 1: Uint8Array, 2: Uint16Array, 4: Int32Array } as const

export class TokenWriter implements Disposable {
  readonly #folder: string
  readonly #width: 1 | 2 | 4
  readonly #hash = createHash('sha256')
  readonly #sides: Record<Side, SideWriter>

  /** `vocabularySize`: all tokens are below it. */
  constructor(folder: string, vocabularySize: number) {
    this.#folder = folder
    this.#width = vocabularySize <= 1 << 8 ? 1 : vocabularySize <= 1 << 16 ? 2 : 4
    const writer = (side: Side) => new SideWriter(join(folder, nameOf(side)), this.#width)
    this.#sides = { training: writer('training'), validation: writer('validation') }
  }

  /** Tokens behind those of the document that is being written, or the first of it. */
  add(side: Side, tokens: Int32Array): void {
    this.#sides[side].add(tokens)
    if (side === 'training') this.#hash.update(bytesOf(tokens))
  }

  endDocument(side: Side, file: number): void {
    this.#sides[side].endDocument(file)
    if (side === 'training') this.#hash.update('|')
  }

  /** Completes the folder. */
  finish(): void {
    const { training, validation } = this.#sides
    const content: StoreFile = {
      format: 1,
      width: this.#width,
      hash: this.#hash.digest('hex'),
      documents: { training: training.documents, validation: validation.documents },
      fileHashes: { training: training.finish(), validation: validation.finish() },
    }
    writeFileAtomic(join(this.#folder, fileName), JSON.stringify(content))
  }

  [Symbol.dispose](): void {
    for (const side of sides) this.#sides[side].close()
  }
}

class SideWriter {
  readonly documents: TextDocument[] = []
  readonly #file: HashedFile
  readonly #width: 1 | 2 | 4
  #document: Hash = createHash('sha1')
  #start = 0
  #tokens = 0

  constructor(path: string, width: 1 | 2 | 4) {
    this.#file = new HashedFile(path)
    this.#width = width
  }

  add(tokens: Int32Array): void {
    const bytes = bytesOf(this.#width === 4 ? tokens : new arrays[this.#width](tokens))
    this.#file.write(bytes)
    this.#document.update(bytes)
    this.#tokens += tokens.length
  }

  endDocument(file: number): void {
    const digest = this.#document.digest()
    const hash = (digest.readUInt32LE(4) & 0x1fffff) * 4294967296 + digest.readUInt32LE(0)
    this.documents.push({ file, start: this.#start, tokens: this.#tokens, hash })
    this.#start += this.#tokens
    this.#tokens = 0
    this.#document = createHash('sha1')
  }

  /** SHA-256 of what was written. */
  finish(): string {
    return this.#file.finish()
  }

  close(): void {
    this.#file[Symbol.dispose]()
  }
}

function bytesOf({ buffer, byteOffset, byteLength }: Int32Array | Uint16Array | Uint8Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength)
}

/** A row of tokens of which parts are asked for: an array, or what lies in a file. */
export interface TokenRow {
  readonly length: number
  /** The tokens from place `start` up to place `end`. */
  subarray(start: number, end: number): Int32Array
}

class TokenFile implements TokenRow {
  readonly length: number
  readonly #file: number
  readonly #width: 1 | 2 | 4

  constructor(path: string, length: number, width: 1 | 2 | 4) {
    this.length = length
    this.#width = width
    this.#file = openSync(path, 'r')
  }

  subarray(start: number, end: number): Int32Array {
    const width = this.#width
    const bytes = new Uint8Array((end - start) * width)
    for (let done = 0; done < bytes.length; ) {
      const read = readSync(this.#file, bytes, done, bytes.length - done, start * width + done)
      assert(read > 0, 'the tokens lie in the store as a whole')
      done += read
    }
    return width === 4 ? new Int32Array(bytes.buffer) : new Int32Array(new arrays[width](bytes.buffer))
  }

  close(): void {
    closeSync(this.#file)
  }
}

export class TokenStore implements Disposable {
  /** SHA-256 of the training tokens. */
  readonly hash: string
  readonly documents: Readonly<Record<Side, readonly TextDocument[]>>
  readonly rows: Readonly<Record<Side, TokenRow>>
  readonly #files: readonly TokenFile[]

  /** Opens a folder that {@link TokenWriter} completed; throws an Error that says what is damaged. */
  static async open(folder: string, pause: Pause): Promise<TokenStore> {
    const content = JSON.parse(readFileSync(join(folder, fileName), 'utf8')) as StoreFile
    assert(content.format === 1, 'the store has the format of this version')
    for (const side of sides) {
      const found = await hashOfLargeFile(join(folder, nameOf(side)), pause)
      if (found !== content.fileHashes[side]) throw new Error(`${nameOf(side)} is damaged`)
    }
    return new TokenStore(folder, content)
  }

  private constructor(folder: string, { width, hash, documents }: StoreFile) {
    this.hash = hash
    this.documents = documents
    const files = sides.map((side) => {
      const length = documents[side].reduce((sum, { tokens }) => sum + tokens, 0)
      return new TokenFile(join(folder, nameOf(side)), length, width)
    })
    this.rows = { training: files[0]!, validation: files[1]! }
    this.#files = files
  }

  [Symbol.dispose](): void {
    for (const file of this.#files) file.close()
  }
}
