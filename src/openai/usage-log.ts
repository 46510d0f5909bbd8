import {
  closeSync,
  existsSync,
  fdatasync,
  fdatasyncSync,
  fstatSync,
  mkdirSync,
  openSync,
  renameSync,
  writeSync,
} from 'node:fs'
import { dirname } from 'node:path'
import type { Usage } from '../api/completions.ts'
import type { Clock } from '../base/clock.ts'
import { messageOf } from '../base/errors.ts'

export interface UsageLogLimits {
  /** Bytes of one file, after which it becomes FILE.1 and so on. */
  fileBytesMax: number
  /** Files that are kept beside the current one; the oldest goes first. */
  olderFilesMax: number
  /** A line is on the disk itself, not only with the operating system, after so long at most. */
  syncMs: number
}

export const usageLogLimits: UsageLogLimits = {
  fileBytesMax: 64 * 1024 * 1024,
  olderFilesMax: 15,
  syncMs: 1000,
}

/** How a request left the engine. */
export type UsageOutcome = 'ok' | 'cancelled' | 'failed'

/** Whose request it was, as far as this server knows. */
export interface UsageHead {
  /** x-request-id */
  request: string
  tenant: string
  model: string
  /** What a gateway calls its attempt of a request; the same for all attempts of one. */
  call?: string
}

/** Appends bytes to a file; returns how many it took. */
type Append = (file: number, bytes: Buffer) => number

/**
 * What every request used, one line of JSON for each that has ended: `{"at", "request", "call", "tenant", "model",
 * "outcome", "prompt", "cached", "output", "continued"}`.
 *
 * `output` is all of the answer, `continued` those of its tokens that another server had computed before this one
 * went on. So of the lines of one `call`, the one with the most output is the request's usage, and the sum of those is
 * what a gateway bills. A line is written before the end of its answer is sent: no kill loses one that a client has.
 */
export class UsageLog {
  readonly #path: string
  readonly #clock: Clock
  readonly #limits: UsageLogLimits
  readonly #append: Append
  readonly #onFault: (message: string) => void
  #file: number
  #bytes: number
  /** The file ends inside a line. */
  #torn = false
  #syncing: NodeJS.Timeout | undefined
  #lost = 0

  /** `onFault` hears once when lines begin to be lost. `append` is for tests of full disks. */
  constructor(
    path: string,
    clock: Clock,
    options: { limits?: Partial<UsageLogLimits>; append?: Append; onFault: (message: string) => void },
  ) {
    this.#path = path
    this.#clock = clock
    this.#limits = { ...usageLogLimits, ...options.limits }
    this.#append = options.append ?? writeSync
    this.#onFault = options.onFault
    mkdirSync(dirname(path), { recursive: true })
    this.#file = openSync(path, 'a', 0o600)
    this.#bytes = fstatSync(this.#file).size
    // What a kill left of a line must not become the beginning of the next.
    this.#torn = this.#bytes > 0
  }

  /** Lines that could not be written. An answer is worth more than its line: it goes out all the same. */
  get lost(): number {
    return this.#lost
  }

  write(head: UsageHead, outcome: UsageOutcome, usage: Usage, continued: number): void {
    const line = {
      at: this.#clock.unixMs(),
      ...head,
      outcome,
      prompt: usage.prompt_tokens,
      cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
      output: usage.completion_tokens,
      ...(continued > 0 && { continued }),
    }
    try {
      this.#put(Buffer.from(`${this.#torn ? '\n' : ''}${JSON.stringify(line)}\n`))
    } catch (error) {
      this.#torn = true
      if (this.#lost++ === 0) this.#onFault(`The usage log cannot be written: ${messageOf(error)}.`)
    }
  }

  close(): void {
    clearTimeout(this.#syncing)
    fdatasyncSync(this.#file)
    closeSync(this.#file)
  }

  #put(bytes: Buffer): void {
    if (this.#bytes > 0 && this.#bytes + bytes.length > this.#limits.fileBytesMax) this.#rotate()
    const written = this.#append(this.#file, bytes)
    this.#bytes += written
    if (written < bytes.length) throw new Error(`${written} of ${bytes.length} bytes were written`)
    this.#torn = false
    this.#syncing ??= setTimeout(() => this.#sync(), this.#limits.syncMs)
  }

  #sync(): void {
    this.#syncing = undefined
    fdatasync(this.#file, (error) => {
      // A file that was rotated away meanwhile was synced then.
      if (error !== null && error.code !== 'EBADF')
        this.#onFault(`The usage log cannot be synced: ${error.message}.`)
    })
  }

  #rotate(): void {
    const { olderFilesMax } = this.#limits
    for (let number = olderFilesMax - 1; number >= 0; number--) {
      const from = number === 0 ? this.#path : `${this.#path}.${number}`
      if (existsSync(from)) renameSync(from, `${this.#path}.${number + 1}`)
    }
    const next = openSync(this.#path, 'a', 0o600)
    fdatasyncSync(this.#file)
    closeSync(this.#file)
    this.#file = next
    this.#bytes = 0
    this.#torn = false
  }
}
