import type { Clock } from '../../base/clock.ts'
import { Problem } from '../../http/problem.ts'
import type { Caller } from './keys.ts'

const minuteMs = 60_000
/** Keys that are remembered; beyond them those that are full again are forgotten. */
const keysMax = 100_000

interface Spent {
  requests: Bucket
  tokens: Bucket
  running: number
}

/** What is left of a minute's worth that refills steadily; below zero it is owed. */
class Bucket {
  left: number
  #atMs: number

  constructor(perMinute: number, nowMs: number) {
    this.left = perMinute
    this.#atMs = nowMs
  }

  refill(perMinute: number, nowMs: number): void {
    if (perMinute === Infinity) this.left = Infinity
    else this.left = Math.min(perMinute, this.left + ((nowMs - this.#atMs) / minuteMs) * perMinute)
    this.#atMs = nowMs
  }
}

/**
 * Limits per key. Requests are counted when they come; tokens when they are known, so a key may overdraw once
 * and then waits until its minute's worth is above zero again.
 */
export class RateLimits {
  readonly #clock: Clock
  readonly #spent = new Map<string, Spent>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Takes a place for one request, to be given back by the returned call; throws 429 with Retry-After. */
  admit({ key, limits }: Caller): () => void {
    const { requestsPerMinute = Infinity, tokensPerMinute = Infinity, concurrent = Infinity } = limits
    if (requestsPerMinute === Infinity && tokensPerMinute === Infinity && concurrent === Infinity)
      return () => {}
    const spent = this.#of(key, requestsPerMinute, tokensPerMinute)
    if (spent.running >= concurrent) {
      throw refusal(`This key may run ${concurrent} requests at once.`, 1000)
    }
    if (spent.requests.left < 1) {
      const waitMs = ((1 - spent.requests.left) / requestsPerMinute) * minuteMs
      throw refusal(`This key may send ${requestsPerMinute} requests a minute.`, waitMs)
    }
    if (spent.tokens.left <= 0) {
      const waitMs = (-spent.tokens.left / tokensPerMinute) * minuteMs
      throw refusal(`This key may use ${tokensPerMinute} tokens a minute.`, waitMs)
    }
    spent.requests.left--
    spent.running++
    let given = false
    return () => {
      if (!given) spent.running--
      given = true
    }
  }

  /** Charges the tokens of a request that has ended. */
  charge({ key }: Caller, tokens: number): void {
    const spent = this.#spent.get(key)
    if (spent !== undefined) spent.tokens.left -= tokens
  }

  #of(key: string, requestsPerMinute: number, tokensPerMinute: number): Spent {
    const nowMs = this.#clock.nowMs()
    let spent = this.#spent.get(key)
    if (spent === undefined) {
      if (this.#spent.size >= keysMax) this.#forget()
      spent = {
        requests: new Bucket(requestsPerMinute, nowMs),
        tokens: new Bucket(tokensPerMinute, nowMs),
        running: 0,
      }
      this.#spent.set(key, spent)
    }
    spent.requests.refill(requestsPerMinute, nowMs)
    spent.tokens.refill(tokensPerMinute, nowMs)
    return spent
  }

  /** The oldest idle half: what they lose is at most a refill. */
  #forget(): void {
    const idle = [...this.#spent].filter(([, { running }]) => running === 0)
    for (const [key] of idle.slice(0, Math.ceil(idle.length / 2))) this.#spent.delete(key)
  }
}

function refusal(message: string, waitMs: number): Problem {
  const seconds = Math.max(1, Math.ceil(waitMs / 1000))
  return new Problem(429, 'rate_limit_exceeded', `${message} Retry in ${seconds} s.`, {
    headers: { 'retry-after': String(seconds) },
  })
}
