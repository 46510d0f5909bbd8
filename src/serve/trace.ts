import { closeSync, fchmodSync, openSync, writeSync } from 'node:fs'
import { messageOf, UserError } from '../base/errors.ts'

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

export interface LineFileOptions {
  /** A private file can be read by its owner alone, also where it was there before. */
  access?: 'usual' | 'private'
  /** Hears once why the file ends before its time. */
  onFault?: (message: string) => void
}

/**
 * Lines of JSON to a file, buffered; whoever owns it flushes it when there is time, and closes it. What is observed matters
 * more than the observation: a file that cannot be written any more ends there, and nothing fails.
 */
export class LineFile {
  readonly #path: string
  readonly #file: number
  readonly #onFault: (message: string) => void
  #lines: string[] = []
  #characters = 0
  #hasEnded = false

  /** Throws a UserError where the file cannot be opened. */
  constructor(path: string, { access = 'usual', onFault = () => {} }: LineFileOptions = {}) {
    this.#path = path
    this.#onFault = onFault
    try {
      this.#file = openSync(path, 'w', access === 'private' ? 0o600 : 0o666)
    } catch (error) {
      const fix = 'Choose another file; its folder must be there.'
      throw new UserError(`${path} cannot be written: ${messageOf(error)}.`, { fix, cause: error })
    }
    if (access === 'private') fchmodSync(this.#file, 0o600)
  }

  write(value: unknown): void {
    if (this.#hasEnded) return
    const line = `${JSON.stringify(value)}\n`
    this.#lines.push(line)
    this.#characters += line.length
    if (this.#characters > bufferedCharactersMax) this.flush()
  }

  flush(): void {
    if (this.#lines.length === 0) return
    const bytes = Buffer.from(this.#lines.join(''))
    this.#lines = []
    this.#characters = 0
    try {
      for (let offset = 0; offset < bytes.length; ) offset += writeSync(this.#file, bytes, offset)
    } catch (error) {
      // Lines behind a hole would tell of something else.
      this.#hasEnded = true
      this.#onFault(`${this.#path} ends here, for it cannot be written: ${messageOf(error)}.`)
    }
  }

  close(): void {
    this.flush()
    closeSync(this.#file)
  }
}
