import { closeSync, fchmodSync, openSync, writeSync } from 'node:fs'

/** One iteration as `--trace FILE` shows it: one such object a line. */
export interface TraceLine {
  iteration: number
  /** Milliseconds on the engine's clock when the iteration was planned. */
  timeMs: number
  budgetTokens: number
  sequences: readonly { id: string; start: number; count: number; outputs: number }[]
  joined: readonly string[]
  preempted: readonly string[]
  finished: readonly string[]
  waiting: number
  blocks: { free: number; cached: number; held: number }
  computeMs: number
  hostMs: number
}

const bufferedCharactersMax = 65536

/** Lines of JSON to a file, buffered; whoever owns it flushes it when there is time, and closes it. */
export class LineFile {
  readonly #file: number
  #lines: string[] = []
  #characters = 0

  /** A private file can be read by its owner alone, also where it was there before. */
  constructor(path: string, access: 'usual' | 'private' = 'usual') {
    this.#file = openSync(path, 'w', access === 'private' ? 0o600 : 0o666)
    if (access === 'private') fchmodSync(this.#file, 0o600)
  }

  write(value: unknown): void {
    const line = `${JSON.stringify(value)}\n`
    this.#lines.push(line)
    this.#characters += line.length
    if (this.#characters > bufferedCharactersMax) this.flush()
  }

  flush(): void {
    if (this.#lines.length === 0) return
    const bytes = Buffer.from(this.#lines.join(''))
    for (let offset = 0; offset < bytes.length; ) offset += writeSync(this.#file, bytes, offset)
    this.#lines = []
    this.#characters = 0
  }

  close(): void {
    this.flush()
    closeSync(this.#file)
  }
}
