import type { Expectation } from './estimates.ts'
import { hashText, hashTokens } from './hash.ts'
import type { CacheNode } from './prefix-cache.ts'
import type { EngineRequest, Finish, FinishReason } from './request.ts'
import type { Tenant } from './tenants.ts'
import { Stopwatch } from './timing.ts'

/** Priorities beyond the last class count as the last class. */
export const priorityClasses = 8

const roomTokensMax = 256
const room: readonly number[] = Array.from({ length: roomTokensMax }, () => 0)

/** A copy of `tokens` to which `count` more can be appended without moving it; V8 keeps the room of a cut array. */
function withRoom(tokens: readonly number[], count: number): number[] {
  const copy = tokens.concat(count === roomTokensMax ? room : room.slice(0, count))
  copy.length = tokens.length
  return copy
}

/**
 * One request as the scheduler sees it: a list of tokens, of which the first `computed` have their keys
 * and values in the cache. The rest is owed; paying the last owed token yields the next token.
 */
export class Sequence {
  readonly id: string
  readonly request: EngineRequest
  readonly tenant: Tenant
  /** Counts up over all requests of a scheduler; smaller is older. */
  readonly arrival: number
  readonly arrivedMs: number
  /** The class that the client asked for. */
  readonly priority: number
  readonly watch: Stopwatch
  /** Prompt, then everything generated. Only ever appended to. */
  readonly tokens: number[]

  /** The class it was admitted in: the asked one, improved by waiting. Smaller is more urgent. */
  rank: number
  state: 'waiting' | 'running' | 'ended' = 'waiting'
  /** True from the first join on; such a request waits again only because it was preempted. */
  started = false
  /** Its next token cannot be chosen yet: of what it owes, the last token is left. */
  held = false
  computed = 0
  /** The most that was ever computed or found; below it everything is repetition. */
  computedMost = 0
  cachedTokens = 0
  /** Prompt tokens below this place were charged at the price of cached ones. */
  chargedAsCached = 0
  /** Prompt positions whose rows were read, for their log-probabilities or for the mean of their states. */
  promptRowsDone = 0
  blocks: number[] = []
  /** The published blocks at the head of `blocks`, as the prefix cache knows them. */
  nodes: CacheNode[] = []
  /** The iteration that last computed something for it. */
  plannedIteration = -1

  // Links of the waiting queue (see queue.ts) and of the heap that wakes it.
  laneNext: Sequence | undefined
  lanePrevious: Sequence | undefined
  effectiveClass = 0
  wakeMs = 0
  heapIndex = -1
  /** What was said about its start (see estimates.ts). */
  expectation: Expectation | undefined

  readonly #blockTokens: number
  readonly #hashes: number[] = []
  #scope: string | undefined

  constructor(request: EngineRequest, tenant: Tenant, arrival: number, nowMs: number, blockTokens: number) {
    this.id = request.id
    this.request = request
    this.tenant = tenant
    this.arrival = arrival
    this.arrivedMs = nowMs
    this.priority = Math.min(priorityClasses - 1, request.priority)
    this.rank = this.priority
    this.watch = new Stopwatch(nowMs)
    this.tokens = withRoom(request.prompt, Math.min(request.maxTokens, roomTokensMax))
    for (const token of request.generated ?? []) this.tokens.push(token)
    this.#blockTokens = blockTokens
  }

  /** Who may share its blocks: only requests of the same scope. */
  get scope(): string {
    const { tenant, cacheSalt, adapter } = this.request
    this.#scope ??= JSON.stringify([tenant, cacheSalt ?? '', adapter ?? ''])
    return this.#scope
  }

  get promptTokens(): number {
    return this.request.prompt.length
  }

  get generatedTokens(): number {
    return this.tokens.length - this.request.prompt.length
  }

  /** Tokens whose keys and values are missing. Never 0 for a request that has not ended. */
  get owed(): number {
    return this.tokens.length - this.computed
  }

  /** Of those, how many may be computed now. */
  get due(): number {
    return this.owed - (this.held ? 1 : 0)
  }

  /** Whether it is due one token, which yields the next. */
  get streams(): boolean {
    return this.owed === 1 && !this.held
  }

  /** Whether rows of its prompt before the last are still to be read. */
  get wantsPromptRows(): boolean {
    const { promptLogprobs, pooling } = this.request
    return (promptLogprobs === true || pooling === 'mean') && this.promptRowsDone < this.promptTokens - 1
  }

  /** Hash of the block at `index` and of everything before it, within its scope. The block must be full. */
  blockHash(index: number): number {
    while (this.#hashes.length <= index) {
      const next = this.#hashes.length
      const parent = next === 0 ? hashText(this.scope) : this.#hashes[next - 1]!
      const from = next * this.#blockTokens
      this.#hashes.push(hashTokens(parent, this.tokens, from, from + this.#blockTokens))
    }
    return this.#hashes[index]!
  }

  /** Charges the time up to now to whatever the request is doing. */
  chargeTime(iteration: number, nowMs: number): void {
    if (this.state === 'waiting') this.watch.charge(this.started ? 'preemptedMs' : 'queueMs', nowMs)
    else if (this.plannedIteration !== iteration) this.watch.charge('waitingForBudgetMs', nowMs)
    else if (this.computed < this.computedMost) this.watch.charge('preemptedMs', nowMs)
    else if (this.computed < this.promptTokens) this.watch.charge('promptMs', nowMs)
    else this.watch.charge('decodeMs', nowMs)
  }

  finish(reason: FinishReason): Finish {
    return {
      reason,
      promptTokens: this.promptTokens,
      cachedTokens: this.cachedTokens,
      generatedTokens: this.generatedTokens,
      timing: this.watch.parts(),
    }
  }
}

/** Whether a request ends with `token` as its `generatedTokens`-th new one. */
export function endOf(
  request: EngineRequest,
  token: number,
  generatedTokens: number,
): 'stop' | 'length' | undefined {
  if (!request.ignoreEos && request.stopTokens.includes(token)) return 'stop'
  return generatedTokens >= request.maxTokens ? 'length' : undefined
}

/** The order in which running requests are served, and the reverse of the order in which they are preempted. */
export function precedes(a: Sequence, b: Sequence): boolean {
  return a.rank < b.rank || (a.rank === b.rank && a.arrival < b.arrival)
}
