import { assert } from '../base/assert.ts'
import type { BlockPool } from './blocks.ts'
import type { WaitEstimator } from './estimates.ts'
import type { SchedulerOptions } from './options.ts'
import type { PrefixCache } from './prefix-cache.ts'
import { WaitingQueue } from './queue.ts'
import type { EngineRequest, Finish, FinishReason } from './request.ts'
import { RunningSet } from './running.ts'
import { Sequence } from './sequence.ts'
import { TenantLedger } from './tenants.ts'

/**
 * Who waits, who runs, who has ended. Every change of state happens here, together with everything that
 * has to change with it: queue, batch, blocks, tenant, clock of the request.
 */
export class Roster {
  readonly queue: WaitingQueue
  readonly running = new RunningSet()
  readonly ledger: TenantLedger
  readonly #pool: BlockPool
  readonly #cache: PrefixCache<Sequence>
  readonly #waits: WaitEstimator
  readonly #byId = new Map<string, Sequence>()
  #arrivals = 0
  #waitingTokens = 0
  preemptions = 0

  constructor(
    options: SchedulerOptions,
    pool: BlockPool,
    cache: PrefixCache<Sequence>,
    waits: WaitEstimator,
  ) {
    this.queue = new WaitingQueue(options)
    this.ledger = new TenantLedger(options.prices, options.tenantWeights)
    this.#pool = pool
    this.#cache = cache
    this.#waits = waits
  }

  get live(): number {
    return this.#byId.size
  }

  /** Tokens that waiting requests owe. */
  get waitingTokens(): number {
    return this.#waitingTokens
  }

  get(id: string): Sequence | undefined {
    return this.#byId.get(id)
  }

  ids(): string[] {
    return [...this.#byId.keys()]
  }

  arrive(request: EngineRequest, blockTokens: number, nowMs: number): Sequence {
    const tenant = this.ledger.arrive(request.tenant, this.queue.floor())
    const sequence = new Sequence(request, tenant, this.#arrivals++, nowMs, blockTokens)
    this.#byId.set(request.id, sequence)
    this.#enqueue(sequence, nowMs)
    return sequence
  }

  join(sequence: Sequence, nowMs: number): void {
    sequence.watch.charge(sequence.started ? 'preemptedMs' : 'queueMs', nowMs)
    this.queue.remove(sequence)
    this.#waitingTokens -= sequence.owed
    sequence.rank = sequence.effectiveClass
    sequence.state = 'running'
    this.running.insert(sequence)
    sequence.tenant.running++
    if (!sequence.started) this.#waits.started(sequence, nowMs)
    sequence.started = true
  }

  /**
   * The victim keeps no block, but its published ones stay findable, and the pool evicts those at its tail
   * first: what it has lost when it returns is as little as the others needed.
   */
  preempt(victim: Sequence, iteration: number, nowMs: number): void {
    assert(victim.plannedIteration !== iteration, 'nobody is preempted who is in the plan already')
    victim.chargeTime(iteration, nowMs)
    this.#leaveBatch(victim)
    victim.computed = 0
    this.#enqueue(victim, nowMs)
    this.preemptions++
  }

  end(sequence: Sequence, reason: FinishReason, iteration: number, nowMs: number): Finish {
    sequence.chargeTime(iteration, nowMs)
    if (sequence.state === 'running') {
      this.#leaveBatch(sequence)
    } else {
      this.queue.remove(sequence)
      this.#waitingTokens -= sequence.owed
    }
    sequence.state = 'ended'
    this.#byId.delete(sequence.id)
    return sequence.finish(reason)
  }

  /** Throws unless all blocks are accounted for; O(blocks), for idle moments. */
  audit(): void {
    this.#pool.audit()
    if (this.running.size > 0) return
    // Pins of one chain share its head, so they hold at most as many blocks as they count.
    assert(this.#pool.held <= this.#cache.pinnedBlocks, 'only pins hold blocks while nobody runs')
  }

  #leaveBatch(sequence: Sequence): void {
    this.running.remove(sequence)
    sequence.tenant.running--
    this.#cache.release(sequence)
  }

  #enqueue(sequence: Sequence, nowMs: number): void {
    sequence.state = 'waiting'
    this.queue.push(sequence, nowMs)
    this.#waitingTokens += sequence.owed
  }
}
