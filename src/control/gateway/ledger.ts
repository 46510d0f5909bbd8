import { randomUUID } from 'node:crypto'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { assert } from '../../base/assert.ts'
import type { Clock } from '../../base/clock.ts'
import { messageOf, UserError } from '../../base/errors.ts'
import { syncFolder, writeFileAtomic } from '../../base/files.ts'
import { holdAlone } from '../../base/sole-user.ts'
import { dayOf, noTokens, type Tokens, type UsageRow, UsageSums } from './usage-sums.ts'

/** Bytes of a segment after which a new one begins. */
const segmentBytesMax = 64 * 1024 * 1024
/** How long segments are kept after their sums were taken. */
const segmentDaysMax = 90
/** Both commands that count can be told another place. */
const otherGatewayFix =
  'Stop that one first, or give this one a place of its own: `ropeway gateway --usage FOLDER`, `ropeway up --data FOLDER`.'
const segmentName = /^usage-\d{8,}\.ndjson$/

/** Appends bytes to a file; returns how many it took. */
type Append = (file: number, bytes: Buffer) => number

/** Whose request it is. */
export interface BillHead {
  /** The request's id, as the client and the replicas know it. */
  request: string
  project: string
  key: string
  model: string
}

/** A line of a segment: what was added since the line before of the same request. */
interface Line extends BillHead, Tokens {
  /** Milliseconds since 1970. */
  at: number
}

interface SumsFile {
  rows: UsageRow[]
  /** Segments that are in the rows already. */
  merged: string[]
}

/**
 * Who used how many tokens: lines appended to segments, which are added up when the gateway starts.
 *
 * A request's tokens are written before the end of its answer is sent, so a client that has its whole answer
 * is counted whatever happens to this process. Long streams are written down in between by {@link flush}.
 * Every line stands for itself; a torn last one (a kill inside the write) belongs to an answer that was not sent.
 */
export class Ledger {
  readonly sums = new UsageSums()
  readonly #folder: string
  readonly #clock: Clock
  readonly #open = new Set<Bill>()
  #segment: number
  #file: number
  #bytes = 0

  readonly #append: Append
  /** Two processes would number their segments alike. */
  readonly #lock: Disposable
  /** Tells this ledger from those of other gateways; the same through all of its lives. */
  readonly id: string

  /** Throws a UserError when another living process writes there. `append` is for tests of full disks. */
  constructor(folder: string, clock: Clock, append: Append = writeSync) {
    this.#folder = folder
    this.#append = append
    this.#clock = clock
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    this.#lock = holdAlone(join(folder, 'lock.db'), otherGatewayFix)
    this.id = idOf(folder)
    this.#segment = this.#mergeSegments() + 1
    this.#file = this.#openSegment(this.#segment)
  }

  begin(head: BillHead): Bill {
    const bill = new Bill(head, (bill, tokens) => this.#write(bill, tokens))
    this.#open.add(bill)
    return bill
  }

  /** Writes down what open requests have used since the last time. */
  flush(): void {
    for (const bill of this.#open) bill.flush()
  }

  close(): void {
    this.flush()
    closeSync(this.#file)
    this.#lock[Symbol.dispose]()
  }

  /** Throws a UserError when nothing can be written; what was to be stays with the open bills. */
  #write(bill: Bill, tokens: Tokens): void {
    this.#put(bill, tokens)
    if (bill.settled) this.#open.delete(bill)
  }

  #put(bill: Bill, tokens: Tokens): void {
    if (tokens.requests === 0 && tokens.prompt === 0 && tokens.cached === 0 && tokens.output === 0) return
    const at = this.#clock.unixMs()
    const line: Line = { at, ...bill.head, ...tokens }
    const bytes = Buffer.from(`${JSON.stringify(line)}\n`)
    if (this.#bytes + bytes.length > segmentBytesMax) this.#nextSegment()
    try {
      const written = this.#append(this.#file, bytes)
      if (written < bytes.length) throw new Error(`${written} of ${bytes.length} bytes were written`)
    } catch (error) {
      // What there is of the line must stay the last of its segment, or the next line would be lost with it.
      this.#nextSegment()
      throw new UserError(`The usage ledger ${this.#folder} cannot be written: ${messageOf(error)}.`, {
        fix: 'Make room on the disk; requests are counted again from then on.',
        cause: error,
      })
    }
    this.#bytes += bytes.length
    this.sums.add(rowOf(line))
  }

  #nextSegment(): void {
    const next = this.#openSegment(this.#segment + 1)
    closeSync(this.#file)
    this.#segment++
    this.#file = next
  }

  #openSegment(segment: number): number {
    this.#bytes = 0
    const file = openSync(join(this.#folder, nameOf(segment)), 'wx', 0o600)
    syncFolder(this.#folder)
    return file
  }

  /** Adds up what earlier lives wrote; returns the number of their last segment. */
  #mergeSegments(): number {
    const path = join(this.#folder, 'sums.json')
    const before: SumsFile = existsSync(path)
      ? (JSON.parse(readFileSync(path, 'utf8')) as SumsFile)
      : { rows: [], merged: [] }
    for (const row of before.rows) this.sums.add(row)
    const segments = readdirSync(this.#folder)
      .filter((name) => segmentName.test(name))
      .sort()
    const merged = new Set(before.merged)
    for (const name of segments.filter((name) => !merged.has(name))) {
      for (const line of linesOf(join(this.#folder, name))) this.sums.add(rowOf(line))
    }
    // A crash before this leaves the segments to be added next time; after it, they are named as added.
    writeFileAtomic(path, JSON.stringify({ rows: this.sums.rows(), merged: segments } satisfies SumsFile))
    const oldestMs = this.#clock.unixMs() - segmentDaysMax * 86_400_000
    for (const name of segments) {
      const file = join(this.#folder, name)
      if (statSync(file).mtimeMs < oldestMs) rmSync(file)
    }
    const last = [...segments, ...before.merged].sort().at(-1)
    return last === undefined ? 0 : Number(/\d+/.exec(last)![0])
  }
}

/** The tokens of one request while it runs. */
export class Bill {
  readonly head: BillHead
  readonly #write: (bill: Bill, tokens: Tokens) => void
  #known: Tokens = { ...noTokens }
  #written: Tokens = { ...noTokens }
  #settled = false

  constructor(head: BillHead, write: (bill: Bill, tokens: Tokens) => void) {
    this.head = head
    this.#write = write
  }

  get settled(): boolean {
    return this.#settled
  }

  get tokens(): Readonly<Tokens> {
    return this.#known
  }

  /** Those of them that are in the ledger's sums. */
  get written(): Readonly<Tokens> {
    return this.#written
  }

  /** All that the request has used so far; what is absent stays. */
  update(tokens: Partial<Omit<Tokens, 'requests'>>): void {
    this.#known = { ...this.#known, ...tokens }
  }

  flush(): void {
    const known = { ...this.#known }
    this.#write(this, difference(known, this.#written))
    this.#written = known
  }

  /** The request has ended: its tokens are on file when this returns. One that used none leaves no line. */
  settle(): void {
    assert(!this.#settled, 'a request is billed once')
    this.#settled = true
    const { prompt, output } = this.#known
    if (prompt + output > 0) this.#known.requests = 1
    this.flush()
  }
}

function difference(known: Tokens, written: Tokens): Tokens {
  return {
    requests: known.requests - written.requests,
    prompt: known.prompt - written.prompt,
    cached: known.cached - written.cached,
    output: known.output - written.output,
  }
}

function idOf(folder: string): string {
  const path = join(folder, 'ledger.id')
  if (!existsSync(path)) writeFileAtomic(path, randomUUID())
  return readFileSync(path, 'utf8')
}

function nameOf(segment: number): string {
  return `usage-${String(segment).padStart(8, '0')}.ndjson`
}

function linesOf(path: string): Line[] {
  const lines = readFileSync(path, 'utf8').split('\n')
  // Behind the last line break stands nothing, or what a kill left of a line.
  lines.pop()
  return lines.map((line) => JSON.parse(line) as Line)
}

function rowOf({ at, project, key, model, requests, prompt, cached, output }: Line): UsageRow {
  return { day: dayOf(at), project, key, model, requests, prompt, cached, output }
}
