/** Time as an argument, so that schedulers and loops can be simulated. */
export interface Clock {
  /** Milliseconds on a clock that never steps back; its zero means nothing. */
  nowMs(): number
  /** Milliseconds since 1970, for timestamps that people and other machines read. */
  unixMs(): number
}

export const systemClock: Clock = {
  nowMs: () => performance.now(),
  unixMs: () => Date.now(),
}

/** A clock that moves only when told. */
export class ManualClock implements Clock {
  #nowMs = 0
  readonly #startUnixMs: number

  constructor(startUnixMs = 0) {
    this.#startUnixMs = startUnixMs
  }

  nowMs(): number {
    return this.#nowMs
  }

  unixMs(): number {
    return this.#startUnixMs + this.#nowMs
  }

  advance(ms: number): void {
    this.#nowMs += ms
  }
}
