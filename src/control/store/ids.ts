import { randomFillSync } from 'node:crypto'
import { assert } from '../../base/assert.ts'
import type { Clock } from '../../base/clock.ts'

const alphabet = '0123456789abcdefghjkmnpqrstvwxyz'
const timeCharacters = 10
const randomCharacters = 16

/** Fills with bytes that nobody can guess; tests give their own. */
export type FillRandom = (bytes: Uint8Array) => void

/**
 * Ids that sort by when they were made: `job_` and 26 characters, of which ten are milliseconds and sixteen are
 * random (as in ULID, in lower case). Those of one process ascend strictly, also within a millisecond and when the
 * clock steps back.
 */
export class Ids {
  readonly #clock: Clock
  readonly #fill: FillRandom
  #lastMs = -1
  readonly #random = new Uint8Array(randomCharacters)

  constructor(clock: Clock, fill: FillRandom = (bytes) => void randomFillSync(bytes)) {
    this.#clock = clock
    this.#fill = fill
  }

  next(prefix: string): string {
    const nowMs = Math.floor(this.#clock.unixMs())
    if (nowMs > this.#lastMs) {
      this.#lastMs = nowMs
      this.#fill(this.#random)
      for (let i = 0; i < randomCharacters; i++) this.#random[i]! &= 31
      // Room above for a million ids in the same millisecond and far more.
      this.#random[0]! &= 15
    } else this.#countUp()
    return `${prefix}_${timeText(this.#lastMs)}${Array.from(this.#random, (digit) => alphabet[digit]).join('')}`
  }

  #countUp(): void {
    for (let i = randomCharacters - 1; i >= 0; i--) {
      const digit = (this.#random[i]! + 1) & 31
      this.#random[i] = digit
      if (digit !== 0) return
    }
    assert(false, 'a millisecond has fewer than 2^79 ids')
  }
}

function timeText(ms: number): string {
  let text = ''
  let rest = ms
  for (let i = 0; i < timeCharacters; i++) {
    text = alphabet[rest % 32]! + text
    rest = Math.floor(rest / 32)
  }
  return text
}
