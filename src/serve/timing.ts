import type { RequestTiming } from './request.ts'

/**
 * Where the time of one request went. Every moment between arrival and end is charged to exactly one part,
 * so the parts add up to the latency.
 */
export class Stopwatch {
  readonly #parts: RequestTiming = {
    queueMs: 0,
    promptMs: 0,
    decodeMs: 0,
    waitingForBudgetMs: 0,
    preemptedMs: 0,
  }
  #chargedUntilMs: number

  constructor(nowMs: number) {
    this.#chargedUntilMs = nowMs
  }

  /** Charges the time since the last charge. */
  charge(part: keyof RequestTiming, nowMs: number): void {
    this.#parts[part] += nowMs - this.#chargedUntilMs
    this.#chargedUntilMs = nowMs
  }

  parts(): RequestTiming {
    return { ...this.#parts }
  }
}
