/**
 * Samples in a folder on disk, written once and read by number: what is in memory is an index of some 50 bytes
 * a sample, however large the data is.
 *
 * samples.bin holds, for each sample, its tokens (int32) and then its weights as runs (length int32, weight
 * float32), little-endian; index.bin its columns; store.json the rest and the SHA-256 of both.
 */
import { createHash, type Hash } from 'node:crypto'
import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { assert } from '../../base/assert.ts'
import { messageOf } from '../../base/errors.ts'
import { hashOfFile, writeFileAtomic } from '../../base/files.ts'
import type { DocumentList } from '../packing.ts'
import type { DataProblem, ProblemCode } from './load.ts'
import { type Sample, type SourceLine, trainedTokens } from './sample.ts'

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
  format: 1
  /** SHA-256 of samples.bin and of index.bin. */
  samplesHash: string
  indexHash: string
}

const bodyName = 'samples.bin'
const indexName = 'index.bin'
const fileName = 'store.json'

/** Columns of the index beside the offsets, each of one int32 a sample. */
const columnNames = ['tokens', 'runs', 'trained', 'file', 'line', 'hashLow', 'hashHigh'] as const
type ColumnName = (typeof columnNames)[number]

export class StoreWriter implements Disposable {
  readonly #folder: string
  readonly #file: number
  readonly #hash: Hash = createHash('sha256')
  readonly #offsets: number[] = []
  readonly #columns: Record<ColumnName, number[]>
  readonly #paths = new Map<string, number>()
  #held: Buffer[] = []
  #heldBytes = 0
  #offset = 0
  #closed = false

  constructor(folder: string) {
    mkdirSync(folder, { recursive: true })
    this.#folder = folder
    this.#file = openSync(join(folder, bodyName), 'w')
    this.#columns = { tokens: [], runs: [], trained: [], file: [], line: [], hashLow: [], hashHigh: [] }
  }

  add(sample: Sample): void {
    const { tokens, weights, source } = sample
    const runs = runsOf(weights)
    const bytes = Buffer.concat([view(tokens), view(runs.lengths), view(runs.weights)])
    // Equal samples have equal hashes: duplicates are found by them, and held out together.
    const digest = createHash('sha1').update(bytes).digest()
    const row: Record<ColumnName, number> = {
      tokens: tokens.length,
      runs: runs.lengths.length,
      trained: trainedTokens(sample),
      file: this.#fileNumber(source.file),
      line: source.line,
      hashLow: digest.readInt32LE(0),
      hashHigh: digest.readInt32LE(4),
    }
    for (const name of columnNames) this.#columns[name].push(row[name])
    this.#offsets.push(this.#offset)
    this.#offset += bytes.length
    this.#held.push(bytes)
    this.#heldBytes += bytes.length
    if (this.#heldBytes >= 1 << 20) this.#flush()
  }

  /** Completes the folder. */
  finish(report: Omit<StoreReport, 'files'>, formats: ReadonlyMap<string, string>): void {
    this.#flush()
    fsyncSync(this.#file)
    this.#close()
    const index = Buffer.concat([
      view(Float64Array.from(this.#offsets)),
      ...columnNames.map((name) => view(Int32Array.from(this.#columns[name]))),
    ])
    writeFileAtomic(join(this.#folder, indexName), index)
    const content: StoreFile = {
      format: 1,
      samplesHash: this.#hash.digest('hex'),
      indexHash: createHash('sha256').update(index).digest('hex'),
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

  #flush(): void {
    const bytes = Buffer.concat(this.#held)
    for (let done = 0; done < bytes.length; ) done += writeSync(this.#file, bytes, done)
    this.#hash.update(bytes)
    this.#held = []
    this.#heldBytes = 0
  }

  #close(): void {
    if (!this.#closed) closeSync(this.#file)
    this.#closed = true
  }

  [Symbol.dispose](): void {
    this.#close()
  }
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

function view(array: Int32Array | Float32Array | Float64Array): Buffer {
  return Buffer.from(array.buffer, array.byteOffset, array.byteLength)
}

export class SampleStore implements DocumentList, Disposable {
  readonly report: StoreReport
  /** SHA-256 of all tokens and weights. */
  readonly hash: string
  readonly #file: number
  readonly #offsets: Float64Array
  readonly #columns: Record<ColumnName, Int32Array>

  /** Opens a folder that {@link StoreWriter} completed; throws an Error that says what is damaged. */
  constructor(folder: string) {
    const { format, samplesHash, indexHash, ...report } = readStoreFile(folder)
    assert(format === 1, 'the store has the format of this version')
    const index = readFileSync(join(folder, indexName))
    if (createHash('sha256').update(index).digest('hex') !== indexHash)
      throw new Error(`${indexName} is damaged`)
    if (hashOfFile(join(folder, bodyName)) !== samplesHash) throw new Error(`${bodyName} is damaged`)
    const { samples } = report
    const bytes = index.buffer.slice(index.byteOffset, index.byteOffset + index.byteLength)
    this.#offsets = new Float64Array(bytes, 0, samples)
    const column = (place: number) => new Int32Array(bytes, samples * (8 + 4 * place), samples)
    this.#columns = Object.fromEntries(columnNames.map((name, place) => [name, column(place)])) as Record<
      ColumnName,
      Int32Array
    >
    this.report = report
    this.hash = samplesHash
    this.#file = openSync(join(folder, bodyName), 'r')
  }

  get length(): number {
    return this.report.samples
  }

  lengthOf(index: number): number {
    return this.#columns.tokens[index]!
  }

  /** How many tokens of a sample are learned. */
  trainedOf(index: number): number {
    return this.#columns.trained[index]!
  }

  /** Equal for equal samples. */
  hashOf(index: number): number {
    const low = this.#columns.hashLow[index]! >>> 0
    return (this.#columns.hashHigh[index]! & 0x1fffff) * 4294967296 + low
  }

  sourceOf(index: number): SourceLine {
    const file = this.report.files[this.#columns.file[index]!]!.path
    return { file, line: this.#columns.line[index]! }
  }

  at(index: number): Sample {
    const length = this.lengthOf(index)
    const runs = this.#columns.runs[index]!
    const bytes = new Uint8Array(4 * length + 8 * runs)
    const read = readSync(this.#file, bytes, 0, bytes.length, this.#offsets[index]!)
    assert(read === bytes.length, 'a sample lies in the store as a whole')
    const lengths = new Int32Array(bytes.buffer, 4 * length, runs)
    const values = new Float32Array(bytes.buffer, 4 * (length + runs), runs)
    const weights = new Float32Array(length)
    let done = 0
    for (const [run, size] of lengths.entries()) weights.fill(values[run]!, done, (done += size))
    return { tokens: new Int32Array(bytes.buffer, 0, length), weights, source: this.sourceOf(index) }
  }

  [Symbol.dispose](): void {
    closeSync(this.#file)
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
