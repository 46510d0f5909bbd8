/**
 * Samples in a folder on disk, written once and read by number: what is in memory is 16 bytes a sample, however large
 * the data is.
 *
 * samples.bin holds, for each sample, its tokens (int32) and then its weights as runs (all lengths int32, then all
 * weights float32), little-endian; index.bin a row of 40 bytes for each; store.json the rest and the SHA-256 of both.
 */
import { createHash } from 'node:crypto'
import { closeSync, fstatSync, mkdirSync, openSync, readFileSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { assert } from '../../base/assert.ts'
import { messageOf } from '../../base/errors.ts'
import { hashOfLargeFile, writeFileAtomic } from '../../base/files.ts'
import type { Pause } from '../../base/pauses.ts'
import { HashedFile } from './hashed-file.ts'
import type { DataProblem, ProblemCode } from './load.ts'
import { type Sample, type SourceLine, trainedTokens } from './sample.ts'
import type { SampleList } from './sample-list.ts'

/** What was seen while the samples were made. */
export interface StoreReport {
  samples: number
  tokens: number
  trainedTokens: number
  /** Samples in which an ending token is learned, so that the model learns to stop. */
  endingSamples: number
  /** Samples that were cut to the context. */
  cutSamples: number
  longestTokens: number
  /** Format of each file. */
  files: { path: string; format: string }[]
  /** Records that cannot be learned from, by what is wrong with them. */
  problemCounts: Partial<Record<ProblemCode, number>>
  /** The first of them. */
  problems: DataProblem[]
  notes: string[]
}

interface StoreFile extends StoreReport {
  format: 2
  /** Files that the samples were made from, where they lay then. */
  madeFrom: readonly string[]
  /** SHA-256 of samples.bin and of index.bin. */
  samplesHash: string
  indexHash: string
}

const bodyName = 'samples.bin'
const indexName = 'index.bin'
const fileName = 'store.json'

/** Places of a row of the index, in units of 4 bytes; offset, hash and promptHash take two. */
const columns = { offset: 0, hash: 2, promptHash: 4, tokens: 6, trained: 7, file: 8, line: 9 } as const
const rowBytes = 40

export class StoreWriter implements Disposable {
  readonly #folder: string
  readonly #body: HashedFile
  readonly #index: HashedFile
  readonly #paths = new Map<string, number>()
  #offset = 0

  constructor(folder: string) {
    mkdirSync(folder, { recursive: true })
    this.#folder = folder
    this.#body = new HashedFile(join(folder, bodyName))
    this.#index = new HashedFile(join(folder, indexName))
  }

  add(sample: Sample): void {
    const { tokens, weights, source } = sample
    const runs = runsOf(weights)
    const bytes = Buffer.concat([view(tokens), view(runs.lengths), view(runs.weights)])
    const row = Buffer.allocUnsafe(rowBytes)
    row.writeDoubleLE(this.#offset, 4 * columns.offset)
    // Equal samples have equal hashes: duplicates are found by them, and held out together.
    row.writeDoubleLE(hashOfBytes(bytes), 4 * columns.hash)
    row.writeDoubleLE(promptHashOf(sample), 4 * columns.promptHash)
    row.writeInt32LE(tokens.length, 4 * columns.tokens)
    row.writeInt32LE(trainedTokens(sample), 4 * columns.trained)
    row.writeInt32LE(this.#fileNumber(source.file), 4 * columns.file)
    row.writeInt32LE(source.line, 4 * columns.line)
    this.#index.write(row)
    this.#body.write(bytes)
    this.#offset += bytes.length
  }

  /** Completes the folder. */
  finish(
    report: Omit<StoreReport, 'files'>,
    formats: ReadonlyMap<string, string>,
    madeFrom: readonly string[] = [],
  ): void {
    const content: StoreFile = {
      format: 2,
      madeFrom,
      samplesHash: this.#body.finish(),
      indexHash: this.#index.finish(),
      ...report,
      files: [...this.#paths.keys()].map((path) => ({ path, format: formats.get(path) ?? '' })),
    }
    writeFileAtomic(join(this.#folder, fileName), JSON.stringify(content))
  }

  #fileNumber(path: string): number {
    const known = this.#paths.get(path)
    if (known !== undefined) return known
    this.#paths.set(path, this.#paths.size)
    return this.#paths.size - 1
  }

  [Symbol.dispose](): void {
    this.#body[Symbol.dispose]()
    this.#index[Symbol.dispose]()
  }
}

/** 53 bits of SHA-1: equal for equal bytes, and for others only by a chance of one in 10^16. */
export function hashOfBytes(...parts: readonly Uint8Array[]): number {
  const hash = createHash('sha1')
  for (const part of parts) hash.update(part)
  const digest = hash.digest()
  return (digest.readUInt32LE(4) & 0x1fffff) * 4294967296 + digest.readUInt32LE(0)
}

/** Of what stands before the first token that is learned; 0 for a sample that is learned from its beginning. */
export function promptHashOf({ tokens, weights }: Pick<Sample, 'tokens' | 'weights'>): number {
  let length = 1
  while (length < weights.length && weights[length] === 0) length++
  return length <= 1 ? 0 : hashOfBytes(view(tokens.subarray(0, length)))
}

function runsOf(weights: Float32Array): { lengths: Int32Array; weights: Float32Array } {
  const lengths: number[] = []
  const values: number[] = []
  for (let from = 0, to = 0; from < weights.length; from = to) {
    while (to < weights.length && weights[to] === weights[from]) to++
    lengths.push(to - from)
    values.push(weights[from]!)
  }
  return { lengths: Int32Array.from(lengths), weights: Float32Array.from(values) }
}

function view(array: Int32Array | Float32Array): Buffer {
  return Buffer.from(array.buffer, array.byteOffset, array.byteLength)
}

/** Rows of the index that are read at a time. */
const pageRows = 128

export class SampleStore implements SampleList, Disposable {
  readonly report: StoreReport
  /** SHA-256 of all tokens and weights. */
  readonly hash: string
  readonly #body: number
  readonly #index: number
  /** Where each sample begins in samples.bin, and where the last one ends; and what packing asks of each. */
  readonly #offsets: Float64Array
  readonly #tokens: Int32Array
  readonly #trained: Int32Array
  /** The rows of the index around the one that was asked for last. */
  #page = { first: -1, bytes: new DataView(new ArrayBuffer(0)) }

  /**
   * Opens a folder that {@link StoreWriter} completed; throws an Error that says what is damaged. `paths`: where the
   * files that it was made from lie now.
   */
  static async open(folder: string, pause: Pause, paths: readonly string[] = []): Promise<SampleStore> {
    const content = readStoreFile(folder)
    assert(content.format === 2, 'the store has the format of this version')
    for (const [name, hash] of [
      [indexName, content.indexHash],
      [bodyName, content.samplesHash],
    ] as const) {
      const found = await hashOfLargeFile(join(folder, name), pause)
      if (found !== hash) throw new Error(`${name} is damaged`)
    }
    return new SampleStore(folder, content, paths)
  }

  private constructor(
    folder: string,
    { format: _, samplesHash, indexHash: __, madeFrom, ...written }: StoreFile,
    paths: readonly string[],
  ) {
    const report = moved(written, madeFrom, paths)
    this.report = report
    this.hash = samplesHash
    this.#offsets = new Float64Array(report.samples + 1)
    this.#tokens = new Int32Array(report.samples)
    this.#trained = new Int32Array(report.samples)
    this.#body = openSync(join(folder, bodyName), 'r')
    this.#index = openSync(join(folder, indexName), 'r')
    for (let i = 0; i < report.samples; i++) {
      this.#offsets[i] = this.#float(i, columns.offset)
      this.#tokens[i] = this.#int(i, columns.tokens)
      this.#trained[i] = this.#int(i, columns.trained)
    }
    this.#offsets[report.samples] = fstatSync(this.#body).size
  }

  get length(): number {
    return this.report.samples
  }

  /** Memory that is held for as long as the store is open. */
  get indexBytes(): number {
    return this.#offsets.byteLength + this.#tokens.byteLength + this.#trained.byteLength
  }

  lengthOf(index: number): number {
    return this.#tokens[index]!
  }

  /** How many tokens of a sample are learned. */
  trainedOf(index: number): number {
    return this.#trained[index]!
  }

  hashOf(index: number): number {
    return this.#float(index, columns.hash)
  }

  promptHashOf(index: number): number {
    return this.#float(index, columns.promptHash)
  }

  sourceOf(index: number): SourceLine {
    const file = this.report.files[this.#int(index, columns.file)]!.path
    return { file, line: this.#int(index, columns.line) }
  }

  /** The whole sample. */
  at(index: number): Sample {
    return this.part(index, 0, this.lengthOf(index))
  }

  part(index: number, start: number, end: number): Sample {
    const offset = this.#offsets[index]!
    const runsOffset = offset + 4 * this.lengthOf(index)
    const tokens = new Int32Array(end - start)
    read(this.#body, view(tokens), offset + 4 * start)
    const runBytes = Buffer.alloc(this.#offsets[index + 1]! - runsOffset)
    read(this.#body, runBytes, runsOffset)
    const runs = runBytes.length / 8
    const weights = new Float32Array(end - start)
    for (let run = 0, from = 0; run < runs; run++) {
      const to = from + runBytes.readInt32LE(4 * run)
      if (to > start && from < end)
        weights.fill(runBytes.readFloatLE(4 * (runs + run)), Math.max(0, from - start), to - start)
      from = to
    }
    return { tokens, weights, source: this.sourceOf(index) }
  }

  #int(index: number, column: number): number {
    const place = this.#place(index) + 4 * column
    return this.#page.bytes.getInt32(place, true)
  }

  #float(index: number, column: number): number {
    const place = this.#place(index) + 4 * column
    return this.#page.bytes.getFloat64(place, true)
  }

  /** Where the row lies in the page, which is read when it is another one. */
  #place(index: number): number {
    const first = index - (index % pageRows)
    if (this.#page.first !== first) {
      const bytes = Buffer.alloc(Math.min(pageRows, this.length - first) * rowBytes)
      read(this.#index, bytes, first * rowBytes)
      this.#page = { first, bytes: new DataView(bytes.buffer, bytes.byteOffset, bytes.length) }
    }
    return (index - first) * rowBytes
  }

  [Symbol.dispose](): void {
    closeSync(this.#body)
    closeSync(this.#index)
  }
}

function read(file: number, bytes: Buffer, offset: number): void {
  for (let done = 0; done < bytes.length; ) {
    const count = readSync(file, bytes, done, bytes.length - done, offset + done)
    assert(count > 0, 'a sample lies in the store as a whole')
    done += count
  }
}

/** The report with files named as they are called now: the same content may have lain elsewhere. */
function moved(report: StoreReport, from: readonly string[], to: readonly string[]): StoreReport {
  const names = new Map(to.map((path, i) => [from[i], path]))
  const nameOf = (path: string) => names.get(path) ?? path
  return {
    ...report,
    files: report.files.map(({ path, format }) => ({ path: nameOf(path), format })),
    problems: report.problems.map((problem) => ({
      ...problem,
      source: { ...problem.source, file: nameOf(problem.source.file) },
    })),
  }
}

function readStoreFile(folder: string): StoreFile {
  const path = join(folder, fileName)
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as StoreFile
  } catch (error) {
    throw new Error(`${path} cannot be read: ${messageOf(error)}`, { cause: error })
  }
}
