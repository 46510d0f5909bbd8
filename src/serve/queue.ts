import { assert } from '../base/assert.ts'
import { type HeapItem, IndexedHeap } from './heap.ts'
import { priorityClasses, type Sequence } from './sequence.ts'
import type { Tenant } from './tenants.ts'

/** A chain of waiting requests of one tenant that asked for one class, oldest first. */
class Chain {
  first: Sequence | undefined
  last: Sequence | undefined

  /** Keeps the order of arrival. A newcomer goes to the end at once; the preempted ones are few, at the front. */
  insert(sequence: Sequence): void {
    let behind = this.last
    if (behind !== undefined && behind.arrival > sequence.arrival) {
      behind = undefined
      for (let s = this.first; s !== undefined && s.arrival < sequence.arrival; s = s.laneNext) behind = s
    }
    const before = behind === undefined ? this.first : behind.laneNext
    sequence.lanePrevious = behind
    sequence.laneNext = before
    if (behind === undefined) this.first = sequence
    else behind.laneNext = sequence
    if (before === undefined) this.last = sequence
    else before.lanePrevious = sequence
  }

  remove(sequence: Sequence): void {
    const { laneNext: next, lanePrevious: previous } = sequence
    if (previous === undefined) this.first = next
    else previous.laneNext = next
    if (next === undefined) this.last = previous
    else next.lanePrevious = previous
    sequence.laneNext = undefined
    sequence.lanePrevious = undefined
  }
}

/** What one tenant has waiting in one effective class: a chain per class that was asked for. */
class Lane implements HeapItem {
  heapIndex = -1
  /** The tenant's counter when the heap last looked; counters only grow, so this is a lower bound. */
  key: number
  size = 0
  readonly tenant: Tenant
  readonly #chains: (Chain | undefined)[] = []

  constructor(tenant: Tenant) {
    this.tenant = tenant
    this.key = tenant.served
  }

  insert(sequence: Sequence): void {
    ;(this.#chains[sequence.priority] ??= new Chain()).insert(sequence)
    this.size++
  }

  remove(sequence: Sequence): void {
    this.#chains[sequence.priority]!.remove(sequence)
    this.size--
  }

  oldest(): Sequence | undefined {
    let oldest: Sequence | undefined
    for (const chain of this.#chains) {
      const head = chain?.first
      if (head !== undefined && (oldest === undefined || head.arrival < oldest.arrival)) oldest = head
    }
    return oldest
  }
}

/** All that waits in one effective class, least served tenant first. */
class ClassQueue {
  readonly lanes = new Map<Tenant, Lane>()
  size = 0
  readonly #heap = new IndexedHeap<Lane>(
    (a, b) => a.key < b.key || (a.key === b.key && a.tenant.number < b.tenant.number),
  )

  insert(sequence: Sequence): void {
    let lane = this.lanes.get(sequence.tenant)
    if (lane === undefined) {
      lane = new Lane(sequence.tenant)
      this.lanes.set(sequence.tenant, lane)
      this.#heap.push(lane)
    }
    lane.insert(sequence)
    this.size++
  }

  remove(sequence: Sequence): void {
    const lane = this.lanes.get(sequence.tenant)
    assert(lane !== undefined, 'a waiting request is in the lane of its tenant')
    lane.remove(sequence)
    this.size--
    if (lane.size > 0) return
    this.lanes.delete(sequence.tenant)
    this.#heap.remove(lane)
  }

  leastServed(): Lane | undefined {
    let lane = this.#heap.peek()
    while (lane !== undefined && lane.key < lane.tenant.served) {
      lane.key = lane.tenant.served
      this.#heap.update(lane)
      lane = this.#heap.peek()
    }
    return lane
  }
}

export interface QueueLimits {
  /** Waiting so long improves the class by one; Infinity never does. */
  ageingMs: number
  /** A request that has not started after so long is given up; Infinity never. */
  queueLimitMs: number
}

// A burst that ages all at once is moved over several iterations, to keep each of them short.
const wakesPerPlan = 64

/**
 * Who is next. Classes first, where waiting improves the class so that none starves; within a class the
 * tenant that got least service; within a tenant and a class asked for, first come, first served.
 *
 * No operation looks at all that waits.
 */
export class WaitingQueue {
  readonly #limits: QueueLimits
  readonly #classes = Array.from({ length: priorityClasses }, () => new ClassQueue())
  readonly #wakes = new IndexedHeap<Sequence>((a, b) => a.wakeMs < b.wakeMs)
  #size = 0
  #floor = 0

  constructor(limits: QueueLimits) {
    this.#limits = limits
  }

  get size(): number {
    return this.#size
  }

  /** The counter of the least served tenant that waits; when nobody waits, of the one that left last. */
  floor(): number {
    let floor = Number.POSITIVE_INFINITY
    for (const queue of this.#classes) floor = Math.min(floor, queue.leastServed()?.tenant.served ?? floor)
    return floor === Number.POSITIVE_INFINITY ? this.#floor : floor
  }

  push(sequence: Sequence, nowMs: number): void {
    const steps = Math.floor((nowMs - sequence.arrivedMs) / this.#limits.ageingMs)
    sequence.effectiveClass = Math.min(sequence.rank, Math.max(0, sequence.priority - steps))
    sequence.tenant.waiting++
    this.#size++
    this.#enter(sequence)
  }

  remove(sequence: Sequence): void {
    this.#classes[sequence.effectiveClass]!.remove(sequence)
    this.#wakes.remove(sequence)
    sequence.tenant.waiting--
    this.#size--
    this.#floor = Math.max(this.#floor, sequence.tenant.served)
  }

  peek(): Sequence | undefined {
    for (const queue of this.#classes) {
      const lane = queue.leastServed()
      if (lane !== undefined) return lane.oldest()
    }
    return undefined
  }

  /** Improves the class of those that waited long enough; returns those that waited too long, to be removed. */
  overdue(nowMs: number): Sequence[] {
    const overdue: Sequence[] = []
    for (let wakes = 0; wakes < wakesPerPlan; wakes++) {
      const sequence = this.#wakes.peek()
      if (sequence === undefined || sequence.wakeMs > nowMs) break
      if (sequence.wakeMs >= this.#deadlineMs(sequence)) {
        this.#wakes.remove(sequence)
        overdue.push(sequence)
      } else {
        this.#wakes.remove(sequence)
        this.#classes[sequence.effectiveClass]!.remove(sequence)
        sequence.effectiveClass--
        this.#enter(sequence)
      }
    }
    return overdue
  }

  /** About how many requests start before `sequence` does, if nobody else comes. */
  ahead(sequence: Sequence): number {
    let better = 0
    for (let c = 0; c < sequence.effectiveClass; c++) better += this.#classes[c]!.size
    const own = this.#classes[sequence.effectiveClass]!
    // Tenants take turns, so those behind the n-th of this tenant do not count.
    const turns = (own.lanes.get(sequence.tenant)?.size ?? 1) * own.lanes.size
    return better + Math.min(own.size, turns) - 1
  }

  #enter(sequence: Sequence): void {
    this.#classes[sequence.effectiveClass]!.insert(sequence)
    const steps = sequence.priority - sequence.effectiveClass + 1
    const ageMs = sequence.effectiveClass === 0 ? Number.POSITIVE_INFINITY : steps * this.#limits.ageingMs
    sequence.wakeMs = Math.min(sequence.arrivedMs + ageMs, this.#deadlineMs(sequence))
    if (sequence.wakeMs < Number.POSITIVE_INFINITY) this.#wakes.push(sequence)
  }

  #deadlineMs(sequence: Sequence): number {
    return sequence.started ? Number.POSITIVE_INFINITY : sequence.arrivedMs + this.#limits.queueLimitMs
  }
}
